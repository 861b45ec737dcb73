"""What must be known of an ONNX file without the onnx package: a robot with TensorRT has neither onnx nor protobuf.

Its metadata, and whether it is all of the graph: a tensor may lie in another file, which the digest does not cover.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Tuple, Union

from rrise.edge_sdk.errors import BundleError

_METADATA_FIELD, _KEY_FIELD, _VALUE_FIELD = 14, 1, 2
_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
}
"""Field number -> message, for every place of a ModelProto below which there can be tensors or nodes."""
_OPERATOR, _TENSOR_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 4, 8, 13, 14
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


def refuse_external(model: bytes, what: str) -> None:
    """Refuse a graph that refers to another file, which no digest or signature of this one covers; `what` names it.

    Raises:
        BundleError: a tensor has external data, or a node holds a compiled graph that may lie elsewhere; or the bytes are
            no ONNX model.
    """
    waiting: List[Tuple[str, memoryview]] = [("model", memoryview(model))]
    try:
        while waiting:
            kind, message = waiting.pop()
            found = _reference(message) if kind == "tensor" else ""
            for field, value in _fields(message) if kind in _PARTS else ():
                part = _PARTS[kind].get(field)
                if part is not None and isinstance(value, memoryview):
                    waiting.append((part, value))
                elif (kind, field) == ("node", _OPERATOR) and isinstance(value, memoryview):
                    found = "its node EPContext" if bytes(value) == b"EPContext" else found
            if found:
                raise BundleError(
                    f"{what}: {found} may refer to another file, expected a graph that is whole in itself, since no digest covers"
                    " the other file; store it with its weights inside (`onnx.save(onnx.load(OLD), NEW)`)"
                )
    except (IndexError, ValueError, TypeError) as error:
        raise BundleError(
            f"{what}: not an ONNX file ({error}); restore the bundle or export it again"
        ) from error


def _reference(tensor: memoryview) -> str:
    """The tensor's name in words where its values lie outside of it, or an empty text."""
    name, outside = "", False
    for field, value in _fields(tensor):
        outside |= field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)
        if field == _TENSOR_NAME and isinstance(value, memoryview):
            name = bytes(value[:100]).decode(errors="replace")
    return f"the external data of tensor {name!r}" if outside else ""


def _fields(data: memoryview) -> Iterator[Tuple[int, Union[int, memoryview]]]:
    """Field numbers and values of one protobuf message, whose wire format is four kinds of field in a row."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if tag >> 32:  # other readers drop what is beyond, and would see another field
            raise ValueError("field number out of range")
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
