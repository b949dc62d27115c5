"""Reachability: one server that answers is enough, and nobody is waited for beyond the limit."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator

import pytest

from clframe.sources.network import unreachable

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, whatever this machine has."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[str]:
    """A server that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/files/"


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"https://127.0.0.1:{listening.getsockname()[1]}/"


def test_a_server_that_takes_connections_is_reachable(server: str) -> None:
    assert unreachable([server]) is None


def test_one_of_several_is_enough(server: str, nobody: str) -> None:
    assert unreachable([nobody, server]) is None


def test_why_each_failed_is_told(nobody: str) -> None:
    said = unreachable([nobody, nobody + "same/place"])
    assert said == "127.0.0.1: Connection refused"


def test_one_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up a name may hang far beyond any time-out."""
    hanging = threading.Event()

    def hang(address: object, timeout: float) -> None:
        hanging.wait(60)
        raise OSError(errno.ETIMEDOUT, "too late")

    monkeypatch.setattr(socket, "create_connection", hang)
    assert unreachable(["https://far.example/"], 0.05) == "far.example: no answer in 0.05 s"
    hanging.set()


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
def test_a_proxy_is_asked_in_place_of_the_server(
    server: str, nobody: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, server)
    assert unreachable(["http://far.example/"]) is None
    monkeypatch.setenv(name, nobody)
    assert unreachable(["http://far.example/"]) == "127.0.0.1: Connection refused"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert unreachable([server]) is None


def test_without_addresses_there_is_nobody_to_ask() -> None:
    assert unreachable([]) is None
