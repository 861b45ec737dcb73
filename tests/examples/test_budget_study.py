"""The budget study runs on the shared tiny workspace, and its arithmetic is right."""

from __future__ import annotations

import json
from pathlib import Path

from tests.examples.test_examples import run


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
