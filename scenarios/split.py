"""Split a data set by its classes: a few new ones in each experience."""

from clframe.api import Draw, Scenario, by_classes, class_groups, forked_rng, known, load_images


def split(
    *,
    dataset: str,
    experiences: int = 5,
    order: str | list[int] | None = None,
    base: int | None = None,
    increment: int | None = None,
    setting: str = "class",
    online: bool = False,
    val_share: float = 0.0,
    train_limit: int | None = None,
    seed: int = 0,
    root: str | None = None,
) -> Scenario:
    """Equal parts, or `base` classes and then steps of `increment` (which sets their number).

    `order` is the data set's own (None), "shuffled" by `seed`, or a list of all class numbers.
    `setting` is "class", "task" or "domain" (labels then count within the experience).
    `train_limit` caps the training samples of each class.
    """
    draw = Draw(val_share, train_limit, seed)
    groups = class_groups(
        known(dataset).num_classes,
        experiences=experiences,
        order=order,
        base=base,
        increment=increment,
        seed=seed,
    )
    with forked_rng():
        streams = by_classes(load_images(dataset, root), groups, draw, setting=setting)
        from avalanche import benchmarks

        return streams.scenario(benchmarks, online=online)
