"""The audit of a grid: every finished run that was told to forget, judged by its companions."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clframe.audit import attacks
from clframe.audit.bench import Bench, Case
from clframe.audit.judge import judge
from clframe.config.companions import Audit, asks_to_forget, retrained, unasked
from clframe.config.grid import load_grid
from clframe.config.identity import run_id
from clframe.config.schema import RunConfig
from clframe.errors import ClframeError, ConfigError, DataError
from clframe.tracking.files import plain, replace_file
from clframe.tracking.store import RunStore

FEWEST = 3  # pairs of shadow models from which there is a number at all, with a warning


def audit(folder: Path, workers: int = 1) -> int:
    """Judge every cell of a grid's folder that can be; returns 0, or 1 where some could not.

    Writes `audit.json` into each cell's folder: what needs the models, for the report. A cell that
    was judged before, as now and by the same models, is left as it is; what no longer holds of
    others is removed before anything begins.
    """
    spec = load_grid(folder / "grid.yaml")
    if spec.audit is None:
        raise ConfigError(f"{folder}/grid.yaml: audit is not asked for; add `audit: true` to it")
    cases, missing = _cases(folder, spec.cells())
    for line in missing:
        print(f"not judged: {line}")
    asked = {case.folder: _question(case, spec.audit) for case in cases}
    due = [
        case
        for case in cases
        if RunStore(case.folder).read_audit().get("asked") != asked[case.folder]
    ]
    for case in due:
        RunStore(case.folder).audit_path.unlink(missing_ok=True)
    print(f"audit: {len(cases)} runs, {len(due)} to judge")
    alone = sum(len(case.peers) < 2 for case in cases)
    if alone:
        print(
            f"no noise floor for {alone} of them: no other seed has met the same data; run more "
            "seeds, and give the scenario one of its own (options.<scenario>.seed=0)"
        )
    failed = len(missing)
    for number, (case, found, seconds) in enumerate(_judged(due, spec.audit, workers), 1):
        if isinstance(found, str):
            failed, end = failed + 1, f"failed: {found}"
        else:
            _write(case.folder, found | {"asked": asked[case.folder]})
            end = "judged" if found else "nothing is forgotten at its end"
        print(f"[{number}/{len(due)}] {seconds:6.1f} s  {end}  {case.folder.name}", flush=True)
    _compare_shadows(cases)
    return int(failed > 0)


def _write(folder: Path, found: Mapping[str, Any]) -> None:
    store = RunStore(folder)
    replace_file(store.audit_path, json.dumps(plain(found, infinities=True), allow_nan=False))
    if store.upload_path.exists():  # it is shown in MLflow, which does not know this yet
        store.pending_path.touch()


def _cases(folder: Path, cells: Sequence[RunConfig]) -> tuple[list[Case], list[str]]:
    """The runs with all their companions, and what is missing of the others."""
    found, missing = [], []
    for cfg in cells:
        if not asks_to_forget(cfg):
            continue
        places = [folder / run_id(c) for c in (cfg, retrained(cfg), unasked(cfg))]
        absent = [p.name for p in places if _state(p) != "done"]
        if absent:
            missing.append(f"{places[0].name}: {', '.join(absent)} not done")
        else:
            found.append(Case(cfg, places[0], places[1], places[2], ()))
    kin = [_kin(case) for case in found]
    peers: dict[str, set[Path]] = defaultdict(set)
    for case, group in zip(found, kin, strict=True):
        peers[group].add(case.retrained)
    return [
        replace(case, peers=tuple(sorted(peers[group])))
        for case, group in zip(found, kin, strict=True)
    ], missing


def _state(folder: Path) -> str:
    try:
        return RunStore(folder).state() if folder.exists() else "missing"
    except DataError:
        return "broken"


def _kin(case: Case) -> str:
    """Equal for runs that differ in nothing but the seed and have met the same data."""
    cfg = retrained(case.cfg).model_copy(update={"seed": 0})
    data = RunStore(case.folder).read_record().data
    met = sorted((e["origin"], e["train_sha256"], e["eval_sha256"]) for e in data["experiences"])
    return json.dumps([run_id(cfg), data["class_order"], met])


def _question(case: Case, how: Audit) -> dict[str, Any]:
    """What is asked, and of which models by their contents, as JSON has it."""
    models = sorted({case.folder, case.retrained, case.unasked, *case.peers})
    return {"how": how.model_dump(), "models": {m.name: _digest(m / "last.ckpt") for m in models}}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


Verdict = tuple[Case, dict[str, Any] | str, float]  # what was found or went wrong, and the seconds


def _judged(cases: Sequence[Case], how: Audit, workers: int) -> Iterator[Verdict]:
    """Case by case; those that share their companions one after the other, in one process."""
    groups: dict[Any, list[Case]] = defaultdict(list)
    for case in cases:
        requests = tuple(r.model_dump_json() for r in case.cfg.request_list() or [])
        groups[case.retrained, case.unasked, case.peers, requests].append(case)
    if workers == 1 or len(groups) < 2:
        for group in groups.values():
            yield from _judge_all(group, how)
        return
    yield from _pooled([*groups.values()], how, workers)


def _pooled(groups: Sequence[list[Case]], how: Audit, workers: int) -> Iterator[Verdict]:
    """Judge in `workers` processes; one that is killed is replaced, and costs no other anything."""
    mine, stopped = threading.local(), threading.Event()
    arguments = (1, multiprocessing.get_context("spawn"), _leave_with, (os.getpid(),))

    def judged(group: list[Case]) -> list[Verdict]:
        begun = time.perf_counter()
        for _ in range(2):
            if stopped.is_set():
                break
            mine.pool = getattr(mine, "pool", None) or ProcessPoolExecutor(*arguments)
            try:
                return mine.pool.submit(_judge_listed, group, how).result()
            except BrokenProcessPool:
                mine.pool = None
        end = "its process was killed twice, for want of memory perhaps"
        return [(case, end, time.perf_counter() - begun) for case in group]

    threads = ThreadPoolExecutor(workers)
    try:
        for future in as_completed([threads.submit(judged, group) for group in groups]):
            yield from future.result()
    except BaseException:  # as at Ctrl-C: what runs is not waited for
        stopped.set()
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        threads.shutdown(cancel_futures=True)


def _leave_with(parent: int) -> None:
    """End this process soon after its parent, however that one has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _judge_listed(cases: Sequence[Case], how: Audit) -> list[Verdict]:
    return list(_judge_all(cases, how))


