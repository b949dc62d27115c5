"""Note when the first update has been made: `stopwatch+replay`."""

import time
from pathlib import Path

from clframe.api import Batch, Strategy, Wrapper


class Stopwatch(Wrapper):
    """folder: a file of this process there is told the seconds since the epoch."""

    def __init__(self, base: Strategy, *, folder: str) -> None:
        super().__init__(base)
        self.folder, self.running = folder, False

    def after_step(self, batch: Batch) -> None:
        super().after_step(batch)
        if not self.running:
            self.running = True
            Path(self.folder, str(time.time())).touch()
