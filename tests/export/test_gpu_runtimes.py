"""`examples/gpu/runtimes.py`: clean without CUDA, and with stand-ins as far as those go."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from rrise.export import on_device
from tests.edge_sdk import helpers
from tests.edge_sdk.fake_gpu import FakeCuda, fake_plan, fake_tensorrt
from tests.edge_sdk.helpers import Spec

SPEC = Spec((6, 6, 3), seed=1)
SCRIPT = Path(__file__).parents[2] / "examples" / "gpu" / "runtimes.py"


@pytest.fixture
def script() -> ModuleType:
    found = importlib.util.spec_from_file_location("gpu_runtimes", SCRIPT)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_without_cuda_it_says_so(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrise.edge_sdk.runtime.cuda.LIBRARIES", ("libnothing.so.1",))
    bundle = helpers.make_bundle(tmp_path / "bundle", SPEC)
    result = CliRunner().invoke(script.main, [str(bundle)])
    found = json.loads(result.stdout)
    assert result.exit_code == 2 and found["cuda"] is None and "found no driver library" in found["reason"]


def test_with_stand_ins_everything_is_in_the_json(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, trt = FakeCuda(), fake_tensorrt()
    monkeypatch.setattr("rrise.edge_sdk.runtime.cuda._load", lambda: library)
    for module in ("rrise.export.on_device", "rrise.edge_sdk.runtime.tensorrt"):
        monkeypatch.setattr(f"{module}.import_tensorrt", lambda: trt)
    monkeypatch.setattr(on_device, "build_engine", lambda _trt, model, key, **_: fake_plan(model))
    bundle = helpers.make_bundle(tmp_path / "bundle", SPEC)
    pack = helpers.make_references(SPEC, "calibration", 300, 77)
    pack.save(tmp_path / "calibration.npz")
    arguments = ["--calibration", str(tmp_path / "calibration.npz"), "--count", "5"]
    arguments += ["--references", str(tmp_path / "bundle-references.npz")]
    result = CliRunner().invoke(script.main, [str(bundle), *arguments])
    found = json.loads(result.stdout)
    deployed, plain = (found["tensorrt"][name] for name in ("as deployed", "without CUDA graph"))
    compared = deployed["against the processor"]
    assert compared["labels flipped"] == 0 and compared["probit"]["same bits"] == compared["frames"] == 200
    assert ["mode", "cuda-graph"] in deployed["execution"]["options"] and deployed["margin"] >= 0
    assert ["mode", "enqueue"] in plain["execution"]["options"]
    assert deployed["verification"]["verdict"] == "passed"
    assert "skipped" in found["tensorrt"]["device frames"]
    assert "CUDAExecutionProvider" in found["onnxruntime cuda"]["skipped"]
    assert found["driver"]["works"] and found["driver"]["replayed"]
    assert found["latency"]["tensorrt"]["certify"]["samples"] == 5
    assert found["latency"]["tensorrt"]["state"] == "calibrated"
    assert result.exit_code == 0 and not (bundle / "device").exists() and not library.leaks()


def test_what_differs_is_counted_and_fails(script: ModuleType) -> None:
    sound = {
        "against itself": {"frames": 3, "radius": {"same bits": 3}},
        "verification": {"verdict": "passed"},
    }
    assert script.agrees(
        {"tensorrt": {"as deployed": sound}, "onnxruntime cuda": {"skipped": "not installed"}}
    )
    assert script.agrees(
        {"driver": {"works": True}, "tensorrt": {"skipped": "no"}, "onnxruntime cuda": {"skipped": "no"}}
    )
    assert not script.agrees({"driver": {"works": False}, "tensorrt": {"as deployed": sound}})
    for wrong in (
        {"against itself": {"frames": 3, "radius": {"same bits": 2}}},
        {"verification": {"verdict": "numerics"}},
        {"against the processor": {"not finite": 1}},
        {"device frames": {"frames": 16, "same bits": 15}},
        {"device frames": {"error": "CUDA"}},
    ):
        assert not script.agrees({"tensorrt": {"as deployed": {**sound, **wrong}}})
    failed = {"error": "no"}
    assert not script.agrees({"tensorrt": failed, "onnxruntime cuda": failed})
    assert not script.agrees({"tensorrt": {"as deployed": failed}, "onnxruntime cuda": failed})
