"""A finished run's folder turned back into its trained strategy."""

from __future__ import annotations

from pathlib import Path

from clframe.config.identity import from_yaml
from clframe.core.strategy import Strategy, StreamInfo
from clframe.engine import resume
from clframe.engine.build import make_strategy
from clframe.errors import DataError


def load_run(
    folder: str | Path, checkpoint: str = "last.ckpt", *, trained: bool = True
) -> Strategy:
    """The strategy of a run as its last checkpoint left it, in eval mode, on the CPU.

    `checkpoint`: another one of its folder, such as before-2.ckpt, as it was before the forget
    request at position 2 of the stream (`copies=true`). Not `trained`: random weights, with outputs
    for all that it knew then.

    `strategy.predict(x, None)` gives full-width logits of raw inputs (uint8 images or floats);
    `strategy.net` is the network. Needs no data set. Raises DataError when `folder` is no run.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder}: not a run's folder (no config.yaml in it).")
    cfg = from_yaml(folder / "config.yaml")
    state = resume.load(folder / checkpoint)
    facts = state["stream"]
    info = StreamInfo(
        facts["num_classes"], len(facts["experiences"]), facts["setting"], tuple(facts["shape"])
    )
    net = cfg.net.model_copy(update={"pretrained": False, "weights": None})
    strategy = make_strategy(cfg.model_copy(update={"net": net}), info, facts["mean"], facts["std"])
    resume.prepare(strategy, resume.hollow(facts), state["prepared"], cfg.seed)
    if trained:
        strategy.load_state_dict(state["strategy"])
    return strategy.eval()
