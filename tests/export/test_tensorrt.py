"""NVIDIA's own parser and builder (TensorRT for RTX, which needs no GPU to build) on every exported graph."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper

from rrise.calibration.tables.references import References
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.device.verify import VerificationVerdict
from rrise.edge_sdk.errors import RuntimeUnavailable
from rrise.edge_sdk.formats.noise import ReplayNoise
from rrise.edge_sdk.runtime.cuda import Device, Driver
from rrise.edge_sdk.runtime.engines import EngineKey, engine_key
from rrise.export import on_device
from rrise.export.cli import main
from rrise.export.errors import ExportError
from rrise.export.lowering.engine import build_engine
from rrise.export.lowering.head import attach_head
from rrise.export.lowering.lower import check_model, lower
from rrise.export.lowering.operators import TENSORRT_OPERATORS, foreign_operators
from rrise.export.lowering.precision import convert_precision
from rrise.export.on_device import export_tensorrt
from rrise.export.source import ExportSource, joined
from rrise.trainer.data.preprocess import Preprocess
from tests.edge_sdk.fake_gpu import FakeCuda, fake_plan, fake_tensorrt
from tests.export.lowering.test_head import CLASSES, HEADS

BOARD = Device("Board", (8, 9), "13.0")


@pytest.fixture(scope="module")
def trt() -> Any:
    return pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx-cu13"
    )


@pytest.mark.parametrize("artefact", ["fp32", "fp16", "int8"])
def test_every_precision_is_parsed_and_built(trt: Any, colour_bundle: Path, artefact: str) -> None:
    bundle = Bundle.open(colour_bundle)
    model, key = bundle.model(artefact), engine_key(bundle, artefact, trt, BOARD)
    plan = build_engine(trt, model, key)
    assert len(plan) > 1000
    assert hashlib.sha256(model).hexdigest().encode() in plan, "the plan must name its ONNX file in clear"


def test_the_shared_bundle_is_parsed_and_built(trt: Any, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert build_engine(trt, opened.model("fp32"), engine_key(opened, "fp32", trt, BOARD))


def test_engines_are_strongly_typed_without_tf32(
    trt: Any, colour_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read off the builder's own objects while it works."""
    seen = {}

    class Builder(trt.Builder):
        def build_serialized_network(self, network: Any, config: Any) -> Any:
            seen["typed"] = network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
            seen["tf32"] = config.get_flag(trt.BuilderFlag.TF32)
            seen["refit"] = config.get_flag(trt.BuilderFlag.REFIT)
            return super().build_serialized_network(network, config)

    monkeypatch.setattr(trt, "Builder", Builder)
    bundle = Bundle.open(colour_bundle)
    build_engine(trt, bundle.model("fp32"), engine_key(bundle, "fp32", trt, BOARD))
    assert seen == {"typed": True, "tf32": False, "refit": False}


def test_an_operator_that_tensorrt_lacks_is_named_with_its_layer(trt: Any) -> None:
    node = helper.make_node("Det", ["frame"], ["out"], name="network/odd/Det_7")
    values = [helper.make_tensor_value_info("frame", TensorProto.FLOAT, [1, 2, 2])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])]
    model = helper.make_model(
        helper.make_graph([node], "g", values, outputs), opset_imports=[helper.make_opsetid("", 18)]
    )
    key = EngineKey("fp32", "0" * 64, "tensorrt_rtx", trt.__version__, "8.9", "Board", "13.0", (1, 2, 2))
    with pytest.raises(ExportError, match=r"operator Det in layer 'network/odd/Det_7'"):
        build_engine(trt, model.SerializeToString(), key)


