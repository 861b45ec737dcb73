"""Stand-ins for libcuda and TensorRT: device memory is host memory, and an "engine" runs its ONNX file on ONNX Runtime.

They check how the adapter uses both (order of calls, addresses, streams, names), never what a GPU computes.
"""

from __future__ import annotations

import ctypes
import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

SEPARATOR = b"\n--plan--\n"
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64}


class FakeCuda:
    """The functions of libcuda that `Driver` calls; `calls` lists them in order."""

    def __init__(
        self, *, init: int = 0, devices: int = 1, capability: tuple[int, int] = (8, 7), driver: int = 12060
    ) -> None:
        self.init, self.devices, self.capability, self.driver = init, devices, capability, driver
        self.calls: list[str] = []
        self.buffers: dict[int, Any] = {}
        self.streams: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return int(getattr(self, f"do_{name}")(*arguments) or 0)

        return call

    def do_cuInit(self, flags: int) -> int:
        return self.init

    def do_cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.devices

    def do_cuDeviceGet(self, handle: Any, ordinal: int) -> None:
        handle._obj.value = ordinal

    def do_cuDevicePrimaryCtxRetain(self, context: Any, handle: Any) -> None:
        context._obj.value = 77

    def do_cuCtxSetCurrent(self, context: Any) -> int:
        return 0 if context.value == 77 else 201

    def do_cuDeviceGetName(self, name: Any, size: int, handle: Any) -> None:
        name.value = b"Fake"

    def do_cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = self.driver

    def do_cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> None:
        value._obj.value = self.capability[{75: 0, 76: 1}[attribute]]

    def do_cuMemAlloc_v2(self, address: Any, size: Any) -> None:
        buffer = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(buffer)
        self.buffers[ctypes.addressof(buffer)] = buffer

    def do_cuMemFree_v2(self, address: Any) -> int:
        return 0 if self.buffers.pop(address.value, None) is not None else 1

    def do_cuStreamCreate(self, handle: Any, flags: Any) -> None:
        assert flags.value == 1
        handle._obj.value = 1000 + len(self.calls)
        self.streams.add(handle._obj.value)

    def do_cuStreamDestroy_v2(self, stream: Any) -> None:
        self.streams.remove(stream.value)

    def do_cuStreamSynchronize(self, stream: Any) -> int:
        return 0 if stream.value in self.streams else 400

    def do_cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(target.value, source.value, size.value, target.value, stream.value)

    def do_cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(target.value, source.value, size.value, source.value, stream.value)

    def _copy(self, target: int, source: int, size: int, device: int, stream: int) -> int:
        if device not in self.buffers or size > len(self.buffers[device]) or stream not in self.streams:
            return 1
        ctypes.memmove(target, source, size)
        return 0


class FakeEngine:
    def __init__(self, plan: bytes, change: Any) -> None:
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
        self.engine, self.addresses = engine, {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.tensors

    def execute_async_v3(self, stream: int) -> bool:
        assert stream != 0, "the default stream makes TensorRT synchronise on its own"
        feed = {name: self._view(name).copy() for name in self.engine.inputs}
        outputs = [name for name in self.engine.tensors if name not in self.engine.inputs]
        answers = dict(zip(outputs, self.engine.session.run(outputs, feed), strict=True))
        for name, value in self.engine.change(answers).items():
            self._view(name)[...] = value
        return True

    def _view(self, name: str) -> np.ndarray:
        shape, dtype = self.engine.get_tensor_shape(name), self.engine.get_tensor_dtype(name)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(self.addresses[name]), dtype).reshape(shape)


def fake_tensorrt(version: str = "10.3.0", change: Any = lambda answers: answers) -> SimpleNamespace:
    """A module that deserialises what `fake_plan` made; `change` alters an engine's answers, as other kernels would."""
    runtime = SimpleNamespace(
        deserialize_cuda_engine=lambda plan: FakeEngine(plan, change) if SEPARATOR in plan else None
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
