"""SHARP on scikit-learn's digits beside what the authors' modules gave there; minutes on a CPU.

python benchmarks/sharp_digits.py [RUNS]      RUNS keeps the runs, which are then not made again
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
EXPECTED = {  # final accuracy over all classes, mean and deviation of 5 seeds, by option
    "m=1": (85.06, 0.46),
    "m=0": (76.18, 3.43),
    "m=2": (85.23, 0.66),
    "m=4": (85.16, 1.85),
    "m=1, idle channels 0": (85.39, 1.50),
}


def run(runs: Path) -> None:
    """Every cell of the grid that is not done."""
    paths = os.pathsep.join(map(str, (HERE, HERE.parent)))
    python = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"CLFRAME_PATH": paths, "PYTHONPATH": python}
    command = ["-m", "clframe", "--runs", str(runs), "grid", str(HERE / "sharp_digits.yaml")]
    subprocess.run([sys.executable, *command], check=True, cwd=HERE, env=env)


def found(folder: Path) -> dict[str, list[float]]:
    """Final accuracies in percent, by option."""
    out: dict[str, list[float]] = {name: [] for name in EXPECTED}
    for path in sorted(folder.glob("*/record.json")):
        record = json.loads(path.read_text())
        options = yaml.safe_load((path.parent / "config.yaml").read_text())["options"]["sharp"]
        name = f"m={options.get('m', 1)}"
        name += ", idle channels 0" * options.get("mask_idle_on_store", False)
        out[name].append(100 * record["metrics"]["acc_final"])
    return out


def table(results: dict[str, list[float]]) -> str:
    """Ours beside theirs."""
    lines = ["| | ours [%] | seeds | authors' modules [%] |", "|---|---|---|---|"]
    for name, (mean, deviation) in EXPECTED.items():
        values = results[name]
        ours = f"{statistics.mean(values):.2f} ± {statistics.pstdev(values):.2f}"
        lines.append(f"| {name} | {ours} | {len(values)} | {mean} ± {deviation} |")
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(sys.argv[1] if len(sys.argv) > 1 else folder).resolve()
        run(runs)
        print(table(found(runs / "sharp_digits")))


if __name__ == "__main__":
    main()
