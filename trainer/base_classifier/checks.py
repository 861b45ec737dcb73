"""What a base classifier answers on noisy tuning frames, and what in its answers looks like a mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rrise.trainer.learning.feed import seeded

DRAWS, PART = 20, 256
CLEARLY = 3.0
"""Standard errors, over frames, by which an accuracy must lie above another to count as better."""
NEARLY_ALL, WORTH_SAYING = 0.95, 0.1
"""Share of the answers that is "one class takes all", and the gain in accuracy from which a permutation is mentioned."""


@dataclass(frozen=True)
class BaseCheck:
    """accuracy: share of right single noisy evaluations. attention: sentences about what looks wrong, mostly none."""

    accuracy: float
    attention: tuple[str, ...]


def check_base(
    answer: Callable[[Tensor], Tensor],
    inputs: Tensor,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    sigma: float,
) -> BaseCheck:
    """Evaluate `answer`, from inputs to classes int64 [B], on noisy copies of inputs float32 [n, C, H, W].

    labels: int64 [n], the right classes. sigma: noise standard deviation, in [0, 1] pixel units. The noise is the same at
    every call, and so is the judgement of a classifier that is no random one.
    """
    generator, rounds, differing = seeded(0), [], 0
    with torch.inference_mode():
        for part in inputs.split(PART):
            for draw in range(DRAWS):
                noisy = part + sigma * torch.randn(part.shape, generator=generator)
                found = answer(noisy.clone())
                if draw == 0:
                    differing += int((found != answer(noisy.clone())).sum())
                rounds.append(found.numpy())
    sizes = [len(part) for part in inputs.split(PART)]
    answers = np.concatenate(
        [np.stack(rounds[DRAWS * i : DRAWS * (i + 1)], axis=1) for i in range(len(sizes))]
    )
    accuracy = float(np.mean(answers == labels[:, None]))
    found_texts = (
        _two_passes(differing, len(inputs)),
        _one_class(answers, labels, class_names),
        _permuted(answers, labels, class_names),
    )
    texts = tuple(text for text in found_texts if text)
    if not texts[1 if differing else 0 :]:
        texts += tuple(text for text in (_chance(answers, labels),) if text)
    return BaseCheck(accuracy, texts)


def _two_passes(differing: int, frames: int) -> str:
    if not differing:
        return ""
    return (
        f"answers differ between two passes over the same noisy frames ({differing} of {frames}): a random classifier, "
        "such as one with dropout left on. Its counts are sound, but a network in evaluation mode is usually meant"
    )


def _chance(answers: np.ndarray, labels: np.ndarray) -> str:
    majority = float(np.bincount(labels).max() / len(labels))
    right = (answers == labels[:, None]).mean(axis=1)
    if right.mean() > majority + CLEARLY * _error(right):
        return ""
    return (
        f"no better than always naming the most frequent class ({right.mean():.3f}, and {majority:.3f} that way): hardly "
        "anything can be certified. Check weights, input range [0, 1], colour order and sigma"
    )


def _one_class(answers: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> str:
    shares = np.bincount(answers.ravel(), minlength=len(class_names)) / answers.size
    top = int(shares.argmax())
    usual = float(np.mean(labels == top))
    if shares[top] < NEARLY_ALL or usual > shares[top] - WORTH_SAYING:
        return ""
    return (
        f"one class takes all: {shares[top]:.1%} of the answers are {class_names[top]!r}, which {usual:.1%} of the frames "
        "are. A smoothed classifier that is nearly constant certifies large radii that mean nothing; check input range "
        "and sigma"
    )


def _permuted(answers: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> str:
    """Chosen on one half of the frames and tried on the other, so that chance does not look like a permutation."""
    from scipy.optimize import linear_sum_assignment

    number = len(class_names)
    order = np.random.default_rng(0).permutation(len(labels))
    fit, trial = order[: len(order) // 2], order[len(order) // 2 :]
    table = np.zeros((number, number))
    np.add.at(table, (answers[fit].ravel(), np.repeat(labels[fit], answers.shape[1])), 1)
    renamed = linear_sum_assignment(table, maximize=True)[1]
    before = (answers[trial] == labels[trial][:, None]).mean(axis=1)
    after = (renamed[answers[trial]] == labels[trial][:, None]).mean(axis=1)
    gain = after - before
    if not len(trial) or gain.mean() < WORTH_SAYING + CLEARLY * _error(gain):
        return ""
    moved = [
        f"{class_names[i]} -> {class_names[renamed[i]]}" for i in np.flatnonzero(renamed != range(number))
    ]
    return (
        f"the classes seem to be numbered in another order: renaming its answers would lift the accuracy from "
        f"{before.mean():.2f} to {after.mean():.2f} ({', '.join(moved[:6])}{' ...' if len(moved) > 6 else ''}). Data sets "
        f"here are numbered {', '.join(class_names[:6])}{' ...' if number > 6 else ''}"
    )


def _error(values: np.ndarray) -> float:
    """Standard error of the mean over frames."""
    return float(values.std() / max(len(values), 1) ** 0.5)
