"""Pre-training: the whole network on the first experience, before the stream begins."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from clframe.config.schema import RunConfig
from clframe.core.experience import Samples, Stream
from clframe.core.net import Net, evaluating
from clframe.core.rng import clock, generator
from clframe.engine.build import stream_info
from clframe.engine.nets import make_net
from clframe.engine.optim import Schedule, build_optimizer
from clframe.errors import TrainingError
from clframe.tracking.files import replace_file

log = logging.getLogger(__name__)


def pretrained(
    cfg: RunConfig, stream: Stream, folder: Path, device: torch.device
) -> dict[str, Any]:
    """The state of a `backbone` trained as `net.pretrain` says, with the `facts` of its training.

    Only data of the first experience are read. Runs of a grid that agree on network, seed, data
    and settings share one file in `folder`: who comes first makes it, the others wait.
    """
    path = folder / f".pretrained-{_key(cfg, stream, device)}.pt"
    with _alone(path.with_suffix(".lock")):
        if not path.is_file():
            file = io.BytesIO()
            torch.save(_train(cfg, stream, device), file)
            replace_file(path, file.getvalue())
    made: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    log.info("net.pretrain: %s", made["facts"])
    return made


def _key(cfg: RunConfig, stream: Stream, device: torch.device) -> str:
    facts = [cfg.net.model_dump(exclude={"freeze"}), cfg.seed, stream.learned[0].train.digest()]
    facts += [stream.num_classes, stream.mean, stream.std, cfg.precision == "64", torch.__version__]
    facts += [device.type]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _train(cfg: RunConfig, stream: Stream, device: torch.device) -> dict[str, Any]:
    assert cfg.net.pretrain is not None
    how, first = cfg.net.pretrain, stream.learned[0]
    clock.set(cfg.seed, 0, "pretrain")
    trained = cfg.net.model_copy(update={"freeze": False})  # it is frozen afterwards
    net = make_net(trained, stream_info(stream), stream.mean, stream.std).to(device)
    net = net.double() if cfg.precision == "64" else net
    net.grow(first.classes)
    net.train()
    optimizer, schedule = build_optimizer(how.optim, net.parameters()), Schedule(how.optim)
    assert optimizer is not None
    batches = -(-len(first.train) // how.batch_size)
    step, total = 0, how.epochs * batches
    for epoch in range(how.epochs):
        order = torch.randperm(len(first.train), generator=generator(cfg.seed, "pretrain", epoch))
        for rows in order.tensor_split(batches):  # of nearly equal sizes: none has a single row
            step += 1
            clock.set(cfg.seed, step, "pretrain")
            for group in optimizer.param_groups:
                group["lr"] = how.optim.lr * schedule(step, total)
            batch = first.train.take(rows.to(first.train.y.device))
            x, y = batch.x.to(device), batch.y.to(device)
            loss = F.cross_entropy(net(net.augment(x)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if not bool(loss.isfinite()):
        raise TrainingError(
            f"net.pretrain: the loss is {loss.item()}; lower net.pretrain.optim.lr."
        )
    accuracy = _accuracy(net, first.eval, device)
    facts = {"pretrain_updates": total, "pretrain_accuracy": accuracy}
    backbone = {k: v.cpu() for k, v in net.backbone.state_dict().items()}
    return {"backbone": backbone, "facts": facts}


def _accuracy(net: Net, data: Samples, device: torch.device) -> float:
    """Share of `data` whose class, among all that are open, is right."""
    right = 0
    with torch.inference_mode(), evaluating(net):
        for x, y in zip(data.x.split(500), data.y.split(500), strict=True):
            right += int((net(x.to(device)).argmax(1).cpu() == y.cpu()).sum())
    return right / len(data)
