"""MLflow as a view of finished and running cells; the one place that imports it, and lazily."""

from clframe.tracking.mlflow.ahead import Draft, drafting
from clframe.tracking.mlflow.report import chart_links, upload_report
from clframe.tracking.mlflow.target import Target, find_runs, prepare
from clframe.tracking.mlflow.upload import RunUploader

__all__ = [
    "Draft",
    "RunUploader",
    "Target",
    "chart_links",
    "drafting",
    "find_runs",
    "prepare",
    "upload_report",
]
