"""All that a plug-in may import: `from clframe.api import Strategy, ReplayBuffer, ...`."""

from clframe.core.buffer import ReplayBuffer
from clframe.core.dist import gather, global_size, mean_grad, part, total
from clframe.core.experience import Batch, Experience, Samples, Scenario, Stream
from clframe.core.losses import cross_entropy, distillation, keep_classes, mean_squared_error
from clframe.core.net import CosineLinear, Net, evaluating, frozen_state
from clframe.core.rng import generator, shared_rng
from clframe.core.strategy import Frozen, Readout, Strategy, StreamInfo, Wrapper
from clframe.errors import ConfigError, DataError
from clframe.sources import (
    Draw,
    Images,
    Streams,
    by_classes,
    by_views,
    class_groups,
    class_order,
    forked_rng,
    holdout,
    known,
    limit_per_class,
    load_image_folder,
    load_images,
    partition,
    whole,
)

__all__ = [
    "Batch",
    "ConfigError",
    "CosineLinear",
    "DataError",
    "Draw",
    "Experience",
    "Frozen",
    "Images",
    "Net",
    "Readout",
    "ReplayBuffer",
    "Samples",
    "Scenario",
    "Strategy",
    "Stream",
    "StreamInfo",
    "Streams",
    "Wrapper",
    "by_classes",
    "by_views",
    "class_groups",
    "class_order",
    "cross_entropy",
    "distillation",
    "evaluating",
    "forked_rng",
    "frozen_state",
    "gather",
    "generator",
    "global_size",
    "holdout",
    "keep_classes",
    "known",
    "limit_per_class",
    "load_image_folder",
    "load_images",
    "mean_grad",
    "mean_squared_error",
    "part",
    "partition",
    "shared_rng",
    "total",
    "whole",
]
