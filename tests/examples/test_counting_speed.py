"""The counting benchmark runs as a user would run it, on the CPU."""

from __future__ import annotations

import json

import pytest

from tests.examples.test_examples import run


@pytest.mark.long
def test_counting_speed() -> None:
    printed = run(
        "examples/gpu/counting_speed.py", "--device", "cpu", "--network", "resnet20", "--dtype", "float32",
        "--seconds", "0.1", "--rounds", "1", "--json",
    )  # fmt: skip
    result = json.loads(printed)["resnet20"]
    assert {"torch", "onnxruntime"} <= {row["engine"].split()[0] for row in result["rows"]}
    for row in result["rows"]:
        assert row["over_loop"]["wall"] == pytest.approx(row["counting"]["wall"] / result["loop"]["wall"])
