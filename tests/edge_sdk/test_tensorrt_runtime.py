"""The TensorRT adapter against stand-ins for driver and module: calls, bindings, states. No GPU computes anything here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from rrise.calibration.tables.references import References
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.device.device_calibration import recalibrate
from rrise.edge_sdk.errors import BundleError, RuntimeFault, RuntimeUnavailable
from rrise.edge_sdk.formats.signing import Trust
from rrise.edge_sdk.runtime import cuda
from rrise.edge_sdk.runtime.cuda import Driver
from rrise.edge_sdk.runtime.engines import (
    engine_folder,
    engine_key,
    import_tensorrt,
    load_engine,
    save_engine,
    stale_engines,
)
from rrise.edge_sdk.runtime.onnx_file import read_metadata
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.edge_sdk.runtime.tensorrt import TensorRTRuntime
from tests.edge_sdk.fake_gpu import FakeCuda, fake_plan, fake_tensorrt


@pytest.fixture
def opened(bundle: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(bundle, tmp_path / "bundle"))


def install(bundle: Bundle, trt: Any, library: FakeCuda) -> None:
    key = engine_key(bundle, "fp32", trt, Driver.open(library).device)
    save_engine(bundle, key, fake_plan(bundle.model("fp32")))


def load(bundle: Bundle, trt: Any, library: FakeCuda) -> TensorRTRuntime:
    return TensorRTRuntime.load(bundle, "fp32", trt=trt, driver=Driver.open(library))


def test_it_answers_as_the_graph_does(opened: Bundle, workspace: Path) -> None:
    trt, library = fake_tensorrt(), FakeCuda()
    install(opened, trt, library)
    runtime = load(opened, trt, library)
    opened.check_graph("fp32", runtime.graph)
    frames = References.load(workspace / "references" / "verification.npz").frames
    mine, theirs = run_all(runtime, frames), run_all(OnnxRuntime.load(opened.model("fp32")), frames)
    for name in ("label", "radius", "probit"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    assert runtime.execution.runtime == "tensorrt" and runtime.execution.architecture == "Fake sm_87"
    assert runtime.execution.artefact != opened.manifest.artefacts["fp32"].sha256
    label, radius = runtime.answer(frames[:1])
    assert (label[0], radius[0]) == (mine.label[0], mine.radius[0])


def test_clones_have_their_own_buffers_and_everything_is_released(opened: Bundle, workspace: Path) -> None:
    trt, library = fake_tensorrt(), FakeCuda()
    install(opened, trt, library)
    runtime = load(opened, trt, library)
    frames = References.load(workspace / "references" / "verification.npz").frames
    clone = runtime.clone()
    first = runtime.run(frames[:1])
    clone.run(frames[1:2])
    np.testing.assert_array_equal(runtime.run(frames[:1]).probit, first.probit)
    runtime.close()
    assert clone.run(frames[:1]).probit == first.probit
    clone.close()
    clone.close()
    assert not library.leaks()
    for closed in (runtime.run, runtime.answer):
        with pytest.raises(RuntimeFault, match="closed"):
            closed(frames[:1])
    with pytest.raises(RuntimeFault, match="closed"):
        runtime.clone()


@pytest.mark.parametrize(
    ("library", "message"),
    [(FakeCuda(init=100), "cuInit returned error 100"), (FakeCuda(devices=0), "found 0 devices")],
)
def test_cuda_is_asked_before_tensorrt_is_touched(
    opened: Bundle, library: FakeCuda, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = fake_tensorrt()
    monkeypatch.setattr(cuda, "_load", lambda: library)
    with pytest.raises(RuntimeUnavailable, match=message):
        TensorRTRuntime.load(opened, "fp32", trt=trt)
    assert trt.made == []


def test_a_machine_without_driver_or_tensorrt_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARIES", ("libnothing.so.1",))
    with pytest.raises(RuntimeUnavailable, match="found no driver library"):
        Driver.open()
    monkeypatch.setattr("rrise.edge_sdk.runtime.engines.MODULES", ("no_such_tensorrt",))
    with pytest.raises(RuntimeUnavailable, match="comes with JetPack"):
        import_tensorrt()


def test_a_driver_that_is_too_old_for_this_tensorrt_is_named(opened: Bundle) -> None:
    """The bindings only say that a factory function returned nullptr."""

    def null(*_: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt, library = fake_tensorrt("11.4.0"), FakeCuda()
    install(opened, trt, library)
    trt.Runtime = null
    with pytest.raises(
        RuntimeUnavailable, match=r"tensorrt 11\.4\.0 does not start on .* driver for CUDA 12\.6 .*too old"
    ):
        load(opened, trt, library)
    trt.Runtime = lambda *_: None
    with pytest.raises(RuntimeUnavailable, match="it returned nothing"):
        load(opened, trt, library)


@pytest.mark.parametrize(
    "other",
    [
        (fake_tensorrt("10.4.0"), FakeCuda()),
        (fake_tensorrt(), FakeCuda(capability=(8, 9))),
        (fake_tensorrt(), FakeCuda(driver=12080)),
    ],
)
def test_an_engine_for_something_else_is_not_loaded(opened: Bundle, other: tuple[Any, FakeCuda]) -> None:
    install(opened, fake_tensorrt(), FakeCuda())
    with pytest.raises(RuntimeUnavailable, match=r"found only engines for something else \(fp32-"):
        load(opened, *other)
    key = engine_key(opened, "fp32", other[0], Driver.open(other[1]).device)
    assert len(stale_engines(opened, key)) == 1 and load_engine(opened, key) is None


def test_a_changed_or_foreign_engine_is_refused(opened: Bundle) -> None:
    trt, library = fake_tensorrt(), FakeCuda()
    install(opened, trt, library)
    (plan,) = engine_folder(opened).glob("*.plan")
    good = plan.read_bytes()
    plan.write_bytes(good[:-1] + b"x")
    with pytest.raises(BundleError, match="was changed after it was built"):
        load(opened, trt, library)
    key = engine_key(opened, "fp32", trt, Driver.open(library).device)
    save_engine(opened, key, b"0" * 64 + good[64:])
    with pytest.raises(RuntimeUnavailable, match="was built from ONNX file 0000"):
        load(opened, trt, library)
    save_engine(opened, key, b"garbage")
    with pytest.raises(RuntimeUnavailable, match="cannot load the engine"):
        load(opened, trt, library)


def test_with_a_key_an_unsigned_engine_is_refused(opened: Bundle) -> None:
    pytest.importorskip("cryptography", reason="cryptography is not installed")
    from rrise.edge_sdk.formats.keys import PrivateKey
    from rrise.export.releasing.keys import sign_bundle, sign_device_records

    trt, library, key, device = fake_tensorrt(), FakeCuda(), PrivateKey.generate(), PrivateKey.generate()
    install(opened, trt, library)
    sign_bundle(opened.path, key, 1)
    with pytest.raises(BundleError, match="without a device key"):
        load(Bundle.open(opened.path, trust=Trust.of(key.public)), trt, library)
    sign_device_records(opened.path, device)
    load(Bundle.open(opened.path, trust=Trust.of(key.public, device_key=device.public)), trt, library).close()


def test_an_engine_with_larger_radii_gets_a_margin_on_top(opened: Bundle, workspace: Path) -> None:
    """Other kernels that overstate every radius by 0.03: recalibration on the device takes it off again."""

    def larger(answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        radius = answers["radius"]
        return dict(answers, radius=np.where(radius > 0, radius + np.float32(0.03), radius))

    pack = References.load(workspace / "references" / "calibration.npz")
    trt, library = fake_tensorrt(change=larger), FakeCuda()
    install(opened, trt, library)
    runtime = load(opened, trt, library)
    found = recalibrate(opened, "fp32", runtime, pack)
    outputs = run_all(runtime, pack.frames)
    reference = pack.radius[np.arange(len(pack)), outputs.label]
    above = np.maximum(outputs.radius.astype(np.float64) - found.margin, 0) > reference
    assert found.margin > 0 and above.sum() <= found.frames - found.rank
    assert found.execution.artefact == runtime.execution.artefact


def test_metadata_is_read_without_the_onnx_package(opened: Bundle) -> None:
    model = opened.model("fp32")
    assert read_metadata(model) == {
        entry.key: entry.value for entry in onnx.load_model_from_string(model).metadata_props
    }
    assert read_metadata(b"") == {}
    for damaged in (model[:-3], b"\xff" * 40, b"\x0b"):
        with pytest.raises(BundleError, match="not an ONNX file"):
            read_metadata(damaged)


def test_copies_survive_a_real_device() -> None:
    """Where there is a GPU: the driver's own memory, stream and copies, without stand-ins."""
    try:
        driver = Driver.open()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    sent = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)
    back = np.zeros_like(sent)
    stream, address = driver.stream(), driver.allocate(sent.nbytes)
    driver.upload(address, sent, stream)()
    driver.download(back, address, stream)()
    driver.synchronize(stream)
    driver.free(address)
    driver.close_stream(stream)
    np.testing.assert_array_equal(back, sent)
    assert driver.device.capability >= (5, 0) and driver.device.name
