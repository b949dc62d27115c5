"""Getting a data set through torchvision, whole or not at all."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from clframe.sources.catalogue import Known
from clframe.sources.network import unreachable

SECONDS = 20.0


def download(dataset: Known, target: Path) -> str | None:
    """Let torchvision download and verify `dataset` into `target`; returns why it failed, if so.

    It arrives in a folder of its own and is moved at the end, so that neither an interrupted
    download nor a second process ever shows half a data set. Where it fails, folders that were not
    there are not there afterwards.
    """
    import torchvision

    if dataset.torchvision is None:
        return None
    kind = getattr(torchvision.datasets, dataset.torchvision)
    if why := unreachable(_addresses(kind)):
        return why
    absent = [folder for folder in (target, *target.parents) if not folder.exists()]
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target) as scratch:
            part = {"split": dataset.split} if dataset.split else {}
            kind(scratch, train=True, download=True, **part)
            _move(Path(scratch), target)
    except (OSError, RuntimeError, HTTPException, EOFError) as e:
        with suppress(OSError):  # what is in use by now stays
            for folder in absent:
                folder.rmdir()
        return " ".join(str(e).split()) or type(e).__name__
    finally:
        socket.setdefaulttimeout(patience)
    return None


def _addresses(kind: Any) -> list[str]:
    """Where torchvision would download from."""
    url = getattr(kind, "url", None)  # wins over mirrors, which may be a parent class's
    return [url] if url else list(getattr(kind, "mirrors", ()))


def _move(scratch: Path, target: Path) -> None:
    for folder in [p for p in scratch.iterdir() if p.is_dir()]:
        try:
            os.replace(folder, target / folder.name)
        except OSError:
            if not (target / folder.name).is_dir():  # else another process was faster
                raise