def _judge_all(cases: Sequence[Case], how: Audit) -> Iterator[Verdict]:
    """Judge cases that share their companions."""
    torch.set_num_threads(cases[0].cfg.threads)
    bench: Bench | None = None
    for case in cases:
        begun = time.perf_counter()
        found: dict[str, Any] | str
        try:
            bench = bench or Bench(case, how)
            found = plain(judge(case, bench), infinities=True)
        except ClframeError as error:
            found = str(error)
        except Exception as error:  # models are other people's code: the other runs go on
            found = f"{type(error).__name__}: {error}"
        yield case, found, time.perf_counter() - begun


def _compare_shadows(cases: Sequence[Case]) -> None:
    """U-LiRA over the seeds of each method: each pair is attacked through the others."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for case in cases:
        if "confidence" in RunStore(case.folder).read_audit():
            own = case.cfg.model_copy(update={"seed": 0})
            groups[run_id(own) + _kin(case)].append(case.folder)
    for folders in groups.values():
        found = [RunStore(folder).read_audit() for folder in folders]
        pairs = [[f["confidence"][name] for f in found] for name in ("unlearned", "retrained")]
        attack = attacks.lira(pairs[0], pairs[1], allow_fewer=len(found) >= FEWEST)
        if len(found) < FEWEST:
            attack = attack._replace(note=f"{attack.note}, or {FEWEST} for a number with a warning")
        told = plain(attack._asdict(), infinities=True)
        for folder, one in zip(folders, found, strict=True):
            if one.get("lira") != told:
                _write(folder, one | {"lira": told})
