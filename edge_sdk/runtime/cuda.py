"""The few calls of NVIDIA's driver that an engine needs, through ctypes: no package, and asked before TensorRT is touched.

Only libcuda is used. It comes with the driver itself, on a PC and on a Jetson, so nothing has to match its version.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Optional, Tuple

import numpy as np

from edge_sdk.errors import RuntimeFault, RuntimeUnavailable

LIBRARIES = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NON_BLOCKING = 1


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
        status = getattr(self._library, name)(*arguments)
        if status:
            raise RuntimeFault(f"CUDA: {name} returned error {status}")

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

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        """Enqueue a copy of a C-contiguous array; it must live until `synchronize`."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        """Enqueue a copy into a C-contiguous array, which is filled after `synchronize`."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))


def _load() -> Any:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeUnavailable(
        f"CUDA: found no driver library ({', '.join(LIBRARIES)}); install NVIDIA's driver, or run the bundle on ONNX Runtime"
    )
