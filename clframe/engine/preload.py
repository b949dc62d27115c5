"""Imports everything a cell needs, once, in the server that cells are forked from."""

import atexit
import gc
import importlib

from clframe.engine.deferred import defer

NEEDED = ("torchvision", "clframe.engine.run", "clframe.tracking.traces", "avalanche.benchmarks")

defer()
gc.disable()  # what is imported stays; looking for garbage in it takes a sixth of the time
try:
    for name in NEEDED:
        importlib.import_module(name)
finally:
    gc.enable()
atexit.register(gc.unfreeze)  # else some libraries take their objects for leaks, and say so
gc.freeze()  # nor look there again in the forks, which would copy the pages that they share
