"""What a run tells MLflow about itself: its params, data sets, summary and points."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING, Any

import numpy as np

from clframe.tracking.files import plain
from clframe.tracking.journal import Frame, frames

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric

MAX_KEY, MAX_PARAM, MAX_DIGEST = 250, 6000, 36
DEPTH = 3  # names in a summary key; details per pair of experiences stay in metrics.json


@functools.cache
def key(name: str) -> str:
    """`name` in the letters and the path form that MLflow accepts."""
    name = name.replace("->", "_to_").replace("|", "_on_")
    name = normpath(re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)).strip("/.")
    return name[:MAX_KEY].rstrip("/.") or "_"


def params(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The config with dotted keys and each value as text, lists as JSON."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        full = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= params(value, f"{full}.")
        else:
            text = value if isinstance(value, str) else json.dumps(plain(value))
            flat[key(full)] = text[:MAX_PARAM]
    return flat


def summary(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers in `metrics` with slashed keys; curves, lists and None left out."""
    flat: dict[str, float] = {}
    for name, value in plain(metrics).items():
        full = f"{prefix}/{name}"
        if isinstance(value, dict) and full.count("/") < DEPTH:
            flat |= summary(value, full)
        elif isinstance(value, int | float):
            flat[key(full)] = float(value)
    return flat


def audited(found: Mapping[str, Any]) -> dict[str, float]:
    """What the audit of a run found, as `audit/...`; accuracies are means over experiences."""
    flat: dict[str, Any] = {"gain": found.get("gain")}
    for model, splits in found.get("by_task", {}).items():
        for split, known in splits.items():
            flat[f"accuracy_{split}/{model}"] = (
                math.fsum(known.values()) / len(known) if known else None
            )
    for split, distances in found.get("agreement", {}).items():
        flat |= {f"distance_{split}/{name}": read["value"] for name, read in distances.items()}
    for name, scores in found.get("attacks", {}).items():
        flat |= {f"attacks/{name}/{model}": score for model, score in scores.items()}
    for request in found.get("requests", ()):
        for margin, index in request["times"].items():
            flat[f"anamnesis_{margin}/{request['position']}_{request['name']}"] = index["value"]
    flat |= {f"cost/{name}": value for name, value in found.get("cost", {}).items()}
    return {
        key(f"audit/{name}"): float(value)
        for name, value in flat.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def datasets(data: Mapping[str, Any]) -> list[DatasetInput]:
    """The training and the evaluation data of a stream, as `Stream.describe` records them."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    rows = data.get("experiences") or []
    inputs = []
    for split, context in (("train", "training"), ("eval", "evaluation")):
        hashes = [str(row.get(f"{split}_sha256", "")) for row in rows]
        if not any(hashes):
            continue
        sizes = [int(row.get(f"{split}_size", 0)) for row in rows]
        about = {name: data.get(name) for name in ("scenario", "setting", "class_order")}
        profile = {"num_rows": sum(sizes), "experience_sizes": sizes, "experience_sha256": hashes}
        dataset = Dataset(
            name=f"{data.get('scenario', 'stream')}/{split}",
            digest=hashlib.sha256("".join(hashes).encode()).hexdigest()[:MAX_DIGEST],
            source_type="clframe",
            source=json.dumps(plain(about)),
            schema=json.dumps(_schema(data)),
            profile=json.dumps(plain(profile)),
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return inputs


def _schema(data: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs and labels in the form of MLflow's tensor schemas, which its UI can show."""

    def tensor(name: str, dtype: str, shape: list[int]) -> str:
        spec = {"dtype": dtype, "shape": [-1, *shape]}
        return json.dumps([{"name": name, "type": "tensor", "tensor-spec": spec}])

    shape = [int(n) for n in data.get("input_shape") or []]
    features = tensor("x", str(data.get("input_dtype", "numeric")), shape)
    return {"mlflow_tensorspec": {"features": features, "targets": tensor("y", "int64", [])}}


def chunks(
    journal: Path, start: int, stop: int | None, started_ms: int, full: int, least: int
) -> Iterator[tuple[list[Metric], int]]:
    """The points of the frames in [start, stop), and the offset that each list reaches.

    A list has `full` points or somewhat more, the last one at least `least`: fewer stay for later.
    """
    points: list[Metric] = []
    end = start
    for frame in frames(journal, start):
        if stop is not None and frame.end > stop:
            break
        end = frame.end
        if frame.kind == "metrics":
            points += _points(frame, started_ms)
        if len(points) >= full:
            yield points, end
            points, start = [], end
    if end > start and (not points or len(points) >= least):
        yield points, end


def _points(frame: Frame, started_ms: int) -> list[Metric]:
    """Each value that is not NaN, stamped so that sending it again changes nothing."""
    from mlflow.entities import Metric

    values = frame.arrays["values"]
    names = [key(name) for name in frame.arrays["keys"].tolist()]
    steps = frame.arrays["iteration"].tolist()
    rows, columns = np.nonzero(~np.isnan(values))
    return [
        Metric(names[column], value, started_ms + steps[row], steps[row])
        for row, column, value in zip(
            rows.tolist(), columns.tolist(), values[rows, columns].tolist(), strict=True
        )
    ]
