"""The verified tier on numpy: with a base classifier whose smoothed probabilities are known exactly."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from rrise.calibration.statistics.sequential import SequentialTest
from rrise.edge_sdk.auditing.proposals import confirm_proposals
from rrise.edge_sdk.errors import EdgeError

TEST = SequentialTest(sigma=0.25, alpha=0.001)


def linear(x: np.ndarray) -> np.ndarray:
    """Class 1 where the first pixel exceeds 1/2: the true radius of class 1 is x_0 - 1/2."""
    margin = x.reshape(len(x), -1)[:, 0] - 0.5
    return np.stack([0 * margin, margin], axis=1)


def frames(radii: np.ndarray) -> np.ndarray:
    x = np.zeros((len(radii), 1, 2, 2), dtype=np.float32)
    x[:, 0, 0, 0] = 0.5 + radii
    return x


def test_confirms_what_is_true_and_nothing_more():
    true = np.linspace(0.1, 0.6, 30)
    rng = np.random.default_rng(0)
    careful = confirm_proposals(linear, frames(true), np.ones(30, int), true - 0.075, TEST, generator=rng)
    assert careful.confirmed.mean() > 0.9 and (careful.radius <= true).all()
    bold = confirm_proposals(
        linear, frames(true), np.ones(30, int), true + 0.02, TEST, generator=rng, max_samples=5000
    )
    # Thirty wrong confirmations at level 0.001 each: one or more has probability below .03, under this seed none.
    assert not bold.confirmed.any() and (bold.radius <= true).all() and (bold.radius > 0).mean() > 0.5


def test_error_rate_over_frames_at_the_boundary():
    true = np.full(300, 0.25)
    test = SequentialTest(sigma=0.25, alpha=0.05)
    rng = np.random.default_rng(3)
    result = confirm_proposals(
        linear,
        frames(true),
        np.ones(300, int),
        true + 1e-6,
        test,
        generator=rng,
        max_samples=400,
        batch_size=256,
    )
    assert (result.radius > 0.25).sum() <= stats.binom.ppf(1 - 1e-4, 300, 0.05)


def test_labels_do_as_well_as_logits_and_batches_are_always_full():
    sizes = set()

    def labels(x: np.ndarray) -> np.ndarray:
        sizes.add(len(x))
        return linear(x).argmax(axis=1)

    result = confirm_proposals(
        labels, frames(np.array([0.4])), np.array([1]), np.array([0.3]), TEST, batch_size=48,
        generator=np.random.default_rng(1),
    )  # fmt: skip
    assert result.confirmed.all() and sizes == {48}


@pytest.mark.parametrize(
    ("classify", "message"),
    [
        (lambda x: np.full((len(x), 2), np.nan), "returned NaN"),
        (lambda x: np.zeros((1, 2)), "expected logits"),
        (lambda x: np.zeros(len(x)), "expected logits"),
    ],
)
def test_broken_classifiers_are_refused(classify, message):
    with pytest.raises(EdgeError, match=message):
        confirm_proposals(classify, frames(np.array([0.4])), np.array([1]), np.array([0.3]), TEST)


def test_needs_neither_torch_nor_scipy():
    code = (
        "import sys, rrise.edge_sdk.auditing.proposals\nprint([m for m in ('torch', 'scipy', 'onnx', 'zarr')"
    )
    code += " if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
