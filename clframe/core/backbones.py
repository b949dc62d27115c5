"""The small networks of the continual-learning literature, for any input shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def mlp(shape: tuple[int, ...], *, hidden: int = 256, depth: int = 2) -> tuple[nn.Module, int]:
    """`depth` fully connected ReLU layers of width `hidden`."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(shape)
    for _ in range(depth):
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*layers), width


def cnn(shape: tuple[int, ...], *, width: int = 16) -> tuple[nn.Module, int]:
    """Two convolutions with pooling and one hidden layer; no batch norm."""
    channels, height, breadth = shape
    flat = 2 * width * (height // 4) * (breadth // 4)
    layers = [
        nn.Conv2d(channels, width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(flat, 128),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers), 128


def lenet(shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """LeNet-5 with ReLU and max-pooling (LeCun et al., 1998): 6 and 16 channels, 120, 84."""
    channels, height, breadth = shape
    flat = 16 * ((height // 2 - 4) // 2) * ((breadth // 2 - 4) // 2)
    layers = [
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(flat, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers), 84


def vgg(
    shape: tuple[int, ...],
    *,
    blocks: Sequence[Sequence[int]] = ((16,), (16,)),
    hidden: Sequence[int] = (500, 500),
) -> tuple[nn.Module, int]:
    """3x3 convolutions of the given widths, max-pooled by 2 after each block, then ReLU layers.

    As VGG (Simonyan and Zisserman, 2015) without batch norm.
    """
    channels, height, breadth = shape
    layers: list[nn.Module] = []
    for block in blocks:
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
        height, breadth = height // 2, breadth // 2
    layers.append(nn.Flatten())
    features = channels * height * breadth
    for width in hidden:
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers), features


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def _resnet18(channels: int, width: int) -> tuple[nn.Module, int]:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        for stride in (1 if stage == 0 else 2, 1):
            layers.append(BasicBlock(inputs, outputs, stride))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), inputs


def slim_resnet18(shape: tuple[int, ...], *, width: int = 20) -> tuple[nn.Module, int]:
    """ResNet-18 for small images with 20 base channels (GEM; Lopez-Paz and Ranzato, 2017)."""
    return _resnet18(shape[0], width)


def resnet18_cifar(shape: tuple[int, ...], *, width: int = 64) -> tuple[nn.Module, int]:
    """ResNet-18 for 32x32 images: 3x3 stem, no max-pool (the backbone of DER and of Mammoth)."""
    return _resnet18(shape[0], width)


BACKBONES: dict[str, Callable[..., tuple[nn.Module, int]]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lenet": lenet,
    "vgg": vgg,
    "slim_resnet18": slim_resnet18,
    "resnet18_cifar": resnet18_cifar,
}
