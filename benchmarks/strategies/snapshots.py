"""Keep the network's weights every so many updates: `snapshots+replay`."""

from pathlib import Path

import torch

from clframe.api import Batch, Strategy, Wrapper


class Snapshots(Wrapper):
    """folder: where they go, `<iteration>.pt`. every: updates from one to the next."""

    def __init__(self, base: Strategy, *, folder: str, every: int) -> None:
        super().__init__(base)
        self.folder, self.every, self.updates = Path(folder), every, 0

    def after_batch(self, batch: Batch) -> None:
        super().after_batch(batch)
        if self.updates % self.every == 0:
            torch.save(self.net.state_dict(), self.folder / f"{self.updates + 1}.pt")
        self.updates += 1
