"""Imports everything a cell needs, once, in the server that cells are forked from."""

import avalanche.benchmarks  # noqa: F401
import torchvision  # noqa: F401

import clframe.engine.run  # noqa: F401
