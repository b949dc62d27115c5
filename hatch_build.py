"""Copies the plug-in folders into wheels; an editable install finds them in the checkout."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PluginFolders(BuildHookInterface):  # type: ignore[type-arg]
    """`strategies`, `scenarios` and `conf` become `clframe/strategies`, ... of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard" and self.target_name == "wheel":
            for folder in ("strategies", "scenarios", "conf"):
                build_data["force_include"][f"{self.root}/{folder}"] = f"clframe/{folder}"
