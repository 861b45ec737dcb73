"""Larger residual networks that begin as a smaller one: what it computes, with room to learn more (Chen et al. 2016, Net2Net).

A surrogate that starts anew has to find the base classifier's mistakes; one that starts at its weights has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rrise.trainer.networks.resnet import Block, ResNet

SAME = ("kind", "in_channels", "num_classes", "stem_stride", "mean", "std")


def contains(large: Mapping[str, Any], small: Mapping[str, Any]) -> bool:
    """Whether a residual network of spec `large` can begin as one of spec `small`: as many stages, none narrower or shorter."""
    if any(large.get(name) != small.get(name) for name in SAME) or large["kind"] != "resnet":
        return False
    return all(
        len(large[name]) == len(small[name])
        and all(mine >= other for mine, other in zip(large[name], small[name], strict=True))
        for name in ("widths", "blocks")
    )


@torch.no_grad()
def begin_as(large: ResNet, small: ResNet, blocks: tuple[list[int], list[int]]) -> None:
    """Make `large`, freshly initialised, compute what `small` computes, up to rounding.

    The channels of `small` come first and do not see the others, which keep their random weights and which the last layer does
    not see yet. Blocks that `small` lacks pass on what they get.

    blocks: of each stage, of both.
    """
    large.standardise.load_state_dict(small.standardise.state_dict())
    _convolution(large.stem, small.stem)
    _norm(large.norm, small.norm)
    mine, others = list(large.body), list(small.body)
    for count, known in zip(*blocks, strict=True):
        for number in range(count):
            block = mine.pop(0)
            assert isinstance(block, Block)
            if number < known:
                other = others.pop(0)
                assert isinstance(other, Block)
                _block(block, other)
            else:
                block.norm2.weight.zero_()
                block.norm2.bias.zero_()
    _into(large.head.weight, small.head.weight)
    large.head.bias.copy_(small.head.bias)


def _block(large: Block, small: Block) -> None:
    for name in ("conv1", "conv2"):
        _convolution(getattr(large, name), getattr(small, name))
    for name in ("norm1", "norm2"):
        _norm(getattr(large, name), getattr(small, name))
    if isinstance(small.shortcut, nn.Sequential) and isinstance(large.shortcut, nn.Sequential):
        for mine, other in zip(large.shortcut, small.shortcut, strict=True):
            (_convolution if isinstance(mine, nn.Conv2d) else _norm)(mine, other)  # type: ignore[arg-type]


def _convolution(large: nn.Conv2d, small: nn.Conv2d) -> None:
    _into(large.weight, small.weight)


def _into(large: Tensor, small: Tensor) -> None:
    """Weights [out, in, ...]: the first outputs see the first inputs, as in `small`, and no others."""
    rows, columns = small.shape[:2]
    large[:rows] = 0.0
    large[:rows, :columns] = small


def _norm(large: nn.BatchNorm2d, small: nn.BatchNorm2d) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(large, name)[: small.num_features] = getattr(small, name)
