"""Imports everything a cell needs, once, in the server that cells are forked from."""

import importlib

for name in ("torchvision", "clframe.engine.run", "avalanche.benchmarks"):
    importlib.import_module(name)
