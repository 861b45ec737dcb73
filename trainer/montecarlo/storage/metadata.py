"""The metadata of a store, checked before Zarr opens anything: what it names decides which code decodes the bytes.

Zarr version 2 metadata, or a codec that some package registers, can name pickle; consolidated metadata can contradict the
files beside it. Only version 3 and the codecs that a store is written with are accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrise.calibration.storage.files import parse_json
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.storage.identity import FORMAT
from rrise.trainer.montecarlo.storage.location import Location

#: Codecs in order, each with its configuration.
Chain = tuple[tuple[str, Mapping[str, Any]], ...]

LARGEST = 1 << 22
"""Bytes of one metadata file; `runs` and `looks` make the group's grow."""
VERSION_2 = (".zgroup", ".zarray", ".zattrs", ".zmetadata")
COUNT_CODECS: Chain = (("bytes", {"endian": "little"}), ("crc32c", {}))
ARRAYS: Mapping[str, tuple[str, tuple[Chain, ...]]] = {
    "counts": ("uint32", (COUNT_CODECS,)),
    "samples": ("uint32", (COUNT_CODECS,)),
    "digests": (
        "uint8",
        (
            (("bytes", {}), ("zstd", {"level": 0, "checksum": False})),
            (("bytes", {}),),
        ),
    ),
}
"""Data type, and the chains of codecs that are accepted."""


def check_root(place: Location) -> None:
    """Refuse a store whose root, where it is there already, is no Zarr version 3 group. Raises: TrainerError."""
    _check_group(place, "")


def check_stream(place: Location, stream: str) -> None:
    """Refuse a stream that is no version 3 group of the arrays and codecs that rrise writes.

    Raises:
        TrainerError: other metadata, or metadata that cannot be read.
    """
    check_root(place)
    if _check_group(place, stream).get("format") != FORMAT:
        return  # refused by its identity, before any array is opened
    for name, (data_type, chains) in ARRAYS.items():
        inner = f"{stream}/{name}"
        found = _metadata(place, inner)
        if found is None:
            if name == "digests":  # beside the counts for readers in other tools; nothing here reads it
                continue
            raise _refusal(place, inner, "no metadata", "an array")
        _expect(place, inner, "node_type", found.get("node_type"), "array")
        _expect(place, inner, "data_type", found.get("data_type"), data_type)
        _expect(place, inner, "storage_transformers", found.get("storage_transformers") or [], [])
        codecs = _codecs(found.get("codecs"))
        if codecs not in [list(chain) for chain in chains]:
            raise _refusal(place, inner, f"codecs {_shown(found.get('codecs'))}", _shown(chains[0]))


def _check_group(place: Location, inner: str) -> dict[str, Any]:
    """The attributes of a group, empty where there is none yet."""
    found = _metadata(place, inner)
    if found is None:
        return {}
    _expect(place, inner, "node_type", found.get("node_type"), "group")
    _expect(place, inner, "consolidated_metadata", found.get("consolidated_metadata"), None)
    attributes = found.get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def _metadata(place: Location, inner: str) -> dict[str, Any] | None:
    """The content of zarr.json in `inner`, of version 3; None where there is none."""
    folder = f"{inner}/" if inner else ""
    for name in VERSION_2:
        if place.exists(folder + name):
            raise _refusal(place, folder + name, "Zarr version 2 metadata", "version 3 only")
    data = place.read(f"{folder}zarr.json", LARGEST)
    if data is None:
        return None
    try:
        found = parse_json(data, finite=False)
    except ValueError as error:
        raise _unreadable(place, inner, error) from error
    if not isinstance(found, dict):
        raise _refusal(place, inner, type(found).__name__, "a table of metadata")
    _expect(place, inner, "zarr_format", found.get("zarr_format"), 3)
    return found


def _codecs(value: Any) -> list[tuple[str, Any]] | None:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    return [(str(item.get("name")), item.get("configuration") or {}) for item in value]


def _expect(place: Location, inner: str, name: str, got: Any, expected: Any) -> None:
    if got != expected:
        raise _refusal(place, inner, f"{name} {_shown(got)}", f"{_shown(expected)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + " ..."


def _refusal(place: Location, inner: str, got: str, expected: str) -> TrainerError:
    return TrainerError(
        f"{place.address}/{inner}: got {got}, expected {expected} as rrise writes it. Nothing was decoded; restore the "
        "store from where it was made, or remove it to sample again"
    )


def _unreadable(place: Location, inner: str, error: Exception) -> TrainerError:
    return TrainerError(
        f"{place.address}: cannot read the stream {inner!r} ({error!r}); restore it, or remove {place.address}/{inner} to "
        "sample it again"
    )
