"""What clframe costs, as ratios to a bare PyTorch loop doing the same work, case by case.

    python benchmarks/speed.py --list
    python benchmarks/speed.py mlp --rounds 3
    python benchmarks/speed.py all

Contenders run in processes of their own, in turn, the order reversed from round to round, each on
one torch thread. The clock is process CPU time (on a GPU, wall time), a ratio is taken within its
round, and what is printed last is the median of the rounds with its range, and whether it reaches
the goal. Measured are experiences 2 to 5 of Split Fashion-MNIST, with all that `clframe run` does
by default: journal, checkpoints, full test sets at boundaries; and, as a second ratio, with what
its supervisor does meanwhile and afterwards: MLflow, progress bar.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

from cases import CASES
from contend import Finding, Options


def summary(case: str, finding: Finding) -> str:
    """`mlp: cell / bare: median 1.08 [1.07 - 1.10] over 3 rounds; goal <= 1.15: met`."""
    values = finding.values
    middle, low, high = statistics.median(values), min(values), max(values)
    form = ".3f" if middle < 100 else ".0f"
    line = f"{case}: {finding.what}: median {middle:{form}} [{low:{form}} - {high:{form}}]"
    line += f" over {len(values)} round{'s' * (len(values) != 1)}"
    if finding.goal is None:
        return line
    met = middle >= finding.goal if finding.at_least else middle <= finding.goal
    sign = ">=" if finding.at_least else "<="
    return f"{line}; goal {sign} {finding.goal:g}: {'met' if met else 'MISSED'}"


def warn_of_load() -> None:
    """Say when others use the cores: CPU time suffers less than wall time, but it suffers."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    print(
        f"load average {load:.2f} on {cores} cores, {time.strftime('%Y-%m-%d %H:%M')}", flush=True
    )
    if load > 0.5:
        print("warning: others use the cores; trust ratios of CPU time alone", flush=True)


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("cases", nargs="*", metavar="CASE", help="names of cases, or all")
    p.add_argument("--list", action="store_true", help="show the cases and their goals")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--iters", type=int, help="updates per experience, instead of the case's own")
    p.add_argument("--net", help="a network of clframe's, instead of the case's own")
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for clframe alone"
    )
    p.add_argument("--no-avalanche", action="store_true", help="leave Avalanche out")
    args = p.parse_args()
    if args.list or not args.cases:
        for name, (_, text) in CASES.items():
            print(f"{name:9} {text}")
        return 0
    names = list(CASES) if args.cases == ["all"] else args.cases
    if unknown := [name for name in names if name not in CASES]:
        p.error(f"unknown case {unknown[0]!r}; known: {', '.join(CASES)}, all")
    options = Options(
        rounds=args.rounds,
        iters=args.iters,
        net=args.net,
        device=args.device,
        words=tuple(args.set),
        avalanche=not args.no_avalanche,
    )
    warn_of_load()
    lines = []
    for name in names:
        run, _ = CASES[name]
        lines += [summary(name, finding) for finding in run(options)]
    print("\n".join(["", *lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
