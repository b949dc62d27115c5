"""What an experience costs in a stream of many tiny ones: `python lengths.py WORK EXPERIENCES`."""

from __future__ import annotations

import json
import sys
from statistics import mean

from framework import run
from work import given

from clframe.config.load import load_run


def main() -> None:
    work, number = given(), int(sys.argv[2])
    told = [
        "strategy=replay",
        "scenario=many",
        f"options.many.experiences={number}",
        f"batch_size={work.batch}",
        f"eval.rho={work.rho}",
        *work.words,
    ]
    _, (*marks, _end), supervisor = run(load_run(told), work.device)
    assert len(marks) == number, f"{len(marks)} experiences were measured"
    each = [1e3 * mark["seconds"] for mark in marks[1:]]
    tenth = len(each) // 10
    facts = {
        "contender": "clframe",
        "experiences": number,
        "ms_per_experience": round(mean(each), 3),
        "ms_first": round(mean(each[:tenth]), 3),
        "ms_last": round(mean(each[-tenth:]), 3),
        "ms_boundary": round(1e3 * mean(mark["boundaries"] for mark in marks[1:]), 3),
        "supervisor": round(supervisor, 3),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
