"""All that a plug-in may import: `from clframe.api import Strategy, ReplayBuffer, ...`."""

from clframe.core.augment import ResizedCrop
from clframe.core.buffer import ReplayBuffer
from clframe.core.dist import agreed, gather, global_size, mean_grad, mean_of, part, total
from clframe.core.experience import Batch, Experience, Samples, Scenario, Stream
from clframe.core.forgetting import ForgetSteps, needs_forget_data, needs_plain_net
from clframe.core.gradients import fisher_diagonal
from clframe.core.hypernet import GeneratedNet, Hypernet, TaskHypernet, preservation, towards_noise
from clframe.core.losses import (
    class_counts,
    cross_entropy,
    distillation,
    keep_classes,
    mean_squared_error,
    pair_contrast,
    proxy_contrast,
    proxy_distillation,
    relation_distillation,
)
from clframe.core.memory import Archive, decode, encode, first_of_each
from clframe.core.neighbours import Neighbours
from clframe.core.net import CLOSED, CosineLinear, Net, evaluating, frozen_state
from clframe.core.options import check_above, check_choice, check_least, check_range
from clframe.core.ridge import RidgeInverse, RidgeMoments
from clframe.core.rng import generator, shared_rng
from clframe.core.sparse import SparseChain
from clframe.core.strategy import (
    Frozen,
    Readout,
    Strategy,
    StreamInfo,
    Wrapper,
)
from clframe.core.svm import linear_svm
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
    "CLOSED",
    "Archive",
    "Batch",
    "ConfigError",
    "CosineLinear",
    "DataError",
    "Draw",
    "Experience",
    "ForgetSteps",
    "Frozen",
    "GeneratedNet",
    "Hypernet",
    "Images",
    "Neighbours",
    "Net",
    "Readout",
    "ReplayBuffer",
    "ResizedCrop",
    "RidgeInverse",
    "RidgeMoments",
    "Samples",
    "Scenario",
    "SparseChain",
    "Strategy",
    "Stream",
    "StreamInfo",
    "Streams",
    "TaskHypernet",
    "Wrapper",
    "agreed",
    "by_classes",
    "by_views",
    "check_above",
    "check_choice",
    "check_least",
    "check_range",
    "class_counts",
    "class_groups",
    "class_order",
    "cross_entropy",
    "decode",
    "distillation",
    "encode",
    "evaluating",
    "first_of_each",
    "fisher_diagonal",
    "forked_rng",
    "frozen_state",
    "gather",
    "generator",
    "global_size",
    "holdout",
    "keep_classes",
    "known",
    "limit_per_class",
    "linear_svm",
    "load_image_folder",
    "load_images",
    "mean_grad",
    "mean_of",
    "mean_squared_error",
    "needs_forget_data",
    "needs_plain_net",
    "pair_contrast",
    "part",
    "partition",
    "preservation",
    "proxy_contrast",
    "proxy_distillation",
    "relation_distillation",
    "shared_rng",
    "total",
    "towards_noise",
    "whole",
]
