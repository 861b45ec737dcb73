"""A larger residual network that begins as a smaller one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rrise.trainer.networks import ResNet, build_network
from rrise.trainer.networks.growing import begin_as, contains

SMALL = {
    "kind": "resnet",
    "in_channels": 3,
    "num_classes": 4,
    "widths": [4, 6],
    "blocks": [1, 2],
    "stem_stride": 2,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
}


def trained(spec: dict[str, Any]) -> ResNet:
    """A network whose batch normalisation is not that of a fresh one."""
    torch.manual_seed(0)
    network = build_network(spec)
    assert isinstance(network, ResNet)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize(
    ("widths", "blocks"), [([8, 6], [1, 2]), ([7, 13], [1, 2]), ([4, 6], [3, 2]), ([5, 9], [2, 4])]
)
def test_it_computes_the_same_and_all_of_it_learns(widths: list[int], blocks: list[int]) -> None:
    spec, small = {**SMALL, "widths": widths, "blocks": blocks}, trained(SMALL)
    large = build_network(spec)
    assert isinstance(large, ResNet) and contains(spec, SMALL)
    begin_as(large, small, (blocks, [1, 2]))
    x = torch.rand(16, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(large.eval()(x), small(x), atol=1e-5)
        optimiser = torch.optim.SGD(large.parameters(), 0.05)
    before = {name: value.clone() for name, value in large.named_parameters()}
    for _ in range(4):  # what the last layer does not see yet learns from the second step on
        optimiser.zero_grad()
        nn.functional.cross_entropy(large.train()(x), torch.arange(16) % 4).backward()
        optimiser.step()
    rows = {
        name: (value != before[name]).flatten(1).any(1)
        for name, value in large.named_parameters()
        if value.dim() > 1
    }
    still = [name for name, changed in rows.items() if not changed.all()]
    assert not still


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"widths": [4, 5]}, False),
        ({"widths": [4, 6, 8], "blocks": [1, 2, 1]}, False),
        ({"blocks": [1, 1]}, False),
        ({"stem_stride": 1}, False),
        ({"mean": [0.5, 0.4, 0.2]}, False),
        ({"num_classes": 5}, False),
    ],
)
def test_only_a_larger_network_of_the_same_kind_can(changes: dict[str, Any], fits: bool) -> None:
    assert contains({**SMALL, **changes}, SMALL) is fits
    assert not contains(SMALL, {"kind": "library"})
