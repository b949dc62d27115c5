"""A store begun ahead of need: used when it is finished, and never seen before."""

from __future__ import annotations

from pathlib import Path

import pytest

from clframe.errors import ConfigError
from clframe.tracking.mlflow import drafting, prepare
from clframe.tracking.mlflow import target as module


def test_a_draft_becomes_the_store_and_nothing_is_migrated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    with drafting(runs, None) as draft:
        made = draft.path()
        assert made is not None and not runs.exists(), "others see nothing before it is needed"

        def again(_: str) -> None:
            raise AssertionError("migrated twice")

        monkeypatch.setattr(module, "migrate", again)
        target = prepare(runs, None, "clframe", draft.path)
    assert not made.exists() and not made.parent.exists()
    assert prepare(runs, None, "clframe") == target
    assert prepare(runs, None, "another").experiment_id != target.experiment_id


def test_a_draft_that_fails_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"

    def broken(_: str) -> None:
        raise OSError("no space there")

    with monkeypatch.context() as patch:
        patch.setattr("clframe.tracking.mlflow.ahead.migrate", broken)
        with drafting(runs, None) as draft:
            assert draft.path() is None
            assert prepare(runs, None, "clframe", draft.path).experiment_id


def test_a_store_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    target = prepare(runs, None, "clframe")
    before = (runs / "mlflow.db").read_bytes()
    with drafting(runs, None) as draft:
        assert draft.path() is None
    assert (runs / "mlflow.db").read_bytes() == before
    with drafting(runs, target.uri) as draft:
        assert draft.path() is None


def test_a_server_needs_no_draft(tmp_path: Path) -> None:
    with drafting(tmp_path, "http://127.0.0.1:9") as draft:
        assert draft.path() is None


def test_a_store_in_memory_is_refused_before_anything_begins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no file"), drafting(tmp_path, "sqlite://"):
        raise AssertionError("begun")
