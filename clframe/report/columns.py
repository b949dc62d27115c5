"""Which numbers a table shows, in what unit, and from which trace each is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["%", "points", "ratio", "updates"]
Source = Literal["boundary", "trace"]
Better = Literal["up", "down"]
SCALED = ("%", "points")  # shown times 100; ratios and counts never are


@dataclass(frozen=True)
class Column:
    """One metric: where it lies in the keys of `summarize` and how it is shown.

    `source` is "boundary" (full evaluation split, at the end of each experience) or "trace" (fixed
    subsets, after every evaluated update). `better` says which way is good.
    """

    key: str
    label: str
    path: str
    unit: Unit
    source: Source
    better: Better
    meaning: str
    for_references: tuple[str, ...] = ()  # the kinds of reference strategy that have this number

    @property
    def head(self) -> str:
        arrow = "↑" if self.better == "up" else "↓"
        return f"{self.label} [{self.unit}]\u00a0{arrow}"


def look_up(summary: Mapping[str, Any], path: str) -> float | None:
    """The number at `path` (part|part); None when any of it is absent or undefined."""
    at: Any = summary
    for key in path.split("|"):
        if not isinstance(at, Mapping) or at.get(key) is None:
            return None
        at = at[key]
    return float(at)


def scaled(value: float | None, unit: Unit) -> float | None:
    """`value` as it is shown: accuracies and their differences times 100."""
    return None if value is None else value * 100 if unit in SCALED else value


# fmt: off
ACCURACY = (
    Column("acc", "ACC", "acc_final", "%", "boundary", "up",
           "mean accuracy over all experiences at the end", for_references=("joint",)),
    Column("forg", "FORG", "forg_final", "points", "boundary", "down",
           "accuracy just after learning an experience minus accuracy at the end"),
    Column("min_acc", "min-ACC", "min_acc_final", "%", "trace", "up",
           "lowest accuracy of each old experience since it was learned, averaged"),
    Column("wc_acc", "WC-ACC", "wc_acc_final", "%", "trace", "up",
           "worst-case accuracy: the newest experience and the minima of the old"),
    Column("wf10", "WF10", "wf|10", "points", "trace", "down",
           "largest fall within 10 evaluations"),
    Column("wp10", "WP10", "wp|10", "points", "trace", "up",
           "largest rise within 10 evaluations"),
    Column("aaa", "AAA", "avg_anytime_acc", "%", "trace", "up",
           "average anytime accuracy: over all evaluations outside requests, of all seen"),
)
GAP = (
    Column("depth", "gap depth", "gap|depth_mean", "points", "trace", "down",
           "accuracy before a switch minus the lowest after it, over all old experiences"),
    Column("depth_recent", "depth, recent", "gap|depth_recent_mean", "points", "trace", "down",
           "the same for the latest of those learned before the switch"),
    Column("depth_rel", "depth, relative", "gap|depth_rel_mean", "ratio", "trace", "down",
           "gap depth divided by the accuracy before the switch"),
    Column("area_norm", "gap area", "gap|area_norm_mean", "points", "trace", "down",
           "mean shortfall below the accuracy before the switch"),
    Column("recovered", "recovered to 0.95", "gap|recovered_fraction|0.95", "ratio", "trace", "up",
           "share of old experiences that come back to 0.95 of their accuracy before the switch"),
    Column("recovery", "recovery time", "gap|recovery_time_mean|0.95", "updates", "trace", "down",
           "updates until then, over those that do come back"),
)
FURTHER = (
    Column("learning_acc", "learning acc", "learning_acc", "%", "boundary", "up",
           "accuracy on each experience just after learning it",
           for_references=("joint", "independent")),
    Column("aia", "avg incremental acc", "avg_incremental_acc", "%", "boundary", "up",
           "mean over boundaries of the accuracy on everything seen", for_references=("joint",)),
    Column("pooled", "pooled acc", "pooled_acc_final", "%", "boundary", "up",
           "accuracy on all test samples at the end, whatever the size of their experience",
           for_references=("joint",)),
    Column("pooled_aia", "avg incremental acc, pooled", "avg_incremental_pooled_acc", "%",
           "boundary", "up", "mean over boundaries of the accuracy on all test samples seen",
           for_references=("joint",)),
    Column("bwt", "BWT", "bwt", "points", "boundary", "up",
           "backward transfer: FORG with the sign turned"),
    Column("forgetting", "forgetting (best)", "forgetting_chaudhry", "points", "boundary", "down",
           "best earlier boundary accuracy minus the last"),
    Column("fwt", "FWT", "fwt", "points", "boundary", "up",
           "accuracy just before learning an experience minus that of the untrained net"),
    Column("intransigence", "intransigence", "intransigence", "points", "boundary", "down",
           "joint training on everything so far minus this method, on the newest experience"),
    Column("fwt_independent", "FWT vs independent", "fwt_vs_independent", "points", "boundary",
           "up", "this method minus a model trained on the experience alone"),
    Column("forgetting_ratio", "forgetting ratio", "forgetting_ratio", "ratio", "boundary", "up",
           "accuracy gained relative to joint training, minus one"),
    Column("time_to_min", "time to minimum", "gap|time_to_min_mean", "updates", "trace", "down",
           "updates from a switch to the lowest accuracy"),
    Column("wf100", "WF100", "wf|100", "points", "trace", "down",
           "largest fall within 100 evaluations"),
    Column("wp100", "WP100", "wp|100", "points", "trace", "up",
           "largest rise within 100 evaluations"),
)
# fmt: on
MAIN = ACCURACY + GAP
COLUMNS = MAIN + FURTHER
BY_KEY = {c.key: c for c in COLUMNS}
COMPARED = ("acc", "forg", "min_acc", "wc_acc", "aaa", "depth", "depth_recent", "area_norm")
SCORES = ("acc", "min_acc", "wc_acc", "aaa")  # between 0 and 1: aggregated over benchmarks
