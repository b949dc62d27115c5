"""The benchmarks run from end to end, and find what they are there to find."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clframe.sources.places import DEBIAN_FASHION_MNIST

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed.py"
needs_fashion = pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="Fashion-MNIST is not here: see `make data`"
)


def speed(*words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(SPEED), *words], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


def test_every_case_is_listed_and_an_unknown_one_is_refused() -> None:
    names = [line.split()[0] for line in speed("--list")]
    assert {"mlp", "lenet", "resnet", "rho10", "train10", "train128", "pair"} < set(names)
    assert {"counts", "weights", "memory", "grid", "startup", "stream"} < set(names)
    done = subprocess.run([sys.executable, str(SPEED), "mpl"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'mpl'" in done.stderr and "known: mlp, " in done.stderr


@needs_fashion
def test_a_case_pairs_the_cell_with_the_bare_loop() -> None:
    out = speed("mlp", "--no-avalanche", "--rounds", "1", "--iters", "2")
    bare, ours = (json.loads(line) for line in out if line.startswith("{"))
    assert (bare["contender"], ours["contender"]) == ("bare", "clframe")
    assert bare["updates"] == ours["updates"] == 2
    assert 0 < ours["boundaries"] < ours["seconds"] and ours["supervisor"] > 0
    assert len(bare["final"]) == len(ours["final"]) == 5
    headline = out[out.index("") + 1]
    found = re.fullmatch(
        r"mlp: clframe's cell / bare loop: median ([\d.]+) \[\1 - \1\] over 1 round; "
        r"goal <= 1.15: (met|MISSED)",
        headline,
    )
    assert found, headline
    assert float(found[1]) == pytest.approx(ours["seconds"] / bare["seconds"], rel=0.01)


@needs_fashion
def test_counts_are_those_of_the_bare_loops_forward() -> None:
    out = speed("counts", "--net", "mlp", "--rounds", "1", "--iters", "10")
    (facts,) = (json.loads(line) for line in out if line.startswith("{"))
    assert (facts["predictions"], facts["differ"]) == (30_000, 0)
    assert "differ, of 30000 predictions" in out[-1] and out[-1].endswith("goal <= 0: met")
