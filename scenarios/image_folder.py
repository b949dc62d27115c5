"""Split your own images: a folder with one folder per class."""

from clframe.api import Draw, Scenario, by_classes, class_groups, forked_rng, load_image_folder


def image_folder(
    *,
    path: str,
    size: int = 64,
    test_share: float = 0.2,
    experiences: int = 5,
    order: str | list[int] | None = None,
    base: int | None = None,
    increment: int | None = None,
    setting: str = "class",
    online: bool = False,
    val_share: float = 0.0,
    train_limit: int | None = None,
    seed: int = 0,
) -> Scenario:
    """Class folders in `path`, or in its `train/` and `test/`; images become `size` x `size`.

    Without a test part, the same `test_share` of each class becomes one, whatever the seed. The
    other options are those of `split`.
    """
    draw = Draw(val_share, train_limit, seed)
    with forked_rng():
        images = load_image_folder(path, size, test_share=test_share)
        groups = class_groups(
            images.num_classes,
            experiences=experiences,
            order=order,
            base=base,
            increment=increment,
            seed=seed,
        )
        streams = by_classes(images, groups, draw, setting=setting)
        from avalanche import benchmarks

        return streams.scenario(benchmarks, online=online)
