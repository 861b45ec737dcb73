"""Sealed JSON: a record that carries its own digest and has one spelling, so that any changed byte is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from rrise.calibration.storage.digests import PathLike, json_digest
from rrise.calibration.storage.files import atomic_file, parse_json, read_limited
from rrise.calibration.storage.formats import check_format
from rrise.edge_sdk.errors import BundleError

_LIMIT = 16 << 20


def sealed_text(value: Dict[str, Any]) -> str:
    """`value` and its digest as indented JSON. Lists and dictionaries only: tuples would not read back equal."""
    sealed = dict(value, digest=json_digest(value))
    return json.dumps(sealed, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_sealed(path: PathLike, value: Dict[str, Any]) -> None:
    """Write a sealed record atomically."""
    with atomic_file(path, "w") as file:
        file.write(sealed_text(value))


def read_sealed(
    path: PathLike,
    what: str,
    *,
    data: Optional[bytes] = None,
    formats: Sequence[str] = (),
    mend: str = "",
) -> Dict[str, Any]:
    """Read a sealed record; `what` names it in errors. The digest is checked and removed.

    data: the file's bytes, where they were read and checked before; `path` then only names it.
    formats: those that are read, oldest first, of a record that names its own in "format"; release 0.1 did not name the
        first. mend: what makes the record anew where its format is older than all of them.

    Raises:
        BundleError: missing, unreadable, changed since it was written, be it by a single byte, or of another format.
    """
    try:
        content = read_limited(path, _LIMIT) if data is None else data
        value: Dict[str, Any] = parse_json(content)
        digest = value.pop("digest")
        intact = json_digest(value) == digest and sealed_text(value).encode() == content
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BundleError(
            f"cannot read the {what} {Path(path)} ({reason}); restore it from the original"
        ) from error
    if not intact:
        raise BundleError(
            f"the {what} {Path(path)} was changed after it was written; restore it from the original"
        )
    if formats:
        check_format(f"{what} {Path(path)}", value.pop("format", formats[0]), formats, mend, BundleError)
    return value
