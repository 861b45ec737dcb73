"""Frames that already lie in GPU memory: DLPack and `__cuda_array_interface__`, read without any array package."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Optional, Tuple

import numpy as np

from rrise.edge_sdk.errors import FrameError
from rrise.edge_sdk.formats.contract import GraphSignature

CUDA, CUDA_MANAGED = 2, 13
"""Device types of DLPack that a CUDA stream can copy from."""

UNKNOWN_STREAM = -1
"""The producer does not say on which stream it wrote, so everything must be waited for."""


@dataclass(frozen=True)
class DeviceFrame:
    """One checked frame in device memory: C-contiguous, of the graph's dtype and shape.

    Attributes:
        address: of its first byte; size: in bytes.
        producer: stream that wrote it and must be waited for; None where that is settled; or `UNKNOWN_STREAM`.
        owner: what keeps the memory alive; to be held until the copy is done.
    """

    address: int
    size: int
    producer: Optional[int]
    owner: Any


def on_device(frame: Any) -> bool:
    """Whether an object says that it lies in CUDA memory. Objects that cannot say so are left to the host's checks."""
    try:
        if hasattr(frame, "__dlpack_device__"):
            return frame.__dlpack_device__()[0] in (CUDA, CUDA_MANAGED)
        return hasattr(frame, "__cuda_array_interface__")
    except Exception:  # noqa: BLE001 - an exporter may raise anything
        return False


def view_on_device(frame: Any, signature: GraphSignature, stream: int) -> DeviceFrame:
    """Read where a frame lies. DLPack is preferred: its producer orders its own work before `stream`.

    Raises:
        FrameError: another dtype or shape, strides, a mask, a graph with batches or with float32 frames.
    """
    if signature.batch_size != 1 or signature.dtype != "uint8":
        raise FrameError(
            "frame: in device memory only single uint8 frames are taken, for float values cannot be checked there;"
            f" this graph takes {signature.dtype} in batches of {signature.batch_size}; copy it with .cpu() or .get()"
        )
    try:
        if hasattr(frame, "__dlpack_device__"):
            return _from_dlpack(frame, signature, stream)
        return _from_interface(frame, signature)
    except FrameError:
        raise
    except Exception as error:  # an exporter may raise anything
        raise FrameError(
            f"frame: {type(frame).__name__} cannot be read as a device array ({error})"
        ) from error


def _from_interface(frame: Any, signature: GraphSignature) -> DeviceFrame:
    entry = frame.__cuda_array_interface__
    if entry.get("mask") is not None:
        raise FrameError("frame: got a masked device array, expected one without a mask")
    dtype, shape = np.dtype(entry["typestr"]), tuple(int(side) for side in entry["shape"])
    strides = None if entry.get("strides") is None else tuple(int(step) for step in entry["strides"])
    _check(dtype.name, shape, strides, dtype.itemsize, signature)
    producer = entry.get("stream") if int(entry["version"]) >= 3 else UNKNOWN_STREAM
    if producer is not None and (not isinstance(producer, int) or producer == 0 or producer < -1):
        raise FrameError(
            f"frame: got stream {producer!r} in __cuda_array_interface__, expected None or a stream"
        )
    return _placed(int(entry["data"][0]), int(np.prod(shape)) * dtype.itemsize, producer, frame)


class _Tensor(ctypes.Structure):
    """DLTensor of dlpack.h, the first member of the DLManagedTensor that a capsule holds."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


def _from_dlpack(frame: Any, signature: GraphSignature, stream: int) -> DeviceFrame:
    capsule = frame.__dlpack__(stream=stream)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    if tensor.device_type not in (CUDA, CUDA_MANAGED) or tensor.lanes != 1:
        raise FrameError(
            f"frame: got a DLPack tensor of device type {tensor.device_type}, expected CUDA memory"
        )
    sides = range(tensor.ndim)
    shape = tuple(int(tensor.shape[i]) for i in sides)
    strides = tuple(int(tensor.strides[i]) for i in sides) if tensor.strides else None
    _check(f"{_KINDS.get(tensor.code, 'kind')}{tensor.bits}", shape, strides, 1, signature)
    # The capsule is not consumed: when it goes, its own destructor gives the memory back to the producer.
    address = int(tensor.data or 0) + tensor.byte_offset if tensor.data else 0
    return _placed(address, int(np.prod(shape)), None, (capsule, frame))


def _check(
    dtype: str,
    shape: Tuple[int, ...],
    strides: Optional[Tuple[int, ...]],
    step: int,
    signature: GraphSignature,
) -> None:
    if dtype != signature.dtype or shape != signature.frame_shape:
        raise FrameError(
            f"frame: got {dtype} {list(shape)} in device memory, expected {signature.dtype} {list(signature.frame_shape)};"
            " convert or resize it as in calibration"
        )
    if strides is None:
        return
    if len(strides) != len(shape):
        raise FrameError(f"frame: got {len(strides)} strides for {len(shape)} dimensions")
    for side, stride in zip(reversed(shape), reversed(strides)):
        if side != 1 and stride != step:
            raise FrameError(
                f"frame: got strides {list(strides)} in device memory, expected C-contiguous; make a contiguous copy there"
            )
        step *= side


def _placed(address: int, size: int, producer: Optional[int], owner: Any) -> DeviceFrame:
    if address <= 0:
        raise FrameError("frame: the device array has no address")
    return DeviceFrame(address, size, producer, owner)
