"""Cases whose clock is on the wall: a grid, start-up; and what a long stream costs."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from contend import HERE, PYTHON, Finding, Options, environment, measure
from framework import words
from work import Work

CELLS = 2
CLFRAME = [PYTHON, "-m", "clframe"]


def grid(options: Options) -> list[Finding]:
    """Two cells through `clframe grid --workers 2` over two bare loops started together."""
    work = options.work(iters=300)
    whole, running, starting = [], [], []
    for r in range(options.rounds):
        sides = {"bare": bare_loops, "clframe": cells}
        order = sides if r % 2 == 0 else reversed(sides)
        wall = {side: sides[side](work) for side in order}
        for side in wall:
            facts = dict(zip(("all", "running"), wall[side], strict=True))
            print(json.dumps({"contender": side} | facts), flush=True)
        whole.append(wall["clframe"][0] / wall["bare"][0])
        running.append(wall["clframe"][1] / wall["bare"][1])
        starting.append(wall["clframe"][0] - wall["clframe"][1])
    each = f"{CELLS} cells, wall, clframe grid / bare loops"
    return [
        Finding(f"{each}, from the first update to the last cell's results", running, 1.1),
        Finding(f"{each}, start-up and MLflow's last upload included", whole),
        Finding("seconds of clframe grid before and after", starting),
    ]


def ranks(options: Options) -> list[Finding]:
    """Evaluation by two ranks over evaluation by one, in wall time of the evaluator itself."""
    work = options.work(iters=100)
    evaluated, all_of_it = [], []
    for r in range(options.rounds):
        order = (1, 2) if r % 2 == 0 else (2, 1)
        took = {n: _seconds(work, f"devices={n}") for n in order}
        for n in order:
            print(json.dumps({"contender": f"{n} ranks"} | took[n]), flush=True)
        evaluated.append(took[1]["evaluate"] / took[2]["evaluate"])
        all_of_it.append(took[1]["total"] / took[2]["total"])
    return [
        Finding("evaluation's wall time, 1 rank / 2 ranks", evaluated, 1.7, at_least=True),
        Finding("the whole run's, start-up included, 1 rank / 2 ranks", all_of_it),
    ]


def _seconds(work: Work, *more: str) -> dict[str, float]:
    """Where the seconds of a run went, by its own record."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        clframe(["run", *words(work), *more, "track.enabled=false"], home)
        (record,) = home.glob("runs/solo/*/record.json")
        seconds: dict[str, float] = json.loads(record.read_text())["seconds"]
        return seconds


def bare_loops(work: Work) -> tuple[float, float]:
    """Seconds from their start to the end of the last, and from the first update on."""
    begin = time.time()
    loops = [
        subprocess.Popen(
            [PYTHON, str(HERE / "bare.py"), json.dumps(work._replace(seed=s)._asdict())],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for s in range(CELLS)
    ]
    said = [loop.communicate()[0] for loop in loops]
    end = time.time()
    if any(loop.returncode for loop in loops):
        sys.exit("a bare loop failed")
    facts = [json.loads(lines) for lines in said]
    return end - begin, max(f["ended"] for f in facts) - min(f["began"] for f in facts)


def cells(work: Work) -> tuple[float, float]:
    """The same of a grid; a cell has ended when its tables are written."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        axes = {
            "strategy": ["stopwatch+replay"],
            "scenario": ["split_fmnist"],
            "seed": list(range(CELLS)),
        }
        (home / "two.yaml").write_text(yaml.safe_dump({"name": "two", "axes": axes}))
        axis = tuple(f"{key}=" for key in axes)
        told = [word for word in words(work) if not word.startswith(axis)]
        told.append(f"options.stopwatch.folder={watch(home)}")
        begin = time.time()
        clframe(["grid", "two.yaml", *told, "--workers", str(CELLS)], home)
        end = time.time()
        tables = [path.stat().st_mtime for path in home.glob("runs/two/*/trace.parquet")]
        assert len(tables) == CELLS, f"{len(tables)} cells have results"
        return end - begin, max(tables) - first_update(home)


def startup(options: Options) -> list[Finding]:
    """Seconds until the list is there, and until a run on digits has made its first update."""
    lists, cpu, runs = [], [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            home = Path(name)
            begin, used = time.time(), children()
            clframe(["list"], home)
            lists.append(time.time() - begin)
            cpu.append(children() - used)
            told = ["strategy=stopwatch+replay", "scenario=split_digits", *options.words]
            begin = time.time()
            clframe(["run", *told, f"options.stopwatch.folder={watch(home)}"], home)
            runs.append(first_update(home) - begin)
            facts = {"contender": "clframe", "list": lists[-1], "list_cpu": cpu[-1]}
            facts["first_update"] = runs[-1]
            print(json.dumps(facts), flush=True)
    return [
        Finding("seconds of clframe list", lists, 0.3),
        Finding("CPU seconds of clframe list", cpu),
        Finding("seconds of clframe run on digits to its first update", runs, 6.0),
    ]


def stream(options: Options) -> list[Finding]:
    """CPU time of one experience with two updates, at the end of a long stream and of a short."""
    short, long = 100, options.iters or 1000
    ratios, tails = [], []
    for _ in range(options.rounds):
        work = options.work(rho=0)
        few = measure("lengths.py", work, str(short))
        many = measure("lengths.py", work, str(long))
        ratios.append(many["ms_per_experience"] / few["ms_per_experience"])
        tails.append(many["ms_last"] / many["ms_first"])
    return [
        Finding(f"an experience of {long:,} / one of {short}", ratios),
        Finding(f"of {long:,}, the last tenth / the first", tails),
    ]


def children() -> float:
    """CPU seconds of all programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watch(home: Path) -> Path:
    """The folder that `stopwatch` writes to."""
    folder = home / "watch"
    folder.mkdir(exist_ok=True)
    return folder


def first_update(home: Path) -> float:
    """When the first update was made, in seconds since the epoch."""
    return min(float(path.name) for path in (home / "watch").iterdir())


def clframe(command: list[str], home: Path) -> None:
    done = subprocess.run(
        [*CLFRAME, *command], cwd=home, env=environment(), capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"clframe {command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
