"""The training benchmark runs as a user would run it, on the CPU."""

from __future__ import annotations

import json

import pytest

from tests.examples.test_examples import run


@pytest.mark.long
def test_training_speed() -> None:
    printed = run(
        "examples/training_speed.py", "--size", "16", "--batch", "8", "--steps", "2", "--rounds", "1", "--device", "cpu",
        "--json",
    )  # fmt: skip
    found = json.loads(printed)
    assert found["rrise"] > 0 and found["share"] == pytest.approx(found["rrise"] / found["plain loop"])
