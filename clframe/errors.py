"""Errors that are the user's to mend: one line on what is wrong, one on the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ClframeError(ValueError):
    """Bad input; the command line prints it without a traceback and exits with code 2."""


class ConfigError(ClframeError):
    """A key or value of a configuration that cannot be used."""


class PluginError(ClframeError):
    """A strategy or scenario that cannot be found, imported or built."""


class DataError(ClframeError):
    """A data set that is missing or not what its name promises."""


class TrainingError(RuntimeError):
    """A run that cannot go on, such as one whose loss is no longer finite."""


class PeersLost(TrainingError):
    """A rank that waited in vain for the others."""


def nearest(given: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest of `known`, or nothing when none is close."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
