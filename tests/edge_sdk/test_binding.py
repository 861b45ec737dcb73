"""ONNX Runtime with bound buffers, on the processor, and what it must refuse on a GPU, with a stand-in for its module."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.errors import FrameError, RuntimeFault, RuntimeUnavailable
from rrise.edge_sdk.runtime import onnxruntime as adapter
from rrise.edge_sdk.runtime.binding import Binding
from rrise.edge_sdk.runtime.cuda import Driver
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from tests.edge_sdk import helpers
from tests.edge_sdk.fake_gpu import FakeCuda
from tests.edge_sdk.helpers import Spec

SPEC = Spec((6, 6, 3), batch=2, seed=1)
FRAMES = helpers.random_frames(SPEC, 6)
NAMES = ["label", "radius", "probit"]


@pytest.fixture(scope="module")
def model() -> bytes:
    return helpers.graph(SPEC, (0.05,), helpers.metadata(SPEC, (0.05,), ""))


def test_bound_buffers_give_what_run_gives(model: bytes) -> None:
    plain = OnnxRuntime.load(model)
    bound = Binding(onnxruntime, plain.session, plain.graph.signature, NAMES, "cpu")
    for start in (0, 2, 4):
        batch = FRAMES[start : start + 2]
        expected, got = plain.run(batch), bound.run(batch)
        for name, value in zip(NAMES, got, strict=True):
            np.testing.assert_array_equal(value, getattr(expected, name))
    assert bound.run(FRAMES[:2])[0] is bound.run(FRAMES[2:4])[0]
    with pytest.raises(FrameError, match=r"expected uint8 \[2, 6, 6, 3\]"):
        bound.run(FRAMES[:1])


def test_a_failed_run_leaves_no_answer_and_is_the_last(model: bytes) -> None:
    plain = OnnxRuntime.load(model)

    class Failing:
        silent = True

        def io_binding(self) -> Any:
            return plain.session.io_binding()

        def run_with_iobinding(self, binding: Any) -> None:
            if not self.silent:
                raise RuntimeError("CUDA failure 700")

    session = Failing()
    bound = Binding(onnxruntime, session, plain.graph.signature, NAMES, "cpu")
    label, radius, _ = bound.run(FRAMES[:2])
    assert (label == -1).all() and np.isnan(radius).all()
    session.silent = False
    for message in ("CUDA failure 700", "out of use since an earlier failure"):
        with pytest.raises(RuntimeFault, match=message):
            bound.run(FRAMES[:2])


class FakeModule(SimpleNamespace):
    """onnxruntime as a GPU build would look; its sessions compute on the processor."""

    def __init__(self, *, cpu_nodes: bool = False, falls_back: bool = False, tf32: str = "0") -> None:
        super().__init__(
            **{name: getattr(onnxruntime, name) for name in ("ExecutionMode", "GraphOptimizationLevel")}
        )
        self.__version__ = "1.31.1"
        self.asked: list[Any] = []
        self.entries: list[Any] = []
        fake = self

        class Options(onnxruntime.SessionOptions):
            def add_session_config_entry(self, key: str, value: str) -> None:
                fake.entries.append((key, value))

        class Session(onnxruntime.InferenceSession):
            def __init__(self, data: Any, options: Any, providers: Any, **keywords: Any) -> None:
                fake.asked.append((providers, keywords))
                if cpu_nodes and fake.entries[-1] == ("session.disable_cpu_ep_fallback", "1"):
                    raise RuntimeError(
                        "nodes that are assigned to the default CPU EP, but fallback is disabled"
                    )
                super().__init__(data, providers=["CPUExecutionProvider"])

            def get_providers(self) -> list[str]:
                return (
                    ["CPUExecutionProvider"]
                    if falls_back
                    else ["CUDAExecutionProvider", "CPUExecutionProvider"]
                )

            def get_provider_options(self) -> dict[str, dict[str, str]]:
                return {"CUDAExecutionProvider": {"use_tf32": tf32, "cudnn_conv_algo_search": "HEURISTIC"}}

        class OnHost:
            ortvalue_from_numpy = onnxruntime.OrtValue.ortvalue_from_numpy

            @staticmethod
            def ortvalue_from_shape_and_type(shape: Any, kind: Any, device: str, number: int) -> Any:
                assert (device, number) == ("cuda", 0)
                return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", 0)

        self.SessionOptions, self.InferenceSession, self.OrtValue = Options, Session, OnHost

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def on_cuda(model: bytes, fake: FakeModule, monkeypatch: pytest.MonkeyPatch) -> OnnxRuntime:
    driver = Driver.open(FakeCuda())
    monkeypatch.setattr(adapter, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(adapter, "Driver", SimpleNamespace(open=lambda: driver))
    return OnnxRuntime.load(model, provider="cuda")


def test_cuda_is_strict_without_tf32_and_without_fallback(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fake = OnnxRuntime.load(model), FakeModule()
    runtime = on_cuda(model, fake, monkeypatch)
    options = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert fake.asked == [([("CUDAExecutionProvider", options)], {"enable_fallback": 0})]
    assert ("session.disable_cpu_ep_fallback", "1") in fake.entries
    recorded = dict(runtime.execution.options)
    assert recorded["use_tf32"] == "0" and recorded["cpu_nodes"] == "none" and runtime.note == ""
    assert runtime.execution.architecture == "Fake sm_87"
    twin, outputs = runtime.clone(), run_all(plain, FRAMES)
    for each in (runtime, twin):
        np.testing.assert_array_equal(run_all(each, FRAMES).probit, outputs.probit)
        label, radius = each.answer(FRAMES[:2])
        np.testing.assert_array_equal(label, outputs.label[:2])
        np.testing.assert_array_equal(radius, outputs.radius[:2])
    assert twin.answer(FRAMES[:2])[0] is not runtime.answer(FRAMES[:2])[0]


def test_nodes_without_a_kernel_are_another_execution_and_said(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = on_cuda(model, FakeModule(), monkeypatch).execution
    mixed = on_cuda(model, FakeModule(cpu_nodes=True), monkeypatch)
    assert "some nodes run on the processor" in mixed.note and not mixed.execution.same_as(strict)


def test_a_fallback_or_an_ignored_option_is_refused(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeUnavailable, match="fell back to CPUExecutionProvider"):
        on_cuda(model, FakeModule(falls_back=True), monkeypatch)
    with pytest.raises(RuntimeUnavailable, match=r"took \{'use_tf32': '1'\}"):
        on_cuda(model, FakeModule(tf32="1"), monkeypatch)


def test_sessions_never_go_over_to_another_provider(model: bytes) -> None:
    """By default onnxruntime's Python class retries a failed run on the processor, which is another execution."""
    assert OnnxRuntime.load(model).session._enable_fallback is False
