"""Scenarios by name, made as a run makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clframe.config.load import load_run
from clframe.config.resolve import resolve_options, scenario_arguments
from clframe.core.experience import Stream
from clframe.data.stream import build_stream

NEEDS = {  # what plug-ins want that have no preset's options
    "split": ["options.split.dataset=digits"],
    "blurry": ["options.blurry.dataset=digits"],
    "permuted": ["options.permuted.dataset=digits"],
    "rotated": ["options.rotated.dataset=digits"],
    "image_folder": ["options.image_folder.experiences=2", "options.image_folder.size=8"],
}


def build(name: str, root: Path | None, *words: str, split: Any = "test", seed: int = 0) -> Stream:
    """The stream of scenario `name`, made as a run makes it."""
    where = [f"data.root={root}"] if root else []
    if name == "image_folder" and root:
        where.append(f"options.image_folder.path={root / 'photos'}")
    words = (f"scenario={name}", "strategy=fine_tune", f"seed={seed}", *NEEDS.get(name, ()), *words)
    cfg = load_run([*words, *where])
    (choice,) = resolve_options(cfg, "scenario")
    return build_stream(name, choice.plugin.load()(**scenario_arguments(cfg)), split=split)
