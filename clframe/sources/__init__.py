"""Raw data: where it lies, how it is read, and how it is dealt out to experiences."""

from clframe.sources.catalogue import known
from clframe.sources.folder import load_image_folder
from clframe.sources.images import Images, load_images
from clframe.sources.splits import (
    class_groups,
    class_order,
    holdout,
    limit_per_class,
    partition,
    whole,
)
from clframe.sources.streams import Draw, Streams, by_classes, by_views, forked_rng

__all__ = [
    "Draw",
    "Images",
    "Streams",
    "by_classes",
    "by_views",
    "class_groups",
    "class_order",
    "forked_rng",
    "holdout",
    "known",
    "limit_per_class",
    "load_image_folder",
    "load_images",
    "partition",
    "whole",
]
