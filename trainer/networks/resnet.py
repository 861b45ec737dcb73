"""The built-in residual network, for images of 8 to 224 pixels: as many stages as the size allows, the stem strided."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Standardise(nn.Module):
    """(x - mean) / std per channel.

    It sits inside the network, after the noise, so that sigma and all radii are in [0, 1] pixel units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and a shortcut (He et al. 2016)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network for small images. Batch normalisation folds into the convolutions at inference.

    Every stage after the first halves the size. widths (16, 32, 64) with blocks (3, 3, 3) is the CIFAR ResNet-20,
    with blocks (18, 18, 18) the ResNet-110.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: list[int],
        blocks: list[int],
        mean: list[float],
        std: list[float],
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.standardise = Standardise(mean, std)
        self.stem = nn.Conv2d(in_channels, widths[0], 3, stem_stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        layers: list[nn.Module] = []
        channels = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for number in range(count):
                layers.append(Block(channels, width, 2 if stage > 0 and number == 0 else 1))
                channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees, float32 [B, widths[-1]]."""
        maps: Tensor = self.body(F.relu(self.norm(self.stem(self.standardise(x)))))
        return maps.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits
