"""A run's folder, the truth about it: what ran, how far it came, what was measured."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer
from pydantic_core.core_schema import SerializerFunctionWrapHandler

from clframe.errors import DataError
from clframe.tracking.files import plain, replace_file, to_json, without_paths
from clframe.tracking.heartbeat import heartbeat, is_alive
from clframe.tracking.provenance import environment, git_state

if TYPE_CHECKING:
    import pyarrow as pa

    from clframe.tracking.traces import Kind

__all__ = ["RunRecord", "RunStore", "State", "Status", "environment", "git_state"]

Status = Literal["running", "done", "failed", "interrupted"]
NOTE = ".failed-rank"
State = Literal["running", "done", "failed", "interrupted", "missing"]


class RunRecord(BaseModel):
    """What one run was, how far it came and how it ended: the content of record.json."""

    model_config = ConfigDict(extra="forbid")

    id: str
    grid: str
    status: Status = "running"
    started_ms: int
    total_iterations: int = 0
    iteration: int = 0
    seconds: dict[str, float] = {}
    environment: dict[str, Any] = {}
    git: dict[str, Any] = {}
    data: dict[str, Any] = {}
    reference: Literal["joint", "independent"] | None = None
    primary: str = "net/seen"
    readouts: list[str] = []
    metrics: dict[str, float | None] = {}
    cost: dict[str, Any] = {}
    spent: list[dict[str, Any]] = []  # updates, samples and seconds of each experience
    eval: dict[str, Any] = {}
    counting: dict[str, Any] = {}
    error: str | None = None
    attempts: int = 0
    mlflow: dict[str, str] | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        if fields["mlflow"] is None:
            del fields["mlflow"]
        return fields


class RunStore:
    """Reads and writes the files of one run."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.config_path = self.folder / "config.yaml"
        self.record_path = self.folder / "record.json"
        self.metrics_path = self.folder / "metrics.json"
        self.audit_path = self.folder / "audit.json"
        self.upload_path = self.folder / "upload.json"
        self.pending_path = self.folder / ".upload-pending"  # there while MLflow lacks something
        self.trace_path = self.folder / "trace.parquet"
        self.boundary_path = self.folder / "boundary.parquet"
        self.journal_path = self.folder / "journal.bin"
        self.checkpoint_path = self.folder / "last.ckpt"
        self.log_path = self.folder / "log.txt"
        self.heartbeat_path = self.folder / "heartbeat.json"
        self.refusal_path = self.folder / "refusal.txt"  # bad input, in full: records drop paths

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Save the resolved config; creates the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(_listed(config), sort_keys=False, allow_unicode=True)
        replace_file(self.config_path, text)

    def read_config(self) -> dict[str, Any]:
        config = yaml.safe_load(self._text(self.config_path))
        return config if isinstance(config, dict) else {}

    def write_record(self, record: RunRecord) -> None:
        """Save a new record, free of absolute paths; creates the folder.

        The MLflow run that an earlier record names stays: it belongs to the supervisor.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if record.mlflow is None and self.record_path.exists():
                with suppress(DataError):  # what is there is no record, and is replaced
                    record = record.model_copy(update={"mlflow": self.read_record().mlflow})
            self._put(record)

    def read_record(self) -> RunRecord:
        try:
            return RunRecord.model_validate_json(self._text(self.record_path))
        except ValidationError as error:
            raise DataError(f"{self.record_path} is not a run's record: {error}") from error

    def update_record(self, **fields: Any) -> RunRecord:
        """Change some fields, leaving those that another process changed meanwhile."""
        with self._locked():
            record = self.read_record()
            record = RunRecord.model_validate(record.model_dump() | plain(fields))
            self._put(record)
        return record

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Save what `summarize` returned; NaN becomes null."""
        replace_file(self.metrics_path, to_json(metrics))

    def read_metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = json.loads(self._text(self.metrics_path))
        return metrics

    def note(self, rank: int, message: str, *, lost: bool) -> None:
        """Say why a rank has failed; `lost`: because others have gone, and they know better."""
        text = json.dumps({"rank": rank, "lost": lost, "error": message})
        replace_file(self.folder / f"{NOTE}{rank}", text)

    def notes(self) -> list[dict[str, Any]]:
        """Why ranks have failed, those first that lost nobody; each note is read once."""
        paths = sorted(self.folder.glob(f"{NOTE}*"))
        found = [json.loads(path.read_text()) for path in paths]
        for path in paths:
            path.unlink()
        return sorted(found, key=lambda note: note["lost"])

    def state(self) -> State:
        """What became of the run, judged from the folder alone.

        A record that says "running" is believed only while the heartbeat proves it; so enter
        `heartbeat()` before setting that status.
        """
        try:
            if not self.record_path.read_text().strip():
                return "missing"  # a crash of the machine can leave an empty file
        except FileNotFoundError:
            return "missing"
        status = self.read_record().status
        if status != "running":
            return status
        return "running" if is_alive(self.heartbeat_path) else "interrupted"

    def read_audit(self) -> dict[str, Any]:
        """What an audit has said of the run; nothing where there was none, or half of one."""
        try:
            found: dict[str, Any] = json.loads(self.audit_path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def before_path(self, position: int) -> Path:
        """The state as it was before the forget request at `position` of the stream."""
        return self.folder / f"before-{position}.ckpt"

    def heartbeat(self, every: float = 5.0) -> AbstractContextManager[None]:
        """Show that the run is alive for as long as the block lasts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return heartbeat(self.heartbeat_path, every)

    def write_traces(self) -> None:
        """Turn the journal's rows into trace.parquet and boundary.parquet."""
        from clframe.tracking import traces

        traces.write(traces.from_journal(self.journal_path, "trace"), self.trace_path)
        traces.write(traces.from_journal(self.journal_path, "boundary"), self.boundary_path)

    def read_trace(self, readout: str | None = None) -> pa.Table:
        """The accuracy at each iteration on the fixed subsets; from the journal while it runs."""
        return self._table("trace", self.trace_path, readout)

    def read_boundary(self, readout: str | None = None) -> pa.Table:
        """The accuracy at each boundary on the full test sets; from the journal while it runs."""
        return self._table("boundary", self.boundary_path, readout)

    def _table(self, kind: Kind, path: Path, readout: str | None) -> pa.Table:
        from clframe.tracking import traces  # pyarrow takes its time, and few commands need it

        table = traces.read(path) if path.exists() else traces.from_journal(self.journal_path, kind)
        return traces.select(table, readout)

    def _put(self, record: RunRecord) -> None:
        replace_file(self.record_path, to_json(without_paths(plain(record.model_dump()))))

    def _text(self, path: Path) -> str:
        try:
            return path.read_text()
        except FileNotFoundError:
            raise DataError(
                f"{path} is missing: {self.folder} holds no such run. A run's folder is "
                "runs/<grid>/<cell>; `clframe run` and `clframe grid` print it on their last line"
            ) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer of the record at a time: the cell and its supervisor both change it."""
        with open(self.folder / ".record.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _listed(value: Any) -> Any:
    """YAML's own types: tuples as lists, mappings as dicts."""
    if isinstance(value, Mapping):
        return {key: _listed(member) for key, member in value.items()}
    return [_listed(member) for member in value] if isinstance(value, list | tuple) else value
