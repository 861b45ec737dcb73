"""How the TensorRT adapter uses CUDA, against the stand-ins: order, buffers, graph, faults, leaks, device frames."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrise.edge_sdk import Certifier, Roi, Status
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.device.device_calibration import recalibrate
from rrise.edge_sdk.device.loading import State, execution_state
from rrise.edge_sdk.errors import FrameError, RuntimeFault, RuntimeUnavailable
from rrise.edge_sdk.runtime import select
from rrise.edge_sdk.runtime.cuda import Driver
from rrise.edge_sdk.runtime.engines import engine_key, save_engine
from rrise.edge_sdk.runtime.lane import ENQUEUE, GRAPH
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.edge_sdk.runtime.tensorrt import TensorRTRuntime
from tests.edge_sdk import helpers
from tests.edge_sdk.fake_gpu import FakeCuda, fake_plan, fake_tensorrt
from tests.edge_sdk.helpers import Spec

SPEC = Spec((6, 6, 3), seed=1)
FRAMES = helpers.random_frames(SPEC, 8)


@pytest.fixture
def opened(tmp_path: Path) -> Bundle:
    return Bundle.open(helpers.make_bundle(tmp_path / "bundle", SPEC))


def load(bundle: Bundle, library: FakeCuda, trt: Any = None, **options: Any) -> TensorRTRuntime:
    trt, driver = trt or fake_tensorrt(), Driver.open(library)
    save_engine(bundle, engine_key(bundle, "fp32", trt, driver.device), fake_plan(bundle.model("fp32")))
    return TensorRTRuntime.load(bundle, "fp32", trt=trt, driver=driver, **options)


def mode(runtime: TensorRTRuntime) -> str:
    return dict(runtime.execution.options)["mode"]


def answers_of(runtime: Any, frame: Any) -> tuple[int, float]:
    label, radius = runtime.answer(frame)
    return label.item(0), radius.item(0)


def test_a_frame_costs_one_copy_one_launch_and_one_wait(opened: Bundle) -> None:
    library = FakeCuda()
    runtime = load(opened, library)
    plain = OnnxRuntime.load(opened.model("fp32"))
    assert mode(runtime) == GRAPH and runtime.note == ""
    before = {kind: list(getattr(library, kind)) for kind in ("buffers", "pinned", "streams", "executables")}
    for frame in FRAMES:
        library.calls.clear()
        assert answers_of(runtime, frame[None]) == answers_of(plain, frame[None])
        assert library.calls == [
            "cuCtxSetCurrent", "cuMemcpyHtoDAsync_v2", "cuGraphLaunch", "cuStreamSynchronize",
        ]  # fmt: skip
    assert before == {kind: list(getattr(library, kind)) for kind in before}
    assert runtime.answer(FRAMES[:1])[0] is runtime.answer(FRAMES[1:2])[0], (
        "answers have buffers of their own"
    )
    runtime.close()
    assert not library.leaks()


def test_without_a_graph_the_engine_is_enqueued_and_is_another_execution(opened: Bundle) -> None:
    library = FakeCuda()
    graph, plain = load(opened, library), load(opened, library, cuda_graph=False)
    assert mode(plain) == ENQUEUE and "not asked for" in plain.note
    assert not graph.execution.same_as(plain.execution)
    library.calls.clear()
    plain.answer(FRAMES[:1])
    assert library.calls == [
        "cuCtxSetCurrent", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoHAsync_v2", "cuStreamSynchronize",
    ]  # fmt: skip
    np.testing.assert_array_equal(run_all(graph, FRAMES).probit, run_all(plain, FRAMES).probit)


def test_a_calibration_of_one_mode_does_not_cover_the_other(opened: Bundle) -> None:
    library = FakeCuda()
    graph, plain = load(opened, library), load(opened, library, cuda_graph=False)
    recalibrate(opened, "fp32", graph, helpers.make_references(SPEC, "calibration", 300, 77))
    states = [execution_state(opened, "fp32", runtime, True).state for runtime in (graph, plain)]
    assert states == [State.CALIBRATED, State.UNVERIFIED]


@pytest.mark.parametrize(
    "call", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "execute"]
)
def test_where_capture_fails_it_says_why_and_goes_on_without(opened: Bundle, call: str) -> None:
    library = FakeCuda()
    if call != "execute":
        library.errors[call] = 901
    if call == "cuStreamEndCapture":

        def end(stream: Any, graph: Any) -> int:
            FakeCuda.do_cuStreamEndCapture(library, stream, graph)
            del library.graphs[graph._obj.value]
            return 901

        library.errors, library.do_cuStreamEndCapture = {}, end  # type: ignore[assignment]
    runtime = load(opened, library, fake_tensorrt(capturable=call != "execute"))
    assert mode(runtime) == ENQUEUE
    assert ("TensorRT failed to run" if call == "execute" else f"{call} returned error 901") in runtime.note
    np.testing.assert_array_equal(
        run_all(runtime, FRAMES).probit, run_all(OnnxRuntime.load(opened.model("fp32")), FRAMES).probit
    )
    runtime.close()
    assert not library.leaks()


def test_an_old_driver_without_graphs_runs_without_one(opened: Bundle) -> None:
    library = FakeCuda()
    library.missing = {"cuGraphInstantiateWithFlags"}
    runtime = load(opened, library)
    assert mode(runtime) == ENQUEUE and "install a newer driver" in runtime.note
    runtime.close()
    assert not library.leaks()


def test_a_graph_that_answers_other_bits_is_given_up(opened: Bundle) -> None:
    """A replay that computes nothing, or the last bit of something else, is found before any frame."""
    library = FakeCuda()
    empty = library.do_cuGraphInstantiateWithFlags

    def forgetful(executable: Any, graph: Any, flags: Any) -> None:
        empty(executable, graph, flags)
        library.executables[executable._obj.value] = []

    library.do_cuGraphInstantiateWithFlags = forgetful
    runtime = load(opened, library)
    assert mode(runtime) == ENQUEUE and "other bits" in runtime.note
    runtime.close()
    assert not library.leaks()


def test_an_answer_that_never_arrives_is_no_earlier_answer(opened: Bundle) -> None:
    library = FakeCuda()
    runtime = load(opened, library)
    runtime.answer(FRAMES[:1])
    for work in library.executables.values():
        work.clear()
    label, radius = runtime.answer(FRAMES[:1])
    assert label[0] == -1 and np.isnan(radius[0]), "which `Answering` takes for a fault"


@pytest.mark.parametrize(
    "call", ["cuMemcpyHtoDAsync_v2", "cuGraphLaunch", "cuStreamSynchronize", "cuCtxSetCurrent"]
)
@pytest.mark.parametrize("error", [700, 2])
def test_after_one_error_there_is_never_an_answer_again(opened: Bundle, call: str, error: int) -> None:
    library = FakeCuda()
    runtime = load(opened, library)
    library.errors[call] = [error]
    with pytest.raises(RuntimeFault, match=f"{call} returned error {error}") as first:
        runtime.answer(FRAMES[:1])
    assert ("started anew" in str(first.value)) == (error == 700)
    for again in (runtime.answer, runtime.run):
        with pytest.raises(RuntimeFault, match="out of use since an earlier failure"):
            again(FRAMES[:1])
    runtime.close()
    if error == 2:
        assert not library.leaks()


@pytest.mark.parametrize(
    "call",
    [
        "cuStreamCreate",
        "cuEventCreate",
        "cuMemHostAlloc",
        "cuMemAlloc_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuGraphLaunch",
    ],
)
def test_a_failed_load_leaves_nothing_behind(opened: Bundle, call: str) -> None:
    library = FakeCuda()
    library.errors[call] = [0, 0, 2] if "Alloc" in call else [2]
    with pytest.raises(RuntimeFault, match=f"{call} returned error 2"):
        load(opened, library)
    assert not library.leaks()


def test_a_certifier_gives_fault_for_good(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeCuda()
    runtime = load(opened, library)
    recalibrate(opened, "fp32", runtime, helpers.make_references(SPEC, "calibration", 300, 77))
    monkeypatch.setattr(select, "_tensorrt", lambda bundle, artefact: runtime)
    with Certifier.load(opened.path, runtime="tensorrt") as certifier:
        assert certifier.certify(FRAMES[0]).status in (Status.CERTIFIED, Status.ABSTAINED)
        library.errors["cuStreamSynchronize"] = [700]
        faulty = certifier.certify(FRAMES[1])
        assert faulty.status is Status.FAULT and faulty.label is None and "error 700" in faulty.reason
        assert certifier.certify(FRAMES[0]).status is Status.FAULT


def test_clones_share_the_engine_and_nothing_else(opened: Bundle) -> None:
    library = FakeCuda()
    runtime = load(opened, library)
    clone = runtime.clone()
    assert clone._engine is runtime._engine and clone._lane.stream != runtime._lane.stream
    first, second = (set(lane._device.values()) for lane in (runtime._lane, clone._lane))
    assert not first & second and len(runtime._engine.contexts) == 2
    assert clone.execution.same_as(runtime.execution)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(answers_of(clone, FRAMES[:1])))
    thread.start()
    thread.join()
    assert results == [answers_of(runtime, FRAMES[:1])]
    library.errors["cuStreamBeginCapture_v2"] = 901
    with pytest.raises(RuntimeUnavailable, match="the original runs by cuda-graph"):
        runtime.clone()
    runtime.close()
    clone.close()
    assert not library.leaks()


def test_frames_of_another_shape_are_never_broadcast(opened: Bundle) -> None:
    runtime = load(opened, FakeCuda())
    for wrong in (FRAMES[:1, :1], FRAMES[0, 0, 0], FRAMES[:2], FRAMES[:1].astype(np.float32)):
        with pytest.raises(FrameError, match="expected uint8"):
            runtime.answer(wrong)
    assert answers_of(runtime, FRAMES[:1])


class Interface:
    """A frame with `__cuda_array_interface__`, in memory of another library."""

    def __init__(self, library: FakeCuda, frame: np.ndarray, **changes: Any) -> None:
        self.address = library.place(frame.tobytes())
        self.__cuda_array_interface__ = {
            "data": (self.address, True), "typestr": frame.dtype.str, "shape": frame.shape, "strides": None,
            "version": 3, "stream": 1, **changes,
        }  # fmt: skip


class Managed(ctypes.Structure):
    """DLManagedTensor as dlpack.h has it, field by field: data, device, ndim, dtype, shape, strides, byte_offset."""

    _fields_ = (
        ("data", ctypes.c_uint64), ("device_type", ctypes.c_int), ("device_id", ctypes.c_int), ("ndim", ctypes.c_int),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    )  # fmt: skip


class Packed:
    """A frame with DLPack on a device."""

    def __init__(
        self, library: FakeCuda, frame: np.ndarray, strides: tuple[int, ...] | None = None, code: int = 1
    ) -> None:
        self.asked: list[int] = []
        self._shape = (ctypes.c_int64 * frame.ndim)(*frame.shape)
        self._strides = None if strides is None else (ctypes.c_int64 * frame.ndim)(*strides)
        self._managed = Managed(
            library.place(frame.tobytes()), 2, 0, frame.ndim, code, 8, 1, ctypes.addressof(self._shape),
            None if self._strides is None else ctypes.addressof(self._strides), 0, None, None,
        )  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int) -> Any:
        self.asked.append(stream)
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return make(ctypes.addressof(self._managed), b"dltensor", None)


@pytest.mark.parametrize("stream", [1, 2, None])
def test_array_interface_frames_are_copied_on_the_device(opened: Bundle, stream: int | None) -> None:
    library = FakeCuda()
    runtime = load(opened, library)
    frame = Interface(library, FRAMES[2], stream=stream)
    library.calls.clear()
    assert answers_of(runtime, runtime.device_frame(frame)) == answers_of(runtime, FRAMES[2:3])
    assert library.calls.count("cuMemcpyHtoDAsync_v2") == 1, "the second, from the host"
    assert library.waits == ([] if stream is None else [(runtime._lane.stream, stream)])
    np.testing.assert_array_equal(runtime.host_copy(runtime.device_frame(frame)), FRAMES[2:3])


def test_a_producer_that_is_still_writing_is_waited_for(opened: Bundle) -> None:
    library = FakeCuda()
    driver, runtime = Driver.open(library), load(opened, library)
    producer = driver.stream()
    for version, entry in ((3, {"stream": producer}), (2, {})):
        frame = Interface(library, np.zeros_like(FRAMES[3]), version=version, **entry)

        def write(address: int = frame.address) -> None:
            library.buffers[address][:] = FRAMES[3].tobytes()

        library.enqueue(producer, write)
        assert answers_of(runtime, runtime.device_frame(frame)) == answers_of(runtime, FRAMES[3:4])


def test_dlpack_frames_name_our_stream_to_the_producer(opened: Bundle) -> None:
    library = FakeCuda()
    runtime = load(opened, library)
    for strides in (None, (18, 3, 1)):
        frame = Packed(library, FRAMES[4], strides)
        assert answers_of(runtime, runtime.device_frame(frame)) == answers_of(runtime, FRAMES[4:5])
        assert frame.asked == [runtime._lane.stream]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (1, 6, 36)}, "expected C-contiguous"),
        ({"strides": (36, 3, 1)}, "expected C-contiguous"),
        ({"typestr": "<f4"}, r"got float32 \[6, 6, 3\] in device memory"),
        ({"typestr": "|i1"}, "got int8"),
        ({"shape": (6, 6, 1)}, r"got uint8 \[6, 6, 1\]"),
        ({"shape": (1, 6, 6, 3)}, r"expected uint8 \[6, 6, 3\]"),
        ({"stream": 0}, "got stream 0"),
        ({"mask": object()}, "without a mask"),
        ({"data": (0, False)}, "no address"),
        ({"data": (4096, False)}, "not in memory of the first CUDA device"),
        ({"data": None}, "cannot be read as a device array"),
    ],
)
def test_device_frames_that_do_not_fit_are_refused(opened: Bundle, changes: Any, message: str) -> None:
    library = FakeCuda()
    runtime = load(opened, library)
    with pytest.raises(FrameError, match=message):
        runtime.device_frame(Interface(library, FRAMES[0], **changes))
    assert answers_of(runtime, FRAMES[:1]), "a wrong frame is no fault of the runtime"


def test_strided_and_foreign_dlpack_frames_are_refused(opened: Bundle) -> None:
    library = FakeCuda()
    runtime = load(opened, library)
    with pytest.raises(FrameError, match="expected C-contiguous"):
        runtime.device_frame(Packed(library, FRAMES[0], (1, 6, 36)))
    with pytest.raises(FrameError, match="got int8"):
        runtime.device_frame(Packed(library, FRAMES[0], code=0))


def test_certify_takes_device_frames_where_the_runtime_can(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = FakeCuda()
    runtime = load(opened, library)
    recalibrate(opened, "fp32", runtime, helpers.make_references(SPEC, "calibration", 300, 77))
    monkeypatch.setattr(select, "_tensorrt", lambda bundle, artefact: runtime)
    with (
        Certifier.load(opened.path, runtime="tensorrt") as certifier,
        Certifier.load(opened.path, provider="cpu") as on_cpu,
    ):
        for frame in FRAMES:
            here, there = certifier.certify(Interface(library, frame)), certifier.certify(frame)
            assert (here.status, here.label, here.radius) == (there.status, there.label, there.radius)
        crop = certifier.certify(Packed(library, FRAMES[0]), roi=Roi(0, 0, 6, 6))
        assert crop.status is Status.INVALID_INPUT and "neither crops" in crop.reason
        together = certifier.certify_batch([Interface(library, FRAMES[0])])[0]
        assert together.status is Status.INVALID_INPUT and "here host memory is read" in together.reason
        for device in (Interface(library, FRAMES[0]), Packed(library, FRAMES[0])):
            refused = on_cpu.certify(device)
            assert refused.status is Status.INVALID_INPUT and "or use TensorRT" in refused.reason
        assert on_cpu.certify(FRAMES[0]).status is not Status.FAULT
