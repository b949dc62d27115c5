"""Scenarios import as clframe.scenarios.<file> from every folder searched for plug-ins."""

from clframe.registry import folders

__path__ = [str(folder) for folder in folders("scenario")]
