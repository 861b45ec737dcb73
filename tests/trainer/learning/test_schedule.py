from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.fitting import PRETRAINED, SCRATCH, TRAINED, schedule_for
from rrise.trainer.learning.schedule import Average, Optimiser, Schedule, cosine, layer_factors, one_cycle
from rrise.trainer.settings.config import BaseConfig, SurrogateConfig


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=False)


@pytest.mark.parametrize("shape", [one_cycle, cosine])
def test_rates_rise_once_and_fall_to_nothing(shape) -> None:
    values = [shape(step / 1000) for step in range(1001)]
    top = max(range(1001), key=values.__getitem__)
    assert values[top] == pytest.approx(1.0) and values[-1] == pytest.approx(0.0, abs=1e-9)
    assert values[: top + 1] == sorted(values[: top + 1])
    assert values[top:] == sorted(values[top:], reverse=True)


def test_sizes_are_whole_batches_and_the_same_for_every_process() -> None:
    schedule = Schedule(3, 64, 0.1)
    assert (schedule.size(1000), schedule.steps(1000), schedule.examples(1000)) == (64, 45, 2880)
    assert schedule.size(10) == 10 and schedule.size(1000, processes=3) == 63
    with pytest.raises(TrainerError, match="a batch of 2 frames for 3 processes"):
        schedule.size(2, processes=3)


def test_sgd_step_is_nesterov_momentum_with_decay() -> None:
    """Against the recursion written out (Sutskever et al. 2013, as PyTorch documents it)."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 2.0)
    optimiser = Optimiser(module, Schedule(1, 1, 0.1, weight_decay=0.01))
    weight, velocity = 2.0, 0.0
    for step in range(5):
        module.weight.grad = torch.tensor([[3.0]])
        optimiser.step(step / 5, scaler())
        gradient = 3.0 + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight -= 0.1 * one_cycle(step / 5) * (gradient + 0.9 * velocity)
    assert float(module.weight.detach()) == pytest.approx(weight, rel=1e-5)


def test_clipping_limits_the_gradient_of_all_weights_together() -> None:
    module = nn.Linear(4, 1, bias=False)
    before = module.weight.detach().clone()
    optimiser = Optimiser(module, Schedule(1, 1, 1.0, shape="cosine", clip=1.0))
    module.weight.grad = torch.full((1, 4), 50.0)
    optimiser.step(0.5, scaler())
    moved = (module.weight.detach() - before).norm()
    assert float(moved) == pytest.approx(cosine(0.5) * (1 + 0.9), rel=1e-4)


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, 3)


def test_layers_far_from_the_head_move_less() -> None:
    names = [name for name, _ in Deep().named_parameters()]
    factors = layer_factors(names, 0.5)
    assert factors["head.weight"] == 1.0 and factors["norm.bias"] == 0.5
    assert factors["blocks.1.weight"] == 0.25 and factors["blocks.0.bias"] == 0.125
    assert factors["stem.weight"] == 0.0625
    nested = layer_factors(
        ["vit.encoder.layer.0.a.weight", "vit.encoder.layer.1.a.weight", "classifier.bias"], 0.1
    )
    assert list(nested.values()) == pytest.approx([0.01, 0.1, 1.0])


def test_adamw_spares_biases_and_normalisation() -> None:
    module = Deep()
    optimiser = Optimiser(module, Schedule(1, 1, 0.1, weight_decay=0.3, optimiser="adamw"))
    for group in optimiser.inner.param_groups:
        assert all((weight.ndim < 2) == (group["weight_decay"] == 0) for weight in group["params"])
    sizes = sum(len(group["params"]) for group in optimiser.inner.param_groups)
    assert sizes == len(list(module.parameters()))


def test_average_forgets_its_start_and_follows_the_weights() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    average, expected = Average(module, 0.99), 0.0
    for step in range(200):
        nn.init.constant_(module.weight, float(step))
        average.update(module, step)
        share = 1 - min(0.99, (1 + step) / (10 + step))
        expected += share * (step - expected)
    assert float(average.network.weight.detach()) == pytest.approx(expected, rel=1e-4)  # type: ignore[operator]


def test_rates_fit_what_training_starts_from() -> None:
    base = schedule_for(BaseConfig(), 80, SCRATCH, 1000)
    assert (base.optimiser, base.learning_rate, base.shape, base.layer_decay) == (
        "sgd",
        0.1,
        "one-cycle",
        1.0,
    )
    fine = schedule_for(BaseConfig(batch_size=32), 10, PRETRAINED, 1000)
    assert fine.optimiser == "adamw" and fine.learning_rate < 2e-4 and fine.layer_decay < 1 and fine.clip == 1
    many = schedule_for(SurrogateConfig(batch_size=128), 8, TRAINED, 50_000)
    assert many.learning_rate == pytest.approx(0.01 * math.sqrt(2))
    asked = schedule_for(SurrogateConfig(learning_rate=0.3, optimiser="adamw"), 8, PRETRAINED, 100, member=2)
    assert (asked.learning_rate, asked.optimiser, asked.seed) == (0.3, "adamw", 200)
