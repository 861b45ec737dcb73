"""The metadata of an ONNX file, read without the onnx package: a robot with TensorRT has neither onnx nor protobuf."""

from __future__ import annotations

from typing import Dict, Iterator, Tuple, Union

from rrise.edge_sdk.errors import BundleError

_METADATA_FIELD, _KEY_FIELD, _VALUE_FIELD = 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_metadata(model: bytes) -> Dict[str, str]:
    """`metadata_props` of a serialised ModelProto.

    Raises:
        BundleError: the bytes are no ONNX model.
    """
    try:
        found: Dict[str, str] = {}
        for field, value in _fields(memoryview(model)):
            if field == _METADATA_FIELD and isinstance(value, memoryview):
                entry = dict(_fields(value))
                key, text = entry.get(_KEY_FIELD, b""), entry.get(_VALUE_FIELD, b"")
                if isinstance(key, int) or isinstance(text, int):
                    raise ValueError("metadata that is not text")
                found[bytes(key).decode()] = bytes(text).decode()
        return found
    except (IndexError, ValueError, TypeError) as error:
        raise BundleError(f"not an ONNX file ({error}); restore the bundle or export it again") from error


def _fields(data: memoryview) -> Iterator[Tuple[int, Union[int, memoryview]]]:
    """Field numbers and values of one protobuf message, whose wire format is four kinds of field in a row."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + size > len(data):
            raise ValueError("truncated")
        yield tag >> 3, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")
