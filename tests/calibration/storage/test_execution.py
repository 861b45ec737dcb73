"""Executions: equal only when nothing that can change the numbers differs."""

from dataclasses import replace
from typing import Any

import pytest

from rrise.calibration import Execution
from tests.calibration.helpers import EXECUTION


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("artefact", "c" * 64),
        ("runtime", "tensorrt"),
        ("version", "1.31"),
        ("provider", "cuda"),
        ("architecture", "aarch64"),
        ("options", (("threads", "2"),)),
        ("batch_size", 2),
    ],
)
def test_each_field_makes_another_execution(field: str, value: Any) -> None:
    other = replace(EXECUTION, **{field: value})
    assert not EXECUTION.same_as(other)
    assert len(EXECUTION.differences(other)) == 1 and EXECUTION.differences(other)[0].startswith(field)


def test_order_of_options_does_not_matter_and_json_round_trips() -> None:
    one = replace(EXECUTION, options=(("b", "1"), ("a", "2")))
    assert one.same_as(replace(EXECUTION, options=(("a", "2"), ("b", "1"))))
    assert Execution.from_json(one.to_json()) == one


def test_name_is_safe_as_a_folder() -> None:
    odd = replace(EXECUTION, architecture="NVIDIA H100/80GB sm_90 ..\\x")
    assert odd.name == "onnxruntime-cpu-nvidia-h100-80gb-sm_90-..-x-aaaaaaaa"
