"""ONNX files as single files: what a digest is taken of must hold everything that the classifier is made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rrise.calibration.requirements import install
from rrise.trainer.brought.user_code import describe_error
from rrise.trainer.errors import TrainerError

LARGEST = 2**31 - 1
"""Bytes of a protobuf message, and so of an ONNX file with its weights inside."""


def embedded(path: Path) -> bytes:
    """The ONNX file at `path` with all its weights inside, ready for a digest.

    Weights in files beside it, as newer exporters write them by default, are read from there once and put inside.

    Raises:
        TrainerError: no ONNX file; external weights that are missing, lie elsewhere or make it larger than 2 GiB.
    """
    onnx = _onnx()
    data = read_file(path)
    if not external_references(data, str(path)):
        return data
    try:
        model = onnx.load_model_from_string(data)
        # Refuses absolute paths, links and what leads out of the folder.
        onnx.load_external_data_for_model(model, str(path.resolve().parent))
        whole: bytes = model.SerializeToString()
    except Exception as error:  # ONNX and protobuf raise classes of their own
        raise TrainerError(
            f"{path}: keeps weights in other files, which cannot be read ({describe_error(error)}); put them beside it, or "
            "export it as one file (torch.onnx.export(..., external_data=False), onnx.save(onnx.load(path), path))"
        ) from error
    return refuse_references(whole, str(path))


def refuse_references(data: bytes, origin: str) -> bytes:
    """`data` unchanged; refused where something in it lies in another file, which no digest of it covers."""
    found = external_references(data, origin)
    if found:
        raise TrainerError(
            f"{origin}: {found[0]} lies outside the file, so its digest does not say what the classifier is; expected one "
            "file with all weights inside. Take it anew with `rrise-train base --again`, which puts them inside, or "
            "export it with external_data=False"
        )
    return data


def external_references(data: bytes, origin: str) -> list[str]:
    """What a serialised ONNX model refers to in other files, in words.

    Raises:
        TrainerError: not an ONNX model.
    """
    try:
        model = _onnx().load_model_from_string(data)
    except TrainerError:
        raise
    except Exception as error:  # see above
        raise TrainerError(f"{origin}: cannot load it as an ONNX model ({describe_error(error)})") from error
    if not model.graph.node:
        raise TrainerError(f"{origin}: cannot load it as an ONNX model (it has no graph)")
    return [text for message in _messages(model) if (text := _reference(message))]


def _reference(message: Any) -> str:
    kind = type(message).__name__
    if kind == "TensorProto" and (message.data_location == message.EXTERNAL or message.external_data):
        where = {entry.key: entry.value for entry in message.external_data}.get("location", "another file")
        return f"weight {message.name!r} ({where})"
    if kind == "NodeProto" and message.op_type == "EPContext":
        return f"the compiled engine of node {message.name!r}"
    return ""


def _messages(message: Any) -> Iterator[Any]:
    """The message and all messages in it: initialisers, attributes, subgraphs, functions, training information."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            yield from _messages(part)


def read_file(path: Path) -> bytes:
    """The bytes of a file of at most 2 GiB. Raises: TrainerError."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise TrainerError(
                f"{path}: got {size / 2**30:.1f} GiB, expected an ONNX file of at most 2 GiB with all weights inside"
            )
        return path.read_bytes()
    except OSError as error:
        raise TrainerError(f"{path}: cannot be read ({error}); expected an ONNX file") from error


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise TrainerError(f"ONNX files need the package onnx: {install('onnx')}") from error
    return onnx
