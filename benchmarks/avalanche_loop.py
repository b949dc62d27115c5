"""Avalanche evaluating at every iteration, the way its documentation has it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import CSVLogger
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from avalanche.training.supervised import Naive
from bare import make_net
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms
from work import EXPERIENCES, Work, given, now, peak_mb, report

from clframe.sources import load_images


class Pictures(Dataset[Any]):
    """Items as torchvision's FashionMNIST has them: a PIL image and a number."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.targets = x[:, 0].numpy(), y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.x[index]), self.targets[index]


def stream(work: Work) -> Any:
    """Split Fashion-MNIST, cut down to the samples that the work needs."""
    data, rng = load_images("fashion_mnist"), np.random.RandomState(work.seed)

    def rows(y: torch.Tensor, size: int) -> np.ndarray:
        of = [np.flatnonzero(y.numpy() // 2 == e) for e in range(EXPERIENCES)]
        return np.concatenate([rng.permutation(r)[:size] for r in of])

    train = rows(data.train_y, work.iters * work.batch)
    test = rows(data.test_y, work.subset)
    norm = transforms.Normalize(data.mean, data.std)
    return nc_benchmark(
        Pictures(data.train_x[train], data.train_y[train]),
        Pictures(data.test_x[test], data.test_y[test]),
        n_experiences=EXPERIENCES,
        task_labels=False,
        fixed_class_order=list(range(10)),
        train_transform=transforms.Compose([transforms.ToTensor(), norm]),
        eval_transform=transforms.Compose([transforms.ToTensor(), norm]),
    )


def strategy(work: Work) -> Naive:
    net = make_net(work.net).to(work.device)
    reservoir: Any = ReservoirSamplingBuffer(work.capacity)
    replay = ReplayPlugin(
        mem_size=work.capacity,
        batch_size=work.batch,
        batch_size_mem=work.batch,
        storage_policy=reservoir,
    )
    return Naive(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=work.rate),
        train_mb_size=work.batch,
        train_epochs=work.epochs,
        eval_mb_size=250,
        device=work.device,
        plugins=[replay],
        evaluator=EvaluationPlugin(
            accuracy_metrics(experience=True), loggers=[CSVLogger(Path("csv"))], strict_checks=False
        ),
        eval_every=work.rho or -1,
        peval_mode="iteration",
    )


def main() -> None:
    work = given()
    torch.set_num_threads(1)
    learner, benchmark, samples = strategy(work), stream(work), [0]
    evaluate = learner.eval

    def counted(experiences: Any, **named: Any) -> Any:
        samples[-1] += sum(len(e.dataset) for e in experiences)
        return evaluate(experiences, **named)

    learner.eval = counted
    marks = []
    for k, experience in enumerate(benchmark.train_stream):
        samples.append(0)
        begin, wall = now(work.device), time.time()
        learner.train(experience, eval_streams=[benchmark.test_stream[: k + 1]], num_workers=0)
        seconds = now(work.device) - begin
        marks.append({"seconds": seconds, "wall": time.time() - wall})
    report("avalanche", work, marks, samples=sum(samples[2:]), peak_mb=peak_mb())


if __name__ == "__main__":
    main()
