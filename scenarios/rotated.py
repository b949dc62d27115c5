"""Rotate the images: the same ones in each experience, each time by another angle."""

from functools import partial

import torch
from torch import Tensor

from clframe.api import ConfigError, Draw, Scenario, by_views, forked_rng, load_images, whole

CHUNK = 1000  # images rotated at once: few enough for the cache, and for the memory


def rotated(
    *,
    dataset: str,
    experiences: int | None = None,
    max_angle: float = 180.0,
    angles: list[float] | None = None,
    setting: str = "domain",
    online: bool = False,
    val_share: float = 0.0,
    train_limit: int | None = None,
    seed: int = 0,
    root: str | None = None,
) -> Scenario:
    """Turn by `angles`, or by equal steps (5 by default) from 0 to `max_angle` degrees, leftwards.

    setting: "domain", or "task", which tells the experience's number as well. `seed` decides which
    samples are used, not the angles.
    """
    draw = Draw(val_share, train_limit, seed)
    turns = _angles(experiences, max_angle, angles)
    with forked_rng():
        views = [partial(rotate, a) for a in turns]
        streams = by_views(load_images(dataset, root), views, draw, setting)
        from avalanche import benchmarks

        return streams.scenario(benchmarks, online=online)


def _angles(experiences: int | None, max_angle: float, angles: list[float] | None) -> list[float]:
    for key, value in [("max_angle", max_angle), *(("angles", a) for a in angles or [])]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{key}={value!r}: expected degrees, such as 45.")
    if angles is None:
        number = whole("experiences", 5 if experiences is None else experiences, 1)
        return [max_angle * e / max(1, number - 1) for e in range(number)]
    if not angles or experiences not in (None, len(angles)):
        raise ConfigError(
            f"angles={angles}: expected one angle for each of experiences={experiences}. "
            f"Leave experiences out, or use experiences={max(1, len(angles))}."
        )
    return list(angles)


def rotate(angle: float, x: Tensor) -> Tensor:
    """Images `x` turned by `angle` degrees, bilinearly, with black where nothing was."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import rotate as turn

    if angle % 360 == 0:
        return x
    return torch.cat([turn(part, angle, InterpolationMode.BILINEAR) for part in x.split(CHUNK)])
