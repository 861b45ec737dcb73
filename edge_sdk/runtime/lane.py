"""One way through an engine: a context with its own stream, pinned and device buffers, and CUDA graph."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

from rrise.edge_sdk.errors import FrameError, RuntimeFault
from rrise.edge_sdk.formats.contract import FRAME, LABEL, RADIUS, TensorInfo
from rrise.edge_sdk.runtime.cuda import Driver
from rrise.edge_sdk.runtime.device_frames import UNKNOWN_STREAM, DeviceFrame

GRAPH, ENQUEUE = "cuda-graph", "enqueue"
"""How the engine is started: by replaying a captured CUDA graph, or call by call. Part of the execution."""


class Lane:
    """Runs an engine on one frame tensor at a time. Everything is allocated here, nothing in a run.

    Attributes:
        mode: `GRAPH` or `ENQUEUE`; reason: why it is not `GRAPH`, or "".
        stream: handle of the lane's own, non-default stream.
    """

    def __init__(self, engine: Any, driver: Driver, tensors: Sequence[TensorInfo], *, graph: bool) -> None:
        """Raises: RuntimeFault: CUDA or TensorRT refused something; nothing is left allocated then."""
        self.mode, self.reason = ENQUEUE, "" if graph else "not asked for"
        self._driver = driver
        self._fault: Optional[str] = None
        self._context: Optional[Any] = None
        driver.attach()
        with ExitStack() as stack:
            self.stream = driver.stream()
            stack.callback(driver.close_stream, self.stream)
            self._event = driver.event()
            stack.callback(driver.close_event, self._event)
            self._host: Dict[str, np.ndarray] = {}
            self._device: Dict[str, int] = {}
            for tensor in tensors:
                self._host[tensor.name] = self._pinned(tensor, stack)
                self._device[tensor.name] = driver.allocate(self._host[tensor.name].nbytes)
                stack.callback(driver.free, self._device[tensor.name])
            self._context = engine.create_execution_context()
            stack.callback(setattr, self, "_context", None)
            self._bind()
            # Called first when the lane closes: nothing may be freed under work that is still running.
            stack.callback(driver.synchronize, self.stream)
            self._prepare()
            if graph:
                self._capture(stack)
            self._stack = stack.pop_all()

    def _pinned(self, tensor: TensorInfo, stack: ExitStack) -> np.ndarray:
        shape, dtype = tuple(side or 0 for side in tensor.shape), np.dtype(tensor.dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        address = self._driver.pinned(size)
        stack.callback(self._driver.free_pinned, address)
        memory = memoryview((ctypes.c_ubyte * size).from_address(address))
        return np.frombuffer(memory, dtype).reshape(shape)

    def _bind(self) -> None:
        if self._context is None:
            raise RuntimeFault("TensorRT gave no execution context; is device memory short?")
        if not self._context.set_input_shape(FRAME, self._host[FRAME].shape):
            raise RuntimeFault(
                f"TensorRT refused the input shape {self._host[FRAME].shape}; build the engine again"
            )
        for name, address in self._device.items():
            if not self._context.set_tensor_address(name, address):
                raise RuntimeFault(f"TensorRT refused the address of tensor {name!r}; build the engine again")

    def _prepare(self) -> None:
        """Lay down every call of a run once."""
        driver, host, device = self._driver, self._host, self._device
        self._upload = driver.upload(device[FRAME], host[FRAME], self.stream)
        self._downloads = {
            name: driver.download(array, device[name], self.stream)
            for name, array in host.items()
            if name != FRAME
        }
        self._start: Callable[[], None] = self._enqueue
        self._synchronize = driver.bound("cuStreamSynchronize", ctypes.c_void_p(self.stream))
        self._answers = [np.empty_like(host[LABEL]), np.empty_like(host[RADIUS])]
        self._poison = [
            (host[name], -1 if host[name].dtype.kind == "i" else np.nan) for name in self._downloads
        ]

    def _enqueue(self) -> None:
        """Run the engine and fetch label and radius: what a CUDA graph holds as well."""
        if self._context is None or not self._context.execute_async_v3(self.stream):
            raise RuntimeFault("TensorRT failed to run the engine; build it again")
        self._downloads[LABEL]()
        self._downloads[RADIUS]()

    def _capture(self, stack: ExitStack) -> None:
        """Go over to a CUDA graph where one can be captured and gives the very bits of plain runs."""
        frame = self._host[FRAME]
        pattern = (np.arange(frame.size) % 251).astype(frame.dtype).reshape(frame.shape)
        if frame.dtype.kind == "f":
            pattern /= np.float32(251)
        others = [name for name in self._downloads if name not in (LABEL, RADIUS)]
        names = [LABEL, RADIUS, *others]
        # TensorRT finishes its own preparations in a first plain run, which may not be captured.
        plain = self.run(pattern, names)
        self.run(np.zeros_like(frame), names)
        try:
            executable = self._driver.capture(self.stream, self._enqueue)
        except Exception as error:  # noqa: BLE001 - TensorRT's own exceptions have no public base
            self.reason = f"not captured: {error}"
        else:
            handles = ctypes.c_void_p(executable), ctypes.c_void_p(self.stream)
            with ExitStack() as undo:
                undo.callback(self._driver.close_graph, executable)
                undo.callback(self._driver.synchronize, self.stream)
                self._start = self._driver.bound("cuGraphLaunch", *handles)
                replayed = self.run(pattern, names)
                if all(a.tobytes() == b.tobytes() for a, b in zip(plain, replayed)):
                    self.mode = GRAPH
                    # Closed before the buffers that it names.
                    stack.callback(undo.pop_all().close)
                    return
            self.reason = "the captured graph answered other bits than plain runs"
        self._start = self._enqueue
        # A failed capture must leave the stream usable: a plain run says whether it did.
        self.run(pattern, names)

    def answer(self, frames: Any) -> List[np.ndarray]:
        """[label, radius], in arrays that the next call overwrites. Raises: RuntimeFault."""
        self._go(frames, ())
        np.copyto(self._answers[0], self._host[LABEL])
        np.copyto(self._answers[1], self._host[RADIUS])
        return self._answers

    def run(self, frames: Any, names: Sequence[str]) -> List[np.ndarray]:
        """Outputs by name, in arrays of the caller's own. Raises: RuntimeFault."""
        self._go(frames, [name for name in names if name not in (LABEL, RADIUS)])
        return [self._host[name].copy() for name in names]

    def fetch(self, frame: DeviceFrame) -> np.ndarray:
        """A host copy of a device frame, as a batch of one."""
        shape, dtype = self._host[FRAME].shape, self._host[FRAME].dtype
        copied = np.empty(shape, dtype)
        self._guarded(self._fetch, frame)
        np.copyto(copied, self._host[FRAME])
        return copied

    def _fetch(self, frame: DeviceFrame) -> None:
        self._send(frame)
        self._driver.download(self._host[FRAME], self._device[FRAME], self.stream)()
        self._synchronize()

    def holds(self, address: int) -> bool:
        """Whether an address lies in this device's memory."""
        self._driver.attach()
        return self._driver.holds(address)

    def _go(self, frames: Any, extra: Sequence[str]) -> None:
        # Answers that never arrive must not look like the ones of the frame before.
        if self._fault is None and self._context is not None:
            for array, value in self._poison:
                array.fill(value)
        self._guarded(self._pass, frames, extra)

    def _pass(self, frames: Any, extra: Sequence[str]) -> None:
        self._send(frames)
        self._start()
        for name in extra:
            self._downloads[name]()
        self._synchronize()

    def _send(self, frames: Any) -> None:
        if isinstance(frames, DeviceFrame):
            if frames.producer == UNKNOWN_STREAM:
                self._driver.wait_for_everything()
            elif frames.producer is not None:
                self._driver.wait_for(frames.producer, self._event, self.stream)
            self._driver.copy_on_device(self._device[FRAME], frames.address, frames.size, self.stream)
            return
        np.copyto(self._host[FRAME], frames, casting="no")
        self._upload()

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do something on the device; after the first failure nothing is ever done again."""
        if self._context is None:
            raise RuntimeFault("TensorRT: this runtime is closed")
        if self._fault is not None:
            raise RuntimeFault(f"TensorRT: out of use since an earlier failure: {self._fault}")
        try:
            self._driver.attach()
            work(*arguments)
        except Exception as error:  # TensorRT's own exceptions have no public base
            self._fault = str(error)
            if isinstance(error, RuntimeFault):
                raise
            raise RuntimeFault(f"TensorRT: {error}") from error

    def check(self, frames: np.ndarray) -> None:
        """Raises: FrameError: not the frame tensor's dtype and shape, which a copy might broadcast."""
        bound = self._host[FRAME]
        if frames.shape != bound.shape or frames.dtype != bound.dtype:
            raise FrameError(
                f"frames: got {frames.dtype} {list(frames.shape)}, expected {bound.dtype} {list(bound.shape)}"
            )

    def close(self) -> None:
        """Release everything, whatever fails on the way; after a fault failures are expected and not reported."""
        try:
            with self._stack:
                self._driver.attach()
        except RuntimeFault:
            if self._fault is None:
                raise
