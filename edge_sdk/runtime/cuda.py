"""The few calls of NVIDIA's driver that an engine needs, through ctypes: no package, and asked before TensorRT is touched.

Only libcuda is used. It comes with the driver itself, on a PC and on a Jetson, so nothing has to match its version.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Callable, Optional, Tuple

import numpy as np

from rrise.edge_sdk.errors import RuntimeFault, RuntimeUnavailable

LIBRARIES = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NON_BLOCKING = 1
_NO_TIMING = 2
_CAPTURE_THREAD_LOCAL = 1
_MEMORY_TYPE, _ORDINAL, _ON_DEVICE = 2, 9, 2
_STICKY = frozenset({214, 700, 702, 709, *range(710, 721)})
"""Errors after which every further CUDA call of the process fails: ECC, illegal address, launch failures."""


@dataclass(frozen=True)
class Device:
    """The first CUDA device: its name, compute capability such as (8, 7), and the driver's version as in "12.6"."""

    name: str
    capability: Tuple[int, int]
    driver: str

    @property
    def architecture(self) -> str:
        """As in "Orin sm_87"."""
        return f"{self.name} sm_{self.capability[0]}{self.capability[1]}"


class Driver:
    """The first device, with its primary context current in the calling thread. Build one with `Driver.open`."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._context = ctypes.c_void_p()
        self.device = self._describe()

    @classmethod
    def open(cls, library: Optional[Any] = None) -> "Driver":
        """Load the driver and take the first device.

        Raises:
            RuntimeUnavailable: no driver, or no device; says what was found.
        """
        if library is None:
            library = _load()
        status = library.cuInit(0)
        if status:
            raise RuntimeUnavailable(
                f"CUDA: the driver is there but cuInit returned error {status}; is a GPU visible to this process?"
            )
        count = ctypes.c_int()
        if library.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
            raise RuntimeUnavailable(f"CUDA: the driver found {count.value} devices, expected at least one")
        return cls(library)

    def _call(self, name: str, *arguments: Any) -> None:
        self.bound(name, *arguments)()

    def bound(self, name: str, *arguments: Any) -> Callable[[], None]:
        """A call of the driver with its arguments laid down once, so that repeating it builds nothing.

        Raises:
            RuntimeFault: the driver lacks the function; from the returned call: CUDA reported an error.
        """
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise RuntimeFault(f"CUDA: the driver has no {name}; install a newer driver") from error

        def call() -> None:
            status = function(*arguments)
            if status:
                raise RuntimeFault(_explained(name, status))

        return call

    def _describe(self) -> Device:
        handle = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(handle), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), handle)
        self.attach()
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, 256, handle)
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        capability = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, handle)
            capability.append(value.value)
        driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
        return Device(name.value.decode(errors="replace"), (capability[0], capability[1]), driver)

    def attach(self) -> None:
        """Make the device's context current in the calling thread; every thread needs that before its other calls."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def stream(self) -> int:
        """A stream that does not wait for the default one."""
        handle = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(handle), ctypes.c_uint(_NON_BLOCKING))
        return int(handle.value or 0)

    def close_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def pinned(self, size: int) -> int:
        """Address of `size` bytes of page-locked host memory, which the device copies without a detour."""
        address = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(max(size, 1)), ctypes.c_uint(0))
        return int(address.value or 0)

    def free_pinned(self, address: int) -> None:
        self._call("cuMemFreeHost", ctypes.c_void_p(address))

    def event(self) -> int:
        """An event without timing, to let one stream wait for another."""
        handle = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(handle), ctypes.c_uint(_NO_TIMING))
        return int(handle.value or 0)

    def close_event(self, event: int) -> None:
        self._call("cuEventDestroy_v2", ctypes.c_void_p(event))

    def wait_for(self, producer: int, event: int, stream: int) -> None:
        """Let `stream` wait for all that `producer` has been given so far (1: legacy default stream, 2: per thread)."""
        self._call("cuEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(producer))
        self._call("cuStreamWaitEvent", ctypes.c_void_p(stream), ctypes.c_void_p(event), ctypes.c_uint(0))

    def wait_for_everything(self) -> None:
        """Wait on the host until every stream of the context is idle."""
        self._call("cuCtxSynchronize")

    def holds(self, address: int) -> bool:
        """Whether an address lies in memory of the first device; a foreign or host address does not."""
        values = []
        for attribute in (_MEMORY_TYPE, _ORDINAL):
            value = ctypes.c_int(-1)
            status = self._library.cuPointerGetAttribute(
                ctypes.byref(value), ctypes.c_int(attribute), ctypes.c_uint64(address)
            )
            if status in _STICKY:
                raise RuntimeFault(_explained("cuPointerGetAttribute", status))
            values.append(-1 if status else value.value)
        return values == [_ON_DEVICE, 0]

    def upload(self, address: int, array: np.ndarray, stream: int) -> Callable[[], None]:
        """A call that enqueues a copy of a C-contiguous array to the device; the array must outlive the call's use."""
        return self.bound(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def download(self, array: np.ndarray, address: int, stream: int) -> Callable[[], None]:
        """A call that enqueues a copy into a C-contiguous array, which is filled after `synchronize`."""
        return self.bound(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Enqueue a copy within device memory."""
        self._call(
            "cuMemcpyDtoDAsync_v2",
            ctypes.c_uint64(target),
            ctypes.c_uint64(source),
            ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Handle of an executable CUDA graph of what `work` enqueues on `stream`; nothing of it runs now.

        Raises:
            RuntimeFault: something in it cannot be captured. The stream has left capture mode in any case.
        """
        # Thread-local: other threads may go on allocating while this one captures.
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_CAPTURE_THREAD_LOCAL))
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        end = self.bound("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            work()
        except Exception:
            try:
                end()
            except RuntimeFault:
                pass  # ending a failed capture reports the failure again
            else:
                self._call("cuGraphDestroy", graph)
            raise
        end()
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", graph)
        return int(executable.value or 0)

    def close_graph(self, executable: int) -> None:
        self._call("cuGraphExecDestroy", ctypes.c_void_p(executable))


def _explained(name: str, status: int) -> str:
    lasting = "; the process must be started anew before CUDA works again" if status in _STICKY else ""
    return f"CUDA: {name} returned error {status}{lasting}"


def _load() -> Any:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeUnavailable(
        f"CUDA: found no driver library ({', '.join(LIBRARIES)}); install NVIDIA's driver, or run the bundle on ONNX Runtime"
    )
