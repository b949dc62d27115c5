"""Every metric of a run as a pure function of its accuracy trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from clframe.evaluation.continual import continual
from clframe.evaluation.gap import gap
from clframe.evaluation.lifelong import lifelong
from clframe.evaluation.standard import (
    at_own,
    forgetting_ratio,
    intransigence,
    pooled,
    standard,
    transfer_over_independent,
)
from clframe.evaluation.timeline import Rows, Timeline, TraceError, read

__all__ = ["TraceError", "lifelong", "sizes_of", "summarize"]

T = TypeVar("T")
_WINDOWS, _BETAS = (10, 100), (10,)


def summarize(
    rows: Rows,
    *,
    kept: Iterable[int] | None = None,
    requests: Iterable[int] = (),
    joint_prefix: Sequence[float | None] | None = None,
    joint_all: Sequence[float | None] | None = None,
    independent: Sequence[float | None] | None = None,
    sizes: Sequence[int] | None = None,
    windows: Iterable[int] = (3, 10, 100),
    betas: Iterable[int] = (3, 10),
) -> dict[str, Any]:
    """All that the trace of one run says, ready for JSON: undefined values are None.

    `rows` are (iteration, train_experience, eval_experience, accuracy) in any order, or an array
    with these columns. Leave rows out where a model cannot be asked (experiences to come under a
    growing or masked head): what needs them is then None.

    `kept` are the stream positions, ascending, of the experiences that count, where a stream has
    requests: what else it learns or forgets is a stage too, with a boundary and a row of R, but
    none of them is learnt in it. What is before the first of them is left out. It adds `stages` and
    `kept`, the stream positions of R's rows and columns. `requests` are the positions of forget
    requests: they are no switches for `gap`, and as each method takes as many updates there as it
    likes, the mean over updates, `avg_anytime_acc`, leaves them out.

    The references are accuracies on each experience k (that is kept): of joint training on 0..k, of
    joint training on all, of training on k alone; each adds its own keys; so do `sizes`, the test
    samples of each, which pool what others average over experiences. Windows 10 and 100 and beta 10
    are always among those returned.
    """
    line, asked = read(rows, kept), {*requests}
    num = line.num_experiences
    result: dict[str, Any] = {
        "n_experiences": num,
        "boundaries": line.boundaries.tolist(),
        "eval_iterations": line.iterations[line.starts[0] :].tolist(),
        "R": line.matrix(),
        "init_acc": line.initial(),
        **continual(line, _sizes("windows", windows, _WINDOWS), _sizes("betas", betas, _BETAS)),
        "gap": gap(line, asked),
        **standard(line, asked),
    }
    if kept is not None:
        result |= {"stages": line.stages.tolist(), "kept": line.experiences.tolist()}
    if sizes is not None:
        result |= pooled(line, _counted("sizes", sizes, num))
    return result | _beside_references(line, joint_prefix, joint_all, independent)


def _beside_references(
    line: Timeline,
    joint_prefix: Sequence[float | None] | None,
    joint_all: Sequence[float | None] | None,
    independent: Sequence[float | None] | None,
) -> dict[str, Any]:
    """One key for each reference there is."""
    result, num, own = {}, line.num_experiences, at_own(line)
    if joint_prefix is not None:
        cells = _reference("joint_prefix", joint_prefix, num)
        result["intransigence"] = intransigence(own, cells)
    if independent is not None:
        cells = _reference("independent", independent, num)
        result["fwt_vs_independent"] = transfer_over_independent(own, cells)
    if joint_all is not None:
        cells = _reference("joint_all", joint_all, num)
        result["forgetting_ratio"] = forgetting_ratio(line.matrix(), line.initial(), cells)
    return result


def sizes_of(described: Mapping[str, Any], kept: Sequence[int]) -> list[int] | None:
    """The test samples of each experience at stream positions `kept`, of what a stream describes.

    None where a class is in several of them: its samples could not be pooled without counting
    them several times.
    """
    mine = {e["index"]: e for e in described.get("experiences", ())}
    classes = [c for k in kept for c in mine[k]["classes"]]
    if described.get("setting") == "class" and len(set(classes)) < len(classes):
        return None
    return [int(mine[k]["eval_size"]) for k in kept]


def _sizes(name: str, asked: Iterable[int], always: Sequence[int]) -> list[int]:
    """What was asked for and what is always given, ascending."""
    sizes = list(asked)
    for size in sizes:
        if int(size) != size or size < 1:
            raise TraceError(f"{name} are counts of evaluations, whole and >= 1; got {size!r}")
    return sorted({int(size) for size in sizes} | set(always))


def _counted(name: str, values: Sequence[T], num_experiences: int) -> Sequence[T]:
    """`values` when there is one for each experience."""
    if len(values) != num_experiences:
        raise TraceError(
            f"{name} has {len(values)} values for {num_experiences} experiences; "
            "give one for each, None where there is none"
        )
    return values


def _reference(
    name: str, values: Sequence[float | None], num_experiences: int
) -> list[float | None]:
    cells = [None if v is None else float(v) for v in _counted(name, values, num_experiences)]
    for k, cell in enumerate(cells):
        if cell is not None and not 0 <= cell <= 1:
            raise TraceError(
                f"{name}[{k}] is {cell:g}; an accuracy is a number from 0 to 1 (100% is 1.0)"
            )
    return cells
