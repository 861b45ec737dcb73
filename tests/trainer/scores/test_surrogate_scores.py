from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.special import log_softmax
from scipy.stats import norm

from rrise.trainer.scores.surrogate_scores import run_surrogate, score_surrogate
from rrise.trainer.workspace import Workspace


def test_probit_is_that_of_the_softmax(workspace: Path) -> None:
    made = Workspace.open(workspace)
    network, frames = made.surrogate().module, made.frames("verification")
    prediction = run_surrogate(network, made.preprocess, frames)
    with torch.inference_mode():
        logits = network(made.preprocess(torch.from_numpy(frames))).double().numpy()
    assert np.array_equal(prediction.label, logits.argmax(1))
    expected = norm.ppf(np.exp(log_softmax(logits, axis=1).max(axis=1)))
    ordinary = expected < 5  # beyond that 1 - p has lost its digits, which is why the head starts from logits
    assert ordinary.sum() > 20
    np.testing.assert_allclose(prediction.probit[ordinary], expected[ordinary], atol=2e-4)


def test_the_split_into_batches_changes_no_bit(workspace: Path) -> None:
    made = Workspace.open(workspace)
    network, frames = made.surrogate().module, made.frames("calibration")
    whole = run_surrogate(network, made.preprocess, frames)
    one = run_surrogate(network, made.preprocess, frames[70:71])
    assert len(whole.label) == 100
    assert one.label[0] == whole.label[70]
    assert abs(one.probit[0] - whole.probit[70]) < 1e-5


def test_scores_carry_the_references(workspace: Path) -> None:
    made = Workspace.open(workspace)
    pack, surrogate = made.references("verification"), made.surrogate()
    table = score_surrogate(surrogate.module, made.preprocess, pack, surrogate.digest)
    assert np.array_equal(table.digest, pack.digest) and np.array_equal(table.counts, pack.counts)
    assert table.split == "verification" and table.execution.artefact == surrogate.digest
    assert (
        np.array_equal(table.reference, pack.radius[np.arange(60), table.label]) and table.beta == pack.beta
    )
    assert table.execution.runtime == "pytorch" and table.execution.batch_size == 64
