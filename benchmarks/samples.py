"""Minima from fewer samples: `python samples.py WORK LABEL` prints min-ACC, WC-ACC and the cost."""

from __future__ import annotations

import json
import sys

from framework import run, words
from work import given

from clframe.config.load import load_run


def main() -> None:
    work, label = given(), sys.argv[2]
    store, _, _ = run(load_run(words(work)), work.device)
    record = store.read_record()
    facts = {"contender": "clframe", "evaluated": label, "seed": work.seed}
    for name in ("min_acc_final", "wc_acc_final", "gap/depth_mean"):
        facts[name] = record.metrics[name]
    print(json.dumps(facts | {"evaluate_seconds": round(record.seconds["evaluate"], 2)}))


if __name__ == "__main__":
    main()
