"""What a checkpoint holds, and how a run or a reader comes back from it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from clframe.core.experience import Experience, Samples, Stream
from clframe.core.rng import clock
from clframe.core.strategy import Strategy
from clframe.engine.module import Position
from clframe.errors import DataError

VERSION = 3


def outline(stream: Stream) -> str:
    """The data-free facts of a stream as JSON, enough to rebuild the strategy without the data.

    As text, since torch asks about each object that it pickles: with a thousand experiences that
    took longer than training one of them.
    """
    facts = {
        "num_classes": stream.num_classes,
        "setting": stream.setting,
        "shape": stream.shape,
        "mean": stream.mean,
        "std": stream.std,
        "experiences": stream.order(),
    }
    return json.dumps(facts)


def hollow(facts: dict[str, Any]) -> list[Experience]:
    """Experiences without data, from the facts of `outline`."""
    shape = (0, *facts["shape"])
    nothing = torch.zeros(0, dtype=torch.long)
    empty = Samples(torch.zeros(shape, dtype=torch.uint8), nothing, nothing, nothing)
    return [
        Experience(
            index=e["index"],
            kind=e["kind"],
            tasks=tuple(e["tasks"]),
            classes=tuple(e["classes"]),
            train=empty,
            eval=empty,
            origin=e["origin"],
            forgets=tuple(e["forgets"]),
        )
        for e in facts["experiences"]
    ]


def save(path: Path, *, position: Position, strategy: dict[str, Any], **rest: Any) -> None:
    """Write a checkpoint in one atomic step; tensors and plain values only."""
    state = {"version": VERSION, "position": asdict(position), "strategy": strategy}
    draft = path.with_suffix(".tmp")
    with open(draft, "wb") as file:
        torch.save(state | rest, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint. Raises DataError when it is missing, damaged or of another version."""
    if not path.is_file():
        raise DataError(f"{path}: no checkpoint there yet; run the cell first.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files
        raise DataError(f"{path}: not a readable checkpoint ({error}).") from error
    if state.get("version") != VERSION:
        raise DataError(
            f"{path}: checkpoint version {state.get('version')}, this clframe reads {VERSION}; "
            "delete the folder to run the cell again."
        )
    state["stream"] = json.loads(state["stream"])
    return state


def prepare(strategy: Strategy, experiences: Sequence[Experience], upto: int, seed: int) -> None:
    """Run `prepare` for the stream positions 0..upto, as the run did, so that a state dict fits."""
    for exp in experiences[: upto + 1]:
        if exp.kind == "learn":
            clock.set(seed, exp.origin, "prepare")
            strategy.prepare(exp)
