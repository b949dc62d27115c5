"""The audit of a grid: every finished run that was told to forget, judged by its companions."""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clframe.audit import attacks
from clframe.audit.judge import Case, judge
from clframe.config.companions import Audit, asks_to_forget, retrained, unasked
from clframe.config.grid import load_grid
from clframe.config.identity import run_id
from clframe.config.schema import RunConfig
from clframe.errors import ClframeError, ConfigError
from clframe.tracking.files import replace_file
from clframe.tracking.store import RunStore

FILE = "audit.json"
FEWEST = 3  # pairs of shadow models from which there is a number at all, with a warning


def audit(folder: Path, workers: int = 1) -> int:
    """Judge every cell of a grid's folder that can be; returns 0, or 1 where some could not.

    Writes `audit.json` into each cell's folder: what needs the models, for the report. A cell that
    was judged before, by models that have not changed since, is left as it is.
    """
    spec = load_grid(folder / "grid.yaml")
    if spec.audit is None:
        raise ConfigError(f"{folder}/grid.yaml: audit is not asked for; add `audit: true` to it")
    cases, missing = _cases(folder, spec.cells())
    for line in missing:
        print(f"not judged: {line}")
    due = [case for case in cases if _is_due(case, spec.audit)]
    print(f"audit: {len(cases)} runs, {len(due)} to judge")
    failed = len(missing)
    for number, (case, problem, seconds) in enumerate(_judged(due, spec.audit, workers), 1):
        failed += problem is not None
        said = f"failed: {problem}" if problem else "judged"
        print(f"[{number}/{len(due)}] {seconds:6.1f} s  {said}  {case.folder.name}", flush=True)
    _compare_shadows(cases, spec.audit)
    return int(failed > 0)


def _cases(folder: Path, cells: Sequence[RunConfig]) -> tuple[list[Case], list[str]]:
    """The runs with all their companions, and what is missing of the others."""
    found, missing = [], []
    for cfg in cells:
        if not asks_to_forget(cfg):
            continue
        places = [folder / run_id(c) for c in (cfg, retrained(cfg), unasked(cfg))]
        absent = [p.name for p in places if not p.exists() or RunStore(p).state() != "done"]
        if absent:
            missing.append(f"{places[0].name}: {', '.join(absent)} not done")
        else:
            found.append(Case(cfg, places[0], places[1], places[2], ()))
    groups: dict[str, set[Path]] = defaultdict(set)
    for case in found:
        groups[_kin(case)].add(case.retrained)
    return [
        Case(c.cfg, c.folder, c.retrained, c.unasked, tuple(sorted(groups[_kin(c)]))) for c in found
    ], missing


def _kin(case: Case) -> str:
    """Equal for runs that differ in nothing but the seed and have met the same data."""
    cfg = retrained(case.cfg).model_copy(update={"seed": 0})
    data = RunStore(case.folder).read_record().data
    met = sorted((e["origin"], e["train_sha256"], e["eval_sha256"]) for e in data["experiences"])
    return json.dumps([run_id(cfg), data["class_order"], met])


def _is_due(case: Case, how: Audit) -> bool:
    done = case.folder / FILE
    if not done.is_file() or json.loads(done.read_text()).get("how") != how.model_dump():
        return True
    models = [case.folder, case.unasked, *case.peers]
    return any((m / "last.ckpt").stat().st_mtime > done.stat().st_mtime for m in models)


def _judged(
    cases: Sequence[Case], how: Audit, workers: int
) -> Iterator[tuple[Case, str | None, float]]:
    if workers == 1 or len(cases) < 2:
        for case in cases:
            yield case, *_write(case, how)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        sent = {pool.submit(_write, case, how): case for case in cases}
        for future in as_completed(sent):
            yield sent[future], *future.result()


def _write(case: Case, how: Audit) -> tuple[str | None, float]:
    """Judge one case; what went wrong, and the seconds it took."""
    begun = time.perf_counter()
    torch.set_num_threads(case.cfg.threads)
    try:
        found = judge(case, how)
    except ClframeError as error:
        return str(error), time.perf_counter() - begun
    except Exception as error:  # models are other people's code: the other runs go on
        return f"{type(error).__name__}: {error}", time.perf_counter() - begun
    found["how"] = how.model_dump()
    replace_file(case.folder / FILE, json.dumps(_plain(found), allow_nan=False))
    return None, time.perf_counter() - begun


def _plain(value: Any) -> Any:
    """As JSON has it: an infinite number is text, one that is undefined is null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _compare_shadows(cases: Sequence[Case], how: Audit) -> None:
    """U-LiRA over the seeds of each method: each pair is attacked through the others."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for case in cases:
        if (case.folder / FILE).is_file() and not _is_due(case, how):
            own = case.cfg.model_copy(update={"seed": 0})
            groups[run_id(own) + _kin(case)].append(case.folder / FILE)
    for files in groups.values():
        found = [json.loads(f.read_text()) for f in files]
        if not all("confidence" in f for f in found):
            continue
        pairs = [[f["confidence"][name] for f in found] for name in ("unlearned", "retrained")]
        attack = attacks.lira(pairs[0], pairs[1], allow_fewer=len(files) >= FEWEST)
        for path, one in zip(files, found, strict=True):
            replace_file(path, json.dumps({**one, "lira": _plain(attack._asdict())}))
