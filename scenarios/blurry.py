"""Blurry boundaries: most classes of an experience have been there before, some are new."""

import torch

from clframe.api import (
    ConfigError,
    Draw,
    Scenario,
    by_classes,
    forked_rng,
    generator,
    known,
    load_images,
    whole,
)

LONGEST = 1000  # experiences: a rarer new class is a slip of the pen, not a stream to wait for


def blurry(
    *,
    dataset: str,
    slots: int = 3,
    p_new: float = 0.3,
    p_sample: float = 1.0,
    online: bool = False,
    val_share: float = 0.0,
    train_limit: int | None = None,
    seed: int = 0,
    root: str | None = None,
) -> Scenario:
    """`slots` distinct classes at a time, until every class has come; class-incremental.

    The first experience is new. Later a slot holds with probability `p_new` a new class, while
    there are any, else one seen before. A class brings a share `p_sample` of its training images,
    drawn anew each time, the first included, and is tested on all its test images wherever it is.
    """
    draw = Draw(val_share, train_limit, seed)
    groups = blurry_groups(known(dataset).num_classes, slots=slots, p_new=p_new, seed=seed)
    _chance("p_sample", p_sample)
    with forked_rng():
        streams = by_classes(load_images(dataset, root), groups, draw, portion=p_sample)
        from avalanche import benchmarks

        return streams.scenario(benchmarks, online=online)


def blurry_groups(
    num_classes: int, *, slots: int, p_new: float, seed: int
) -> tuple[tuple[int, ...], ...]:
    """The data set's class numbers that come in each experience, drawn by `seed`."""
    if whole("slots", slots, 1) > num_classes:
        raise ConfigError(
            f"slots={slots}: there are {num_classes} classes, and no class comes twice in one "
            f"experience. Use at most slots={num_classes}."
        )
    _chance("p_new", p_new)
    g = generator(seed, "blurry classes")
    order = torch.randperm(num_classes, generator=g).tolist()
    groups, seen = [tuple(order[:slots])], slots
    while seen < num_classes:
        group: list[int] = []
        for _ in range(slots):
            if seen < num_classes and torch.rand((), generator=g) < p_new:
                group.append(order[seen])
                seen += 1
            else:  # never empty: `slots` classes had come before this experience
                old = [c for c in order[:seen] if c not in group]
                group.append(old[torch.randint(len(old), (), generator=g)])
        groups.append(tuple(group))
        if len(groups) == LONGEST and seen < num_classes:
            raise ConfigError(
                f"p_new={p_new}: {LONGEST} experiences bring {seen} of {num_classes} classes. "
                "Use a larger one, such as p_new=0.3."
            )
    return tuple(groups)


def _chance(key: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ConfigError(f"{key}={value}: expected a number above 0 and up to 1, such as 0.3.")
