"""Stand-ins for libcuda and TensorRT: an "engine" runs its ONNX file on ONNX Runtime, streams are queues.

They check how the adapter uses both, never what a GPU computes. Work is done only when its stream is waited for, device
addresses are no host addresses, copies need page-locked memory, captured work runs when its graph is launched, a sticky
error stays, and whatever is freed must be idle.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

SEPARATOR = b"\n--plan--\n"
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64}
_STREAMS: dict[int, "FakeCuda"] = {}
_HANDLES = itertools.count(1000)
STICKY = {700, 719}
UNSUPPORTED_IN_CAPTURE = 900
IN_CAPTURE = {
    "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2", "cuStreamEndCapture", "cuCtxSetCurrent",
}  # fmt: skip


class FakeCuda:
    """The functions of libcuda that `Driver` calls; `calls` lists them in order.

    `errors` maps a function to the error that its next call returns (or to a list, one entry for each call).
    """

    def __init__(
        self, *, init: int = 0, devices: int = 1, capability: tuple[int, int] = (8, 7), driver: int = 12060
    ) -> None:
        self.init, self.devices, self.capability, self.driver = init, devices, capability, driver
        self.calls: list[str] = []
        self.errors: dict[str, int | list[int]] = {}
        self.sticky = 0
        self.buffers: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.events: set[int] = set()
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self.capturing: int | None = None
        self.launched = 0
        self.missing: set[str] = set()
        self.waits: list[tuple[int, int]] = []
        self._recorded: dict[int, int] = {}
        self._thread = threading.local()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu") or name in self.missing:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if self.sticky:
                return self.sticky
            error = self.errors.get(name, 0)
            if isinstance(error, list):
                error = error.pop(0) if error else 0
            if error:
                if error in STICKY:
                    self.sticky = error
                return error
            if self.capturing is not None and name not in IN_CAPTURE:
                return UNSUPPORTED_IN_CAPTURE
            needs_context = name not in (
                "cuInit",
                "cuDeviceGetCount",
                "cuDeviceGet",
                "cuDevicePrimaryCtxRetain",
            )
            if needs_context and name != "cuCtxSetCurrent" and not getattr(self._thread, "attached", False):
                return 201
            return int(getattr(self, f"do_{name}")(*arguments) or 0)

        return call

    def leaks(self) -> dict[str, int]:
        """How many of each thing are still alive."""
        kinds = ("buffers", "pinned", "streams", "events", "graphs", "executables")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}

    def place(self, data: bytes) -> int:
        """Memory of another library on the device."""
        address = 1 << 40 | next(_HANDLES) << 16
        self.buffers[address] = bytearray(data)
        return address

    def enqueue(self, stream: int, work: Callable[[], None]) -> bool:
        if stream not in self.streams:
            return False
        (self.graphs[0] if self.capturing == stream else self.streams[stream]).append(work)
        return True

    def _assert_idle(self) -> None:
        assert not any(self.streams.values()), "freed while a stream still has work"

    def do_cuInit(self, flags: int) -> int:
        return self.init

    def do_cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.devices

    def do_cuDeviceGet(self, handle: Any, ordinal: int) -> None:
        handle._obj.value = ordinal

    def do_cuDevicePrimaryCtxRetain(self, context: Any, handle: Any) -> None:
        context._obj.value = 77

    def do_cuCtxSetCurrent(self, context: Any) -> int:
        self._thread.attached = context.value == 77
        return 0 if context.value == 77 else 201

    def do_cuCtxSynchronize(self) -> None:
        for stream in self.streams:
            self._drain(stream)

    def do_cuDeviceGetName(self, name: Any, size: int, handle: Any) -> None:
        name.value = b"Fake"

    def do_cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = self.driver

    def do_cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> None:
        value._obj.value = self.capability[{75: 0, 76: 1}[attribute]]

    def do_cuPointerGetAttribute(self, value: Any, attribute: Any, address: Any) -> int:
        if address.value not in self.buffers:
            return 1
        value._obj.value = {2: 2, 9: 0}[attribute.value]
        return 0

    def do_cuMemAlloc_v2(self, address: Any, size: Any) -> None:
        address._obj.value = self.place(b"\xee" * size.value)

    def do_cuMemFree_v2(self, address: Any) -> int:
        self._assert_idle()
        return 0 if self.buffers.pop(address.value, None) is not None else 1

    def do_cuMemHostAlloc(self, address: Any, size: Any, flags: Any) -> None:
        buffer = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(buffer)
        self.pinned[ctypes.addressof(buffer)] = buffer

    def do_cuMemFreeHost(self, address: Any) -> int:
        self._assert_idle()
        return 0 if self.pinned.pop(address.value, None) is not None else 1

    def do_cuStreamCreate(self, handle: Any, flags: Any) -> None:
        assert flags.value == 1
        handle._obj.value = next(_HANDLES)
        self.streams[handle._obj.value] = []
        _STREAMS[handle._obj.value] = self

    def do_cuStreamDestroy_v2(self, stream: Any) -> None:
        assert not self.streams.pop(stream.value), "destroyed with work in it"

    def do_cuStreamSynchronize(self, stream: Any) -> int:
        if stream.value not in self.streams:
            return 400
        self._drain(stream.value)
        return 0

    def _drain(self, stream: int) -> None:
        while self.streams[stream]:
            self.streams[stream].pop(0)()

    def do_cuEventCreate(self, handle: Any, flags: Any) -> None:
        handle._obj.value = next(_HANDLES)
        self.events.add(handle._obj.value)

    def do_cuEventDestroy_v2(self, event: Any) -> None:
        self.events.remove(event.value)

    def do_cuEventRecord(self, event: Any, stream: Any) -> int:
        if event.value not in self.events or stream.value not in (1, 2, *self.streams):
            return 400
        self._recorded[event.value] = stream.value
        return 0

    def do_cuStreamWaitEvent(self, stream: Any, event: Any, flags: Any) -> int:
        producer = self._recorded[event.value]
        self.waits.append((stream.value, producer))
        # What the producer was given before runs first.
        return (
            0 if self.enqueue(stream.value, lambda: self._drain(producer) if producer > 2 else None) else 400
        )

    def do_cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> int:
        assert mode.value == 1, "other threads must be free to allocate meanwhile"
        assert not self.streams[stream.value], "captured with work pending"
        self.capturing, self.graphs[0] = stream.value, []
        return 0

    def do_cuStreamEndCapture(self, stream: Any, graph: Any) -> None:
        assert self.capturing == stream.value
        self.capturing = None
        graph._obj.value = next(_HANDLES)
        self.graphs[graph._obj.value] = self.graphs.pop(0)

    def do_cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> None:
        assert flags.value == 0
        executable._obj.value = next(_HANDLES)
        self.executables[executable._obj.value] = self.graphs[graph.value]

    def do_cuGraphDestroy(self, graph: Any) -> None:
        del self.graphs[graph.value]

    def do_cuGraphLaunch(self, executable: Any, stream: Any) -> int:
        self.launched += 1
        for work in self.executables[executable.value]:
            self.enqueue(stream.value, work)
        return 0

    def do_cuGraphExecDestroy(self, executable: Any) -> None:
        self._assert_idle()
        del self.executables[executable.value]

    def do_cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(self.buffers, target, self.pinned, source, size, stream)

    def do_cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(self.pinned, target, self.buffers, source, size, stream)

    def do_cuMemcpyDtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(self.buffers, target, self.buffers, source, size, stream)

    def _copy(self, targets: Any, target: Any, sources: Any, source: Any, size: Any, stream: Any) -> int:
        to, of, count = targets.get(target.value), sources.get(source.value), size.value
        if to is None or of is None or count > len(to) or count > len(of):
            return 1
        return 0 if self.enqueue(stream.value, lambda: _move(to, of, count)) else 400


def _move(to: Any, of: Any, count: int) -> None:
    memoryview(to).cast("B")[:count] = memoryview(of).cast("B")[:count]


class FakeEngine:
    def __init__(self, plan: bytes, change: Any, capturable: bool = True) -> None:
        self.capturable = capturable
        self.contexts: list[FakeContext] = []
        name, model = plan.split(SEPARATOR, 1)
        self.name, self.change = name.decode(), change
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        settings.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.tensors = self.inputs | {value.name: value for value in self.session.get_outputs()}

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return _TYPES[self.tensors[name].type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.inputs else "out"

    def create_execution_context(self) -> "FakeContext":
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] | None = None
        self.enqueued = 0
        engine.contexts.append(self)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = tuple(shape)
        return self.shape == self.engine.get_tensor_shape(name)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert not self.enqueued, "addresses are fixed from the first run on"
        self.addresses[name] = address
        return name in self.engine.tensors

    def execute_async_v3(self, stream: int) -> bool:
        assert stream != 0, "the default stream makes TensorRT synchronise on its own"
        assert self.shape is not None and set(self.addresses) == set(self.engine.tensors)
        library = _STREAMS[stream]
        if library.capturing is not None:
            assert self.enqueued, "TensorRT wants one plain run before capture"
            if not self.engine.capturable:
                return False
        self.enqueued += 1
        return library.enqueue(stream, lambda: self._compute(library))

    def _compute(self, library: FakeCuda) -> None:
        feed = {name: self._view(library, name).copy() for name in self.engine.inputs}
        outputs = [name for name in self.engine.tensors if name not in self.engine.inputs]
        answers = dict(zip(outputs, self.engine.session.run(outputs, feed), strict=True))
        for name, value in self.engine.change(answers).items():
            self._view(library, name)[...] = value

    def _view(self, library: FakeCuda, name: str) -> np.ndarray:
        shape, dtype = self.engine.get_tensor_shape(name), np.dtype(self.engine.get_tensor_dtype(name))
        buffer = library.buffers[self.addresses[name]]
        assert len(buffer) == int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer(buffer, dtype).reshape(shape)


def fake_tensorrt(
    version: str = "10.3.0", change: Any = lambda answers: answers, capturable: bool = True
) -> SimpleNamespace:
    """A module that deserialises what `fake_plan` made; `change` alters an engine's answers, as other kernels would."""
    runtime = SimpleNamespace(
        deserialize_cuda_engine=lambda plan: (
            FakeEngine(plan, change, capturable) if SEPARATOR in plan else None
        )
    )
    made: list[str] = []

    def create(_log: Any) -> SimpleNamespace:
        made.append("Runtime")
        return runtime

    class Logger:
        ERROR = 1

        def __init__(self, severity: int) -> None:
            self.severity = severity

    return SimpleNamespace(
        __name__="tensorrt",
        __version__=version,
        Logger=Logger,
        Runtime=create,
        nptype=lambda kind: kind,
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        made=made,
    )


def fake_plan(model: bytes) -> bytes:
    """What a build would leave: the ONNX file's digest as its name, and the file itself."""
    return hashlib.sha256(model).hexdigest().encode() + SEPARATOR + model
