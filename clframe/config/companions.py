"""The runs that unlearning is judged by: the same without what was forgotten, or without asking."""

from __future__ import annotations

from collections.abc import Sequence

from clframe.config.part import Part, Some
from clframe.config.requests import Request, never_forgotten, never_learned
from clframe.config.resolve import resolve_options
from clframe.config.schema import RunConfig

SEEDS = 3  # retrained models that a noise floor should be from: the distance between two


class Audit(Part):
    """What `audit` of a grid file may say; `audit: {}` takes all of it as it is.

    relearn_steps: updates that a model has to learn again what it forgot. recovery: images per
    class of the recovery curve. samples: of each experience and split that models are asked about;
    attack_samples: those of them that an SVC is fitted to.
    """

    samples: Some = 1000
    relearn_steps: Some = 100
    recovery: list[Some] = [1, 5, 10, 50]
    attack_samples: Some = 500


def asks_to_forget(cfg: RunConfig) -> bool:
    """Whether the run's stream has a forget request."""
    return any(r.forget is not None for r in cfg.request_list() or [])


def retrained(cfg: RunConfig) -> RunConfig:
    """The run that never saw what `cfg` is told to forget (M_r): the same algorithm and seed."""
    return _learning(cfg, never_learned(cfg.request_list() or []))


def unasked(cfg: RunConfig) -> RunConfig:
    """The run that was never told to forget (M_o)."""
    return _learning(cfg, never_forgotten(cfg.request_list() or []))


def _learning(cfg: RunConfig, requests: list[Request]) -> RunConfig:
    """`cfg` with requests to learn alone, and without whatever is there for forgetting alone."""
    options, chain = dict(cfg.options), []
    for choice in resolve_options(cfg, "strategy"):
        if choice.plugin.only_forgets:
            continue
        name, drop = choice.name, choice.plugin.forgets_by
        if drop:
            name = choice.plugin.name
            options[name] = {k: v for k, v in choice.options.items() if k not in drop}
        chain.append(name)
    update = {"requests": requests, "strategy": "+".join(chain), "options": options}
    return cfg.model_copy(update=update)


def companions(cells: Sequence[RunConfig]) -> list[RunConfig]:
    """Every run that judging `cells` takes beside them, some of them perhaps equal."""
    asked = [cfg for cfg in cells if asks_to_forget(cfg)]
    return [make(cfg) for cfg in asked for make in (retrained, unasked)]
