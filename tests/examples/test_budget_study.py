"""The budget study runs on the shared tiny workspace, and its arithmetic is right."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from calibration import Scores
from tests.examples.test_examples import ROOT, run
from trainer import TrainerError


def test_budget_study(workspace: Path) -> None:
    printed = run(
        "examples/budget_study.py", workspace, "--seeds", "1", "--epochs", "2", "--samples", "2",
        "--stored", "20", "--stored", "100", "--references", "100", "--references", "200", "--json",
    )  # fmt: skip
    points = json.loads(printed)["points"]
    assert {(p["way"]["method"], p["way"]["samples"], p["references"]) for p in points} == {
        *(("fresh", 2, n) for n in (100, 200)), *(("stored", m, n) for m in (20, 100) for n in (100, 200)),
    }  # fmt: skip
    for samples in (2, 20, 100):
        few, many = (
            p["passes"]
            for p in sorted(points, key=lambda p: p["references"])
            if p["way"]["samples"] == samples
        )
        # Tuning, calibration and verification hold 40 + 100 + 60 frames.
        assert many - few == 100 * 200
    assert all(0 <= point["mean"] <= 1 for point in points)
    # 360 training frames: 20 draws of each instead of 100 save 360 * 80.
    less, more = (
        next(p["passes"] for p in points if p["way"]["samples"] == samples and p["references"] == 100)
        for samples in (20, 100)
    )
    assert more - less == 360 * 80
    # A training example costs three passes; the fresh way adds two evaluations per view.
    fresh = next(p["passes"] for p in points if p["way"]["method"] == "fresh" and p["references"] == 100)
    assert (fresh - 100 * 200) % 5 == 0


def test_thinned_counts_are_distributed_like_fewer_draws(workspace: Path) -> None:
    namespace = runpy.run_path(str(ROOT / "examples" / "budget_study.py"))
    table = Scores.load(next((workspace / "scores").glob("pytorch-*/calibration.npz")))
    runs = [namespace["thin"](table, 50, np.random.default_rng(seed)) for seed in range(400)]
    thinned = np.stack([run.counts.astype(np.int64) for run in runs])
    assert (thinned.sum(axis=2) == 50).all() and (thinned <= table.counts).all()
    # Hypergeometric means and variances of every frame's top class; 100 frames, 5.5 standard errors.
    top = table.counts.argmax(axis=1)
    values, share = thinned[:, np.arange(len(top)), top], table.counts.max(axis=1) / table.num_samples
    spread = np.sqrt(50 * share * (1 - share) * (1 - 50 / table.num_samples))
    assert (np.abs(values.mean(axis=0) - 50 * share) <= 5.5 * spread / np.sqrt(400) + 1e-9).all()
    with pytest.raises(TrainerError, match="expected at most 200"):
        namespace["thin"](table, 400, np.random.default_rng(0))
