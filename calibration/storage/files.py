"""Atomic files: what is written appears whole under its name or not at all, and nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Dict, Iterable, Iterator, Optional, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.digests import PathLike


@contextmanager
def atomic_file(path: PathLike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary sibling of `path` that replaces it on success and vanishes on any error."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused because JSON has none."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    with atomic_file(path, "w") as file:
        file.write(text + "\n")


def read_json(path: PathLike, what: str) -> Any:
    """Read a JSON file; `what` names it in the error.

    Raises:
        CalibrationError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise CalibrationError(
            f"cannot read the {what} {path}: {error}; restore the file or make it again"
        ) from error


@contextmanager
def reading(path: PathLike, what: str) -> Iterator[None]:
    """Turn the errors of missing or malformed fields, while a record is put together, into one message."""
    try:
        yield
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise CalibrationError(
            f"the {what} {path} has a field that is missing or malformed: {error!r}; restore the file or make it again"
        ) from error


def text_field(meta: Dict[str, Any], name: str) -> str:
    """A field that must be text; for use within `reading`."""
    if not isinstance(meta[name], str):
        raise TypeError(f"{name}: got {meta[name]!r}, expected text")
    return str(meta[name])


def names_field(meta: Dict[str, Any], name: str) -> Tuple[str, ...]:
    """A field that must be a list of text; for use within `reading`."""
    if not isinstance(meta[name], list) or not all(isinstance(item, str) for item in meta[name]):
        raise TypeError(f"{name}: got {meta[name]!r}, expected a list of text")
    return tuple(meta[name])


def write_arrays(path: PathLike, arrays: Dict[str, np.ndarray], meta: Dict[str, Any]) -> None:
    """Write arrays and a JSON record as one `.npz`, atomically and with reproducible bytes."""
    everything = dict(arrays, meta=np.array(json.dumps(meta, sort_keys=True, allow_nan=False)))
    with (
        atomic_file(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name in sorted(everything):
            # A fixed time stamp: the same content gives the same bytes, hence the same digest.
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(everything[name]), allow_pickle=False)


def read_arrays(
    path: PathLike, what: str, required: Iterable[str], table: Optional[str] = None
) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
    """Read what `write_arrays` wrote; `what` names it in the error, `table` is what its record must call itself.

    Raises:
        CalibrationError: the file is missing, damaged, another table, or lacks one of the `required` arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = dict(json.loads(str(arrays.pop("meta"))))
    except (
        OSError,
        KeyError,
        ValueError,
        EOFError,
        NotImplementedError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
    ) as error:
        raise CalibrationError(
            f"cannot read the {what} {path}: {error}; restore the file or make it again"
        ) from error
    except Exception as error:  # zlib.error and the tokenizer's own errors on damaged headers
        raise CalibrationError(
            f"the {what} {path} is damaged: {error}; restore the file or make it again"
        ) from error
    if table is not None and meta.get("table") != table:
        raise CalibrationError(f"{path}: got a table of {meta.get('table')!r}, expected {table}")
    missing = sorted(set(required) - set(arrays))
    if missing:
        raise CalibrationError(
            f"the {what} {path} has no {', '.join(missing)}: expected {', '.join(sorted(required))}"
        )
    return arrays, meta
