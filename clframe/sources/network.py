"""Whether a server can be reached: asked first, where a library would try on for a minute."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

SECONDS = 5.0
PORTS = {"http": 80, "https": 443}
PROXY_PORT = 1080


def unreachable(urls: Iterable[str], seconds: float = SECONDS) -> str | None:
    """Why nobody behind `urls` takes a connection in time; None as soon as one does.

    Where a proxy stands in between, the proxy is asked. Without `urls` there is nobody to ask.
    """
    addresses = list(dict.fromkeys(map(_address, urls)))
    answers: SimpleQueue[tuple[str, str | None]] = SimpleQueue()
    for host, port in addresses:  # looking a name up obeys no time-out, so not in this thread
        Thread(target=_call, args=(host, port, seconds, answers), daemon=True).start()
    failures = {host: f"no answer in {seconds:g} s" for host, _ in addresses}
    deadline = time.monotonic() + seconds
    for _ in addresses:
        try:
            host, failure = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            break
        if failure is None:
            return None
        failures[host] = failure
    return "; ".join(f"{host}: {failure}" for host, failure in failures.items()) or None


def _address(url: str) -> tuple[str, int]:
    """Where a connection for `url` goes."""
    parts = urlsplit(url)
    port = parts.port or PORTS.get(parts.scheme, PROXY_PORT)
    host = parts.hostname or ""
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host):
        return host, port
    between = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return between.hostname or "", between.port or PORTS.get(between.scheme, PROXY_PORT)


def _call(
    host: str, port: int, seconds: float, answers: SimpleQueue[tuple[str, str | None]]
) -> None:
    try:
        socket.create_connection((host, port), seconds).close()
        answers.put((host, None))
    except OSError as error:
        answers.put((host, error.strerror or str(error) or type(error).__name__))
