"""What a run ran on: interpreter, packages, processor and the state of the source tree."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "clframe",
    "torch",
    "torchvision",
    "lightning",
    "avalanche-lib",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "omegaconf",
    "pydantic",
    "pyarrow",
    "mlflow",
    "ray",
)


def environment() -> dict[str, Any]:
    """Python, platform, processor, package versions; GPU names if this process uses torch."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": {"model": _cpu_model(), "count": os.cpu_count()},
        "packages": {name: _version(name) for name in PACKAGES},
        "gpus": _gpus(),
    }


def git_state(folder: Path | str) -> dict[str, Any]:
    """The commit of the tree around `folder`, and whether anything differs from it.

    Files unknown to git count: a new strategy is one. All None outside a repository.
    """
    status = _git(folder, "status", "--porcelain")
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    return {"commit": commit or None, "dirty": None if status is None else bool(status)}


def _git(folder: Path | str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [str(torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
