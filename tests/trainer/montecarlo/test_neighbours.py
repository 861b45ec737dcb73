"""Classifiers whose answer for a frame depends on the rest of its batch are refused in the first batch; others are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import sample_counts
from rrise.trainer.montecarlo.classifier import make_labeller
from rrise.trainer.montecarlo.neighbours import check_alone

X = torch.from_numpy(np.random.default_rng(0).random((5, 1, 4, 4), dtype=np.float32))
WEIGHT = torch.from_numpy(np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32))


def linear(x: Tensor) -> Tensor:
    return x.flatten(1) @ WEIGHT


def int8_with_one_scale_per_batch(x: Tensor) -> Tensor:
    scale = x.abs().max() / 127
    return linear((x / scale).round() * scale)


class Remembering:
    """Answers by the mean of the batch before."""

    def __init__(self) -> None:
        self.mean = torch.zeros(())

    def __call__(self, x: Tensor) -> Tensor:
        answer = linear(x - self.mean)
        self.mean = x.mean()
        return answer


GUILTY: dict[str, Callable[[Tensor], Tensor]] = {
    "mean of the batch": lambda x: linear(x - x.mean(0)),
    "largest of the batch": lambda x: linear(x / x.max()),
    "dynamic quantisation": int8_with_one_scale_per_batch,
    "attention across the batch": lambda x: (linear(x) @ linear(x).T).softmax(1) @ linear(x),
    "sorted": lambda x: linear(x[x.mean((1, 2, 3)).argsort()]),
    "by the place in the batch": lambda x: linear(x) + torch.arange(len(x))[:, None],
    "by the number of rows": lambda x: linear(x) * len(x),
    "labels only": lambda x: linear(x - x.mean(0)).argmax(1),
    "the batch before": Remembering(),
    "random as well": lambda x: linear(x - x.mean(0)) + 0.1 * torch.randn(len(x), 3),
    "random labels": lambda x: (linear(x - 2 * x.mean()) + 0.3 * torch.randn(len(x), 3)).argmax(1),
}


@pytest.mark.parametrize("name", GUILTY)
def test_dependence_on_the_batch_is_refused(name: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(TrainerError, match="depends on the other frames in its batch"):
        check_alone(GUILTY[name], X)


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_function_of_the_frame_is_not_refused(rows: int) -> None:
    x = torch.rand(rows, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert check_alone(linear, x) is False
    assert check_alone(lambda x: linear(x).argmax(1), x) is False
    # Normalisation over each frame, infinite logits of an impossible class.
    assert check_alone(lambda x: linear(F.instance_norm(x)), x) is False
    assert check_alone(lambda x: torch.cat([linear(x), torch.full((len(x), 1), -torch.inf)], 1), x) is False


def test_dropout_left_on_is_random_but_no_refusal() -> None:
    torch.manual_seed(0)  # refused with probability 4 / 12,870
    assert check_alone(lambda x: linear(F.dropout(x, 0.5)), X) is True


class Normalised(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.last = norm, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(x).flatten(1))


class AlwaysTraining(Normalised):
    def train(self, mode: bool = True) -> AlwaysTraining:
        return super().train(True)


@pytest.mark.parametrize(
    ("module", "cause"),
    [
        (
            Normalised(nn.BatchNorm2d(1, track_running_stats=False)),
            "BatchNorm2d 'norm' has no running statistics",
        ),
        (AlwaysTraining(nn.BatchNorm2d(1)), "BatchNorm2d 'norm' stays in training mode"),
    ],
)
def test_the_culprit_is_named_and_nothing_is_counted(make_store, preprocess, frames, module, cause) -> None:
    store = make_store()
    with pytest.raises(TrainerError, match=cause):
        sample_counts(module.eval(), preprocess, frames, store, 10)
    assert store.samples().sum() == 0


def test_a_black_box_is_refused_likewise(make_store, preprocess, frames) -> None:
    weight = WEIGHT.numpy()
    store = make_store()
    with pytest.raises(TrainerError, match="depends on the other frames"):
        sample_counts(lambda x: (x - x.mean(0)).reshape(len(x), -1) @ weight, preprocess, frames, store, 10)
    assert store.samples().sum() == 0


def test_whatever_the_users_code_raises_is_a_trainer_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("head")

    for classifier in (Broken(), lambda x: {}["head"]):  # type: ignore[index, var-annotated]
        labeller = make_labeller(classifier, 3, "float32", torch.device("cpu"))
        with pytest.raises(TrainerError, match=r"fails on float32 .*KeyError: 'head'"):
            labeller(X)
