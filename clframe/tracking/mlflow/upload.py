"""Carries one run's journal and files to MLflow, in batches, so that any part can be sent twice."""

from __future__ import annotations

import json
import logging
import math
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clframe.tracking.files import replace_file, to_json
from clframe.tracking.journal import frames
from clframe.tracking.mlflow import describe
from clframe.tracking.mlflow.target import Target, client, faults, search
from clframe.tracking.store import RunRecord, RunStore

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger(__name__)

Ending = Literal["done", "failed", "interrupted"]
STATUS: dict[Ending, str] = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
FULL, LEAST = 500, 300  # points in a batch; up to 1000 are accepted, 500 go fastest
LONGEST_WAIT = 60.0


class RunUploader:
    """Shows the run in `folder` as one MLflow run; belongs to the supervisor, not to the cell.

    While the cell runs, only what a resumed cell would not write again is sent: the frames before
    the last mark. A store that does not answer costs nothing but time: the journal keeps it all.
    """

    def __init__(self, target: Target, folder: Path | str) -> None:
        self.target = target
        self.store = RunStore(folder)
        self.run_id: str | None = None
        self._started_ms = 0
        self._offset = 0
        self._delivered = 0
        self._wait = 0.0
        self._retry_at = 0.0
        self._state_path = self.store.upload_path

    def push(self, final: bool = False) -> int:
        """Send new points and say how many; `final` sends everything, also few at a time.

        Returns early while the store is away, and tries again after a growing pause.
        """
        self._delivered = 0
        if not self.store.record_path.exists():
            return 0
        if final or time.monotonic() >= self._retry_at:
            try:
                self._push(final)
                self._wait = self._retry_at = 0.0
            except faults() as error:
                self._postpone(error)
        return self._delivered

    def finish(self, status: Ending) -> bool:
        """Send all that is left, the files too, and end the run; False if the store was away.

        For a cell that was killed or crashed, say "failed". May be called again at any time.
        """
        try:
            self._push(final=True)
            run = self._client.get_run(self._id)
            self._send_description(run)
            for path in self._artifacts():
                self._client.log_artifact(self._id, str(path))
            self._client.set_terminated(self._id, STATUS[status], self._end_ms())
        except faults() as error:
            self._postpone(error)
            return False
        self._wait = self._retry_at = 0.0
        self.run_id = None  # so that a push for a resumed cell opens the run again
        return True

    @cached_property
    def _client(self) -> MlflowClient:
        return client(self.target.uri)

    @property
    def _id(self) -> str:
        assert self.run_id is not None
        return self.run_id

    def _push(self, final: bool) -> None:
        if self.run_id is None:
            self._open(running=not final)
        journal, begun = self.store.journal_path, self._started_ms
        for points, end in describe.chunks(
            journal, self._offset, self._last_mark(), begun, FULL, 1 if final else LEAST
        ):
            self._send(points)
            self._offset = end
            self._save()
        if final:  # what follows the mark is not ticked off: a cell that resumes writes it again
            for points, _ in describe.chunks(journal, self._offset, None, begun, FULL, 1):
                self._send(points)

    def _send(self, points: list[Metric]) -> None:
        """Deliver `points` in equal batches, of `FULL` points or somewhat more."""
        size = math.ceil(len(points) / max(len(points) // FULL, 1)) or 1
        for start in range(0, len(points), size):
            batch = points[start : start + size]
            self._client.log_batch(self._id, metrics=batch, synchronous=True)
            self._delivered += len(batch)

    def _last_mark(self) -> int:
        """Where the last mark starts: a cell that is killed now resumes there or later."""
        mark = self._offset
        for frame in frames(self.store.journal_path, self._offset):
            if frame.kind == "mark":
                mark = frame.start
        return mark

    def _open(self, running: bool) -> None:
        """Find this cell's run, or create it, and the place in the journal to go on from."""
        record = self._record()
        run, self._offset = self._known(record), self._saved_offset()
        if run is None:
            found = search(
                self._client, self.target, kind="cell", grid=record.grid, cell_key=record.id
            )
            run, self._offset = next(found, None), 0
        if run is None:
            run = self._create(record)
        elif running and run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        self.run_id = str(run.info.run_id)
        # the run's own start, so that points keep their time stamp if the record is written anew
        self._started_ms = int(run.info.start_time)
        self._save()
        ids = {"run_id": self.run_id, "experiment_id": self.target.experiment_id}
        if self.store.record_path.exists() and record.mlflow != ids:
            self.store.update_record(mlflow=ids)

    def _record(self) -> RunRecord:
        """The run's record, or what the folder's name says of a cell that died before it."""
        if self.store.record_path.exists():
            return self.store.read_record()
        folder = self.store.folder.resolve()
        now = int(time.time() * 1000)
        return RunRecord(id=folder.name, grid=folder.parent.name, started_ms=now)

    def _known(self, record: RunRecord) -> Run | None:
        """The run that upload.json names, if this store still has it and it is this cell's."""
        run_id, opened = self._state().get("run_id"), self._client
        from mlflow.exceptions import MlflowException

        if not isinstance(run_id, str):
            return None
        try:
            run = opened.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        tags = run.data.tags
        same = (tags.get("cl.grid"), tags.get("cl.cell_key")) == (record.grid, record.id)
        active = run.info.lifecycle_stage == "active"
        here = run.info.experiment_id == self.target.experiment_id
        return run if same and active and here else None

    def _create(self, record: RunRecord) -> Run:
        config = self.store.read_config() if self.store.config_path.exists() else {}
        tags = {"cl.kind": "cell", "cl.grid": record.grid, "cl.cell_key": record.id}
        for name in ("strategy", "scenario", "seed"):
            tags[f"cl.{name}"] = str(config.get(name, ""))
        run = self._client.create_run(
            self.target.experiment_id, record.started_ms, tags, run_name=record.id
        )
        self._send_params(run)
        return run

    def _send_params(self, run: Run) -> None:
        """The config, less what is there: MLflow forbids to change a param."""
        from mlflow.entities import Param

        if self.store.config_path.exists():
            config = describe.params(self.store.read_config())
            missing = [Param(k, v) for k, v in config.items() if k not in run.data.params]
            self._client.log_batch(run.info.run_id, params=missing, synchronous=True)

    def _send_description(self, run: Run) -> None:
        """Params, data sets and the summary values that changed."""
        from mlflow.entities import Metric

        self._send_params(run)
        record = self._record()
        inputs = describe.datasets(record.data)
        if inputs:
            self._client.log_inputs(self._id, inputs)
        values = describe.summary(record.cost, "cost") | describe.summary(record.seconds, "seconds")
        if self.store.metrics_path.exists():
            values |= describe.summary(self.store.read_metrics(), "summary")
        values |= describe.audited(self.store.read_audit())
        now = int(time.time() * 1000)
        self._send(
            [
                Metric(name, value, now, record.iteration)
                for name, value in values.items()
                if run.data.metrics.get(name) != value
            ]
        )

    def _artifacts(self) -> list[Path]:
        store = self.store
        files = [store.config_path, store.record_path, store.metrics_path, store.trace_path]
        files += [store.boundary_path, store.audit_path, store.log_path]
        return [path for path in files if path.exists() and path.stat().st_size]

    def _end_ms(self) -> int:
        """When the cell last wrote, which may be long before its end reaches MLflow."""
        journal = self.store.journal_path
        last = journal.stat().st_mtime if journal.exists() else time.time()
        return max(int(last * 1000), self._started_ms)

    def _state(self) -> dict[str, object]:
        try:
            state = json.loads(self._state_path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _saved_offset(self) -> int:
        """Where the last upload stopped, or 0 if that place is no longer the start of a frame."""
        offset, journal = self._state().get("offset"), self.store.journal_path
        if not isinstance(offset, int) or not journal.exists():
            return 0
        at_end = offset == journal.stat().st_size
        return offset if at_end or next(frames(journal, offset), None) else 0

    def _save(self) -> None:
        replace_file(self._state_path, to_json({"run_id": self.run_id, "offset": self._offset}))

    def _postpone(self, error: Exception) -> None:
        if not self._wait:
            log.warning("MLflow does not take %s now, later: %s", self.store.folder.name, error)
        self._wait = min(max(2 * self._wait, 1.0), LONGEST_WAIT)
        self._retry_at = time.monotonic() + self._wait