def test_a_builder_that_does_not_start_is_explained(
    trt: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def null(*_: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    opened = Bundle.open(bundle)
    key = engine_key(opened, "fp32", trt, BOARD)
    monkeypatch.setattr(trt, "Builder", null)
    with pytest.raises(RuntimeUnavailable, match=r"does not start on Board with a driver for CUDA 13\.0"):
        build_engine(trt, opened.model("fp32"), key)


@pytest.mark.parametrize("name", HEADS)
def test_every_kind_of_head_is_parsed_and_built(trt: Any, name: str) -> None:
    """Tables, offsets by class, a threshold, a difficulty: whatever a guarantee may put behind the network."""
    head = HEADS[name]
    model = attach_head(convolution(2, CLASSES, head.difficulty), head)
    check_model(model)
    assert foreign_operators(model) == {}
    key = EngineKey("fp32", "0" * 64, "tensorrt_rtx", trt.__version__, "8.9", "Board", "13.0", (2, 8, 8, 3))
    assert build_engine(trt, model.SerializeToString(), key)


@pytest.fixture(scope="module")
def guarded_graph(colour_source: ExportSource) -> onnx.ModelProto:
    """A graph of the guarded tier, whose noise is added behind a resize: it rounds to the grid of the noise."""
    preprocess = Preprocess((20, 24, 3), "bgr8", crop=(1, 2, 18, 18), size=(10, 9), grid=True)
    module = joined(preprocess, colour_source.module.get_submodule("network"), guarded=True)
    return lower(module, (torch.zeros((1, 20, 24, 3), dtype=torch.uint8), torch.zeros((1, 3, 10, 9))))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_graphs_of_the_guarded_tier_are_parsed_and_built(
    trt: Any, guarded_graph: onnx.ModelProto, colour_source: ExportSource, precision: str
) -> None:
    noise = ReplayNoise(0.1, "0" * 64, (3, 10, 9))
    converted = convert_precision(guarded_graph, precision, colour_source.tuning.frames, noise)
    model = attach_head(converted, HEADS["clopper-pearson"])
    assert foreign_operators(model) == {} and {value.name for value in model.graph.input} == {
        "frame",
        "noise",
    }
    key = EngineKey(
        precision, "0" * 64, "tensorrt_rtx", trt.__version__, "8.9", "Board", "13.0", (1, 20, 24, 3)
    )
    assert build_engine(trt, model.SerializeToString(), key)


def convolution(batch: int, classes: int, difficulty: bool) -> onnx.ModelProto:
    """uint8 frames [batch, 8, 8, 3] through one convolution to logits, and to a difficulty if asked for."""
    outputs = [("logits", classes)] + ([("hardness", 1)] if difficulty else [])
    nodes = [
        helper.make_node("Cast", ["frame"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["x"], perm=[0, 3, 1, 2]),
    ]
    weights = []
    for name, size in outputs:
        values = np.random.default_rng(size).normal(size=(size, 3, 8, 8)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(values, f"{name}.weight"))
        nodes.append(helper.make_node("Conv", ["x", f"{name}.weight"], [f"{name}.map"]))
        nodes.append(helper.make_node("Flatten", [f"{name}.map"], [name], axis=1))
    weights.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "axis"))
    described = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])]
    if difficulty:
        nodes.append(helper.make_node("Squeeze", ["hardness", "axis"], ["difficulty"]))
        described.append(helper.make_tensor_value_info("difficulty", TensorProto.FLOAT, [batch]))
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [batch, 8, 8, 3])
    graph = helper.make_graph(nodes, "g", [frame], described, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_timing_caches_are_kept_and_foreign_ones_replaced(trt: Any, bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    key = engine_key(opened, "fp32", trt, BOARD)
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"from another world")
    assert build_engine(trt, opened.model("fp32"), key, timing_cache=cache)
    first = cache.read_bytes()
    assert first != b"from another world"
    assert build_engine(trt, opened.model("fp32"), key, timing_cache=cache)


@pytest.mark.parametrize("artefact", ["fp32", "fp16", "int8"])
def test_only_operators_of_jetpack_6_are_used(colour_bundle: Path, artefact: str) -> None:
    bundle = Bundle.open(colour_bundle)
    assert foreign_operators(onnx.load_model_from_string(bundle.model(artefact))) == {}
    assert "Det" not in TENSORRT_OPERATORS and len(TENSORRT_OPERATORS) > 90
    strange = onnx.load_model_from_string(bundle.model(artefact))
    strange.graph.node[3].op_type = "Det"
    assert foreign_operators(strange) == {"Det": [strange.graph.node[3].name]}


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand-ins for a board: builds are counted and give fake plans."""
    built: list[str] = []

    def build(_trt: Any, model: bytes, key: EngineKey, **_: Any) -> bytes:
        built.append(key.name)
        return fake_plan(model)

    monkeypatch.setattr(on_device, "build_engine", build)
    return {"trt": fake_tensorrt(), "driver": Driver.open(FakeCuda()), "built": built}


def test_the_device_builds_once_calibrates_and_verifies(
    bundle: Path, workspace: Path, tmp_path: Path, board: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    packs: dict[str, Any] = {
        name: References.load(workspace / "references" / f"{name}.npz")
        for name in ("calibration", "verification")
    }
    built = board.pop("built")
    result = export_tensorrt(copy, **packs, **board)
    assert result and result.built and "this takes minutes" in capsys.readouterr().err
    assert result.calibration is not None and result.calibration.margin >= 0
    assert result.verification is not None and result.verification.verdict is VerificationVerdict.PASSED
    again = export_tensorrt(copy, **board)
    assert not again.built and len(built) == 1 and again.calibration is None
    newer = dict(board, trt=fake_tensorrt("10.4.0"))
    with pytest.raises(ExportError, match="without --refuse-stale"):
        export_tensorrt(copy, rebuild_stale=False, **newer)
    assert export_tensorrt(copy, **newer).built and len(built) == 2
    # What the device added does not touch the release.
    assert Bundle.open(copy).manifest == Bundle.open(bundle).manifest


def test_the_command_on_a_machine_without_gpu_says_what_is_needed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrise.edge_sdk.runtime.cuda.LIBRARIES", ("libnothing.so.1",))
    result = CliRunner().invoke(main, ["tensorrt", str(bundle)])
    assert result.exit_code == 2 and "found no driver library" in result.stderr
    with pytest.raises(RuntimeUnavailable):
        export_tensorrt(bundle)


def test_the_device_needs_neither_torch_nor_onnx_nor_scipy() -> None:
    """In a fresh interpreter in which importing them fails."""
    program = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'scipy', 'onnxruntime', 'matplotlib', 'zarr', 'cryptography'):\n"
        "    sys.modules[name] = None\n"
        "import rrise.export.on_device, rrise.export.lowering.engine, rrise.export.cli\n"
        "import rrise.export.releasing.pack, rrise.edge_sdk.runtime.tensorrt\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
