"""Whether a plug-in keeps its promises: it trains, repeats itself, resumes, spreads, forgets."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from clframe.config.identity import UNNORMED
from clframe.config.load import load_run
from clframe.config.schema import RunConfig
from clframe.errors import PluginError, nearest
from clframe.grid.differences import CLOSE, acts_as_base, difference, distance
from clframe.grid.launch import Launch, ask, environment
from clframe.grid.preflight import preflight
from clframe.grid.runner import write_config
from clframe.grid.supervise import CellOutcome, Follower, begin, launcher, supervise
from clframe.registry import Kind, Plugin, plugin_names
from clframe.tracking.store import RunStore

SMALL = ["epochs=2", "batch_size=8", "eval.subset=20", "checkpoint=7", "forget_data=true"]
SMALL += ["track.enabled=false"]
PLAIN = "clframe.api:Strategy"  # fine-tuning
PER_CLASS = 40
GROWN = 1e-6  # how far rounding may grow where there is batch norm
ORDER: dict[Kind, str] = {"strategy": "L0 L1 F0 L2 F1", "scenario": "L0 F0"}
LONGER = 3  # times the epochs are doubled for a run that ends before it can be killed


When = Callable[[Path], int]  # at which update to kill a run like the one in a folder


class Finding(NamedTuple):
    """One promise, whether it was kept, and the evidence."""

    kept: bool
    promise: str
    said: str


def check(name: str, words: Sequence[str] = (), launch: Launch | None = None) -> int:
    """Try a plug-in on a small stream and print a line per promise; 0 if all were kept, else 1.

    `words` are `key=value`, for options that have no default or another scenario.
    """
    kind = kind_of(name)
    cfg = load_run([*_defaults(kind, name), *SMALL, *words])
    folder = Path(tempfile.mkdtemp(prefix="clframe-check-"))
    kept = True
    for finding in _findings(kind, cfg, folder, launch):
        kept &= finding.kept
        print(f"{_mark(finding.kept)} {finding.promise:17} {finding.said}", flush=True)
    if kept:
        shutil.rmtree(folder)
    else:
        print(f"the runs are in {folder}")
    return int(not kept)


def kind_of(name: str) -> Kind:
    """Whether `name` is a strategy (or a chain of them) or a scenario."""
    last = name.rpartition("+")[2]
    strategies, scenarios = plugin_names("strategy"), plugin_names("scenario")
    if last in scenarios and last not in strategies:
        return "scenario"
    if last in strategies or ":" in name:
        return "strategy"
    known = [*strategies, *scenarios]
    raise PluginError(
        f"no strategy or scenario named {name!r}.{nearest(name, known)}\n"
        f"Known: {', '.join(known)}.\nBegin one with: clframe new strategy {name}"
    )


def _defaults(kind: Kind, name: str) -> list[str]:
    from clframe.config.resolve import choices
    from clframe.registry import find

    if kind == "strategy":
        last = name.rpartition("+")[2]
        own = _plugin(last) if last in plugin_names(kind) else None
        chain = f"{name}+{PLAIN}" if own and own.is_wrapper else name
        limit = f"options.split_digits.train_limit={PER_CLASS}"
        net = [f"net.name={own.usual_net}"] if own and own.usual_net else []
        setting = own.usual_setting if own else None
        labels = [f"options.split_digits.setting={setting}"] if setting else []
        return [f"strategy={chain}", "scenario=split_digits", limit, *net, *labels]
    (choice,) = choices(kind, name, {})
    takes = {o.name for o in find(kind, choice.plugin.name).options}
    fewer = [f"options.{name}.train_limit={PER_CLASS}"] if "train_limit" in takes else []
    return [f"strategy={PLAIN}", f"scenario={name}", *fewer]


def _plugin(name: str) -> Plugin:
    """The strategy called `name`, or the one whose preset that is."""
    from clframe.config.resolve import read_preset
    from clframe.registry import find, preset_files

    path = preset_files("strategy").get(name)
    return find("strategy", read_preset("strategy", path)[0] if path else name)


def _findings(kind: Kind, cfg: RunConfig, folder: Path, launch: Launch | None) -> Iterator[Finding]:
    if launch is None:
        preflight([cfg])
    first = _train(cfg, folder / "first", launch)
    yield _finding("trains", first, _numbers(first))
    if first.status != "done":
        return
    second = _train(cfg, folder / "second", launch)
    same = ask(difference, folder / "first", folder / "second") if second.status == "done" else None
    yield _finding(
        "is deterministic", second, "two runs: " + (same or "equal traces and weights"), same
    )
    repeats = same is None and second.status == "done"
    if repeats:  # else no resumed run could be compared with it
        yield _resumes(cfg, folder / "first", _half, launch)
    yield _same_on_two(cfg, folder, launch)
    order = cfg.model_copy(update={"requests": ORDER[kind]})
    forgets = _train(order, folder / "forgets", launch)
    idle = _changes_nothing(cfg, folder, launch) if forgets.status == "done" else None
    yield _finding("forgets", forgets, idle or f"requests: {ORDER[kind]}", idle)
    if repeats and idle is None and forgets.status == "done" and kind == "strategy":
        yield _resumes(order, folder / "forgets", _after_request, launch)


def _changes_nothing(cfg: RunConfig, folder: Path, launch: Launch | None) -> str | None:
    """What is wrong with a wrapper that only forgets and after a request equals its base alone."""
    first, _, base = cfg.strategy.partition("+")
    if not (base and _plugin(first).only_forgets):
        return None
    pair = folder / "asked", folder / "not-asked"
    for at, strategy in zip(pair, (cfg.strategy, base), strict=True):
        options = {k: v for k, v in cfg.options.items() if strategy != base or k != first}
        asked = {"requests": "L0 L1 F0", "strategy": strategy, "options": options}
        if _train(cfg.model_copy(update=asked), at, launch).status != "done":
            return None
    same = ask(acts_as_base, *pair)
    return f"a request changes nothing: all is as with {base} alone" if same else None


def _finding(
    promise: str, outcome: CellOutcome, said: str, difference: str | None = None
) -> Finding:
    if outcome.status != "done":
        return Finding(False, promise, (outcome.error or outcome.status).splitlines()[0])
    return Finding(difference is None, promise, said)


def _train(cfg: RunConfig, folder: Path, launch: Launch | None) -> CellOutcome:
    write_config(cfg, folder)
    return supervise(folder, None, launch=launch)


def _numbers(outcome: CellOutcome) -> str:
    record = RunStore(outcome.log_path.parent).read_record()
    final = record.metrics.get("acc_final")
    return f"{record.iteration} updates" + (f", final accuracy {final:.3f}" if final else "")


def _resumes(cfg: RunConfig, whole: Path, when: When, launch: Launch | None) -> Finding:
    """Kill a run on its way, run it again, and compare with `whole`, which was left alone."""
    promise, folder = "resumes", whole.parent
    for attempt in range(LONGER):
        at = folder / f"{whole.name}-killed-{attempt}"
        write_config(cfg, at)
        killed = _kill(cfg, at, when(whole), launch)
        if killed is not None:
            break
        cfg = cfg.model_copy(update={"epochs": cfg.epochs * 2})
        whole = folder / f"{whole.name}-{attempt}"
        _train(cfg, whole, launch)
    else:
        if when is _after_request:  # a strategy may learn all that follows in an instant
            return Finding(True, promise, "not tried behind a request: the run ends at once")
        return Finding(False, promise, "the run ends before it can be killed; give more epochs")
    outcome = supervise(at, None, launch=launch)
    found = ask(difference, whole, at) if outcome.status == "done" else None
    place = " behind a request" if when is _after_request else ""
    lost = f"{found}; perhaps what no parameter, buffer, submodule or get_extra_state holds"
    said = f"killed at update {killed}{place}: {lost if found else 'equal traces and weights'}"
    return _finding(promise, outcome, said, found)


def _half(whole: Path) -> int:
    return RunStore(whole).read_record().iteration // 2


def _after_request(whole: Path) -> int:
    """An update behind the first request, at whose end a checkpoint is written."""
    record = RunStore(whole).read_record()
    kinds = [row["kind"] for row in record.data["experiences"]]
    upto = kinds.index("forget") + 1
    behind = sum(row["updates"] for row in record.spent[:upto]) + 1
    return min(behind, record.iteration - 1)


def _same_on_two(cfg: RunConfig, folder: Path, launch: Launch | None) -> Finding:
    """Train on one rank and on two, in double precision, and compare the numbers.

    Batches have an odd size, so that the ranks' shares differ and a mean over one's own rows shows.
    Through batch norm, rounding grows with every update: there the bound is a wider one.
    """
    if cfg.net.batch_norm == "local" and cfg.net.name not in UNNORMED:
        said = "not tried: with net.batch_norm=local the numbers depend on the ranks"
        return Finding(True, "spreads", said)
    close = CLOSE if cfg.net.name in UNNORMED else GROWN
    said = f"2 ranks, float64: losses and weights within {close:g} of 1 rank's, equal traces"
    exact = cfg.model_copy(update={"precision": "64", "accelerator": "cpu", "threads": 1})
    exact = exact.model_copy(update={"batch_size": cfg.batch_size | 1})
    for ranks, name in ((1, "one"), (2, "two")):
        alike = exact.model_copy(update={"devices": ranks, "num_nodes": 1})
        outcome = _train(alike, folder / name, launch)
        if outcome.status != "done":
            break
    done = outcome.status == "done"
    found = ask(distance, folder / "one", folder / "two", close) if done else None
    return _finding("spreads", outcome, f"2 ranks: {found}" if found else said, found)


def _kill(cfg: RunConfig, folder: Path, at: int, launch: Launch | None) -> int | None:
    """Start the run and kill it at update `at` or later; where it was, None if it ended before."""
    store, follow = RunStore(folder), Follower(folder)
    begin(store)
    start = launcher(cfg, launch)
    handle = start(folder, environment(cfg.threads), store.log_path)
    while handle.poll() is None:
        step = follow()
        if at <= step.iteration < step.total:
            handle.kill()
        time.sleep(0.002)
    if store.read_record().status != "running":
        return None
    return follow().iteration


def _mark(kept: bool) -> str:
    mark = "✓" if kept else "✗"
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "ok  " if kept else "FAIL"
    return mark
