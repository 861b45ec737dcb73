"""What `rrise-train base` says about answers that look like a mistake."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from rrise.trainer.base_classifier.checks import check_base

NAMES = tuple("abcd")
LABELS = np.random.default_rng(0).integers(0, 4, 200)


def frames() -> Tensor:
    """The label is written in the first pixel."""
    x = torch.zeros(200, 1, 2, 2)
    x[:, 0, 0, 0] = torch.from_numpy(LABELS).float()
    return x


def right(x: Tensor) -> Tensor:
    return x[:, 0, 0, 0].round().clamp(0, 3).long()


def test_a_good_classifier_gives_no_cause_for_attention() -> None:
    found = check_base(right, frames(), LABELS, NAMES, 0.2)
    assert found.attention == () and found.accuracy == pytest.approx(0.99, abs=0.01)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda x: torch.tensor([1, 2, 3, 0])[right(x)], r"another order.*from 0.0\d to 0.9\d \(a -> d, b -> a"),
        (lambda x: torch.full((len(x),), 2), "one class takes all: 100.0% of the answers are 'c'"),
        (lambda x: (x[:, 0, 1, 1] * 1000).long() % 4, "no better than always naming the most frequent class"),
        (
            lambda x: torch.where(torch.rand(len(x)) < 0.2, 0, right(x)),
            "differ between two passes over the same noisy frames",
        ),
    ],
)  # fmt: skip
def test_what_looks_wrong(answer, text: str) -> None:
    torch.manual_seed(0)
    (found,) = check_base(answer, frames(), LABELS, NAMES, 0.2).attention
    assert re.search(text, found)


def test_few_frames_and_many_classes_show_no_permutation_by_chance() -> None:
    generator = np.random.default_rng(3)
    labels, answers = generator.integers(0, 30, 40), torch.from_numpy(generator.integers(0, 30, 40))
    found = check_base(
        lambda x: answers[: len(x)], torch.zeros(40, 1, 2, 2), labels, tuple(map(str, range(30))), 0.1
    )
    assert not any("another order" in text for text in found.attention)
