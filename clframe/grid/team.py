"""The ranks of one cell, started, followed and ended as one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from clframe.config.identity import to_yaml
from clframe.config.schema import RunConfig
from clframe.errors import ConfigError
from clframe.grid.launch import PREFIXES, RANKS, Handle, Launch, environment, fork, stop
from clframe.ranks import LOST, NODES, Seat, seat
from clframe.tracking.store import RunStore

GRACE = 2.0  # seconds in which the others may say what they saw when a rank fails


class Team:
    """The ranks that run here; they end with the first that fails.

    `poll` is the exit code of the rank that failed of itself, `failed` its number: one that was
    killed before one that failed, and that before those that only lost their peers. `first` is the
    number of the first member.
    """

    def __init__(self, members: Sequence[Handle], first: int = 0) -> None:
        self.members, self.first = members, first
        self.failed: int | None = None
        self.codes: list[int | None] | None = None  # when we ended those that had not ended
        self._since: float | None = None

    @property
    def pid(self) -> int:
        return self.members[0].pid

    def poll(self) -> int | None:
        codes = [m.poll() for m in self.members]
        if None in codes:
            if any(codes) and self.codes is None:
                self._since = self._since or time.monotonic()
                if time.monotonic() - self._since > GRACE:
                    self.codes = codes
                    self.kill()
            return None
        bad = [(code, member) for member, code in enumerate(self.codes or codes) if code]
        if not bad:
            return 0
        code, member = min(bad, key=lambda one: (one[0] >= 0, one[0] == LOST))
        self.failed = self.first + member
        return code

    def terminate(self) -> None:
        for member in self.members:
            member.terminate()

    def kill(self) -> None:
        for member in self.members:
            member.kill()


def outside(cfg: RunConfig) -> Seat | None:
    """The place among the ranks of `cfg` that torchrun, srun or the user has given this process.

    None where the ranks are ours to start. Raises ConfigError where the places do not fit.
    """
    if cfg.world == 1:
        return None
    given = seat()
    if given is not None and given.world != cfg.world:
        raise ConfigError(
            f"devices: {cfg.devices} on num_nodes: {cfg.num_nodes} are {cfg.world} processes, and "
            f"{given.launcher} has started {given.world}. Make them equal."
        )
    if given is None and cfg.num_nodes > 1:
        missing = [key for key in NODES if key not in os.environ]
        if missing:
            raise ConfigError(
                f"num_nodes: {cfg.num_nodes} machines are wanted, and this process knows of one. "
                "Start the same command on each with torchrun or srun, or by hand with NODE_RANK, "
                f"MASTER_ADDR and MASTER_PORT set there (missing: {', '.join(missing)})."
            )
        said = os.environ["NODE_RANK"]
        if not said.isdigit() or int(said) >= cfg.num_nodes:
            raise ConfigError(
                f"NODE_RANK: {said!r} is none of 0 to {cfg.num_nodes - 1} (num_nodes)."
            )
        node = int(said)
        return Seat("by hand", node * cfg.devices, cfg.world, 0)
    return given


def team(cfg: RunConfig, start: Launch = fork) -> Launch:
    """How to start the ranks of `cfg` that belong here: all of them, or the one of our place."""
    place = outside(cfg)

    def launch(folder: Path, env: dict[str, str], log: Path) -> Handle:
        if place is not None and place.launcher != "by hand":
            told = {k: v for k, v in os.environ.items() if k in RANKS or k.startswith(PREFIXES)}
            own = {"RANK": str(place.rank), "LOCAL_RANK": str(place.local)}
            return Team([start(folder, env | told | own, log)], place.rank)
        if place is not None:
            meeting = {key: os.environ[key] for key in NODES}
        else:
            meeting = {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
            meeting["MASTER_PORT"] = str(free_port())
        first = place.rank if place is not None else 0
        members: list[Handle] = []
        try:
            for local in range(cfg.devices):
                own = _seat_of(first + local, local, cfg.world)
                members.append(start(folder, env | meeting | own, log))
        except BaseException:
            Team(members).kill()
            raise
        return Team(members, first)

    return launch


def take_part(cfg: RunConfig, folder: Path) -> int:
    """Run the ranks that belong here of a cell that another process supervises; their exit code."""
    store, deadline = RunStore(folder), time.monotonic() + cfg.timeout
    told = yaml.safe_load(to_yaml(cfg))
    while not store.config_path.exists() or store.read_config() != told:  # or an earlier run's
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{folder}: rank 0 has not come within {cfg.timeout:g} s (timeout). All machines "
                "must share the folder of runs, and run the same command."
            )
        time.sleep(0.1)
    handle = team(cfg)(folder, environment(cfg.threads), store.log_path)
    try:
        while (code := handle.poll()) is None:
            time.sleep(0.1)
    except BaseException:
        stop(handle)
        raise
    return code if code in (0, 1, 2) else 1


def _seat_of(rank: int, local: int, world: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(world)}


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port
