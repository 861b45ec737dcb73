from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy, norm

from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.losses import consistency_loss, jensen_shannon, probit_of_class, soft_loss


def random_logits(*shape: int) -> torch.Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_consistency_is_the_published_formula() -> None:
    """Written out frame by frame with scipy: cross-entropy, KL(p_bar || p_j) and H(p_bar)."""
    logits, labels = random_logits(3, 5, 4), torch.tensor([0, 1, 2, 3, 0])
    p = softmax(logits.double().numpy(), axis=-1)
    total = 0.0
    for frame, label in enumerate(labels.tolist()):
        mean = p[:, frame].mean(0)
        total += np.mean([-np.log(p[copy, frame, label]) for copy in range(3)])
        total += 10.0 * np.mean([entropy(mean, p[copy, frame]) for copy in range(3)])
        total += 0.5 * entropy(mean)
    assert float(consistency_loss(logits, labels, 10.0, 0.5)) == pytest.approx(total / 5, rel=1e-5)


def test_consistency_of_equal_copies_is_cross_entropy_and_entropy() -> None:
    logits = random_logits(1, 6, 3).repeat(2, 1, 1)
    labels = torch.zeros(6, dtype=torch.int64)
    plain = torch.nn.functional.cross_entropy(logits[0], labels)
    assert float(consistency_loss(logits, labels, 1000.0, 0.0)) == pytest.approx(float(plain), rel=1e-4)


def test_jensen_shannon_against_scipy() -> None:
    logits, shares = random_logits(7, 4), torch.softmax(random_logits(4, 7).T, 1)
    p, q = softmax(logits.double().numpy(), axis=1), shares.double().numpy()
    expected = np.mean(
        [0.5 * entropy(a, (a + b) / 2) + 0.5 * entropy(b, (a + b) / 2) for a, b in zip(p, q, strict=True)]
    )
    assert float(jensen_shannon(logits, shares)) == pytest.approx(expected, rel=1e-5)


def test_probit_of_class_against_scipy() -> None:
    logits, label = random_logits(50, 5), torch.arange(50) % 5
    p = softmax(logits.double().numpy(), axis=1)[np.arange(50), label.numpy()]
    np.testing.assert_allclose(probit_of_class(logits, label).numpy(), norm.ppf(p), atol=1e-3)


def test_losses_by_name() -> None:
    logits, shares = random_logits(8, 3), torch.softmax(random_logits(3, 8).T, 1)
    both = soft_loss("both", logits, shares, 100)
    parts = [soft_loss(name, logits, shares, 100) for name in ("ce", "probit")]
    assert float(both) == pytest.approx(float(sum(parts)), rel=1e-6)
    with pytest.raises(TrainerError, match="loss: got 'mse'"):
        soft_loss("mse", logits, shares, 100)
