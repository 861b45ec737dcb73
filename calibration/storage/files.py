"""Atomic files: what is written appears whole under its name or not at all, and nothing is ever unpickled."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import secrets
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Dict, Iterable, Iterator, Optional, Tuple, Union

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.digests import PathLike
from rrise.calibration.storage.formats import check_format

ARRAYS_FORMATS = (1, 2)
"""Of tables of arrays; the first did not name it."""
FORMAT_FIELD = "file_format"
JSON_LIMIT = 64 << 20
"""Bytes of the largest JSON file that is read."""
_LARGEST_INT = 20
"""Digits of the largest whole number that any of our records holds; a longer one is a float's overflow in waiting."""
UNPACKED_LEAST, UNPACKED_FACTOR = 256 << 20, 200
"""A table may unpack to 256 MiB, or to 200 times its size: camera frames shrink to a half, a trap to a thousandth."""


@contextmanager
def atomic_file(path: PathLike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary sibling of `path` that replaces it on success and vanishes on any error."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _new_sibling(target)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _new_sibling(target: Path) -> Tuple[int, Path]:
    """A new file beside `target`, with the rights that the process gives to new files.

    The system applies the umask itself: to ask for it, `os.umask` would have to change it for every thread.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        # Of a name near the system's limit only the beginning, so that the longest name can be written, too.
        path = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}")
        try:
            return os.open(path, flags, 0o666), path
        except FileExistsError:
            continue


def present(path: PathLike) -> bool:
    """Whether there is anything of this name, be it a link to nothing.

    Raises:
        OSError: that cannot be seen. `Path.exists` says "no" to that since Python 3.14, and a record that cannot be
            seen, such as a margin or a suspension, must not look like one that was never made.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read_limited(path: PathLike, limit: int) -> bytes:
    """All bytes of a plain file. Raises: OSError: it is larger than `limit` bytes, no file, or cannot be read."""
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes, expected a smaller file", str(path))
    return data


def parse_json(text: Union[str, bytes], *, finite: bool = True, digits: int = _LARGEST_INT) -> Any:
    """A JSON value of which every number is finite; with finite=False also Python's Infinity and NaN.

    digits: of the largest whole number.

    Raises:
        ValueError: anything else, however deeply it is nested and however large its numbers are.
    """
    try:
        return json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            parse_constant=_not_a_number if finite else float,
            parse_float=_finite if finite else float,
            parse_int=lambda number: _whole(number, digits),
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _not_a_number(text: str) -> float:
    raise ValueError(f"got the number {text}, expected finite ones")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"got the number {text[:40]}, expected finite ones")
    return value


def _whole(text: str, digits: int) -> int:
    if len(text) > digits:
        raise ValueError(f"got a whole number of {len(text)} digits, expected at most {digits}")
    return int(text)


def write_json(path: PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused because JSON has none."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    with atomic_file(path, "w") as file:
        file.write(text + "\n")


def read_json(path: PathLike, what: str, *, data: Optional[bytes] = None, limit: int = JSON_LIMIT) -> Any:
    """Read a JSON file; `what` names it in the error.

    Args:
        data: the file's bytes, where they were read and checked before; `path` then only names it.
        limit: bytes of the largest file that is read.

    Raises:
        CalibrationError: the file is missing, unreadable, too large or not JSON.
    """
    try:
        return parse_json(read_limited(path, limit) if data is None else data)
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
    named = {**meta, FORMAT_FIELD: ARRAYS_FORMATS[-1]}
    everything = dict(arrays, meta=np.array(json.dumps(named, sort_keys=True, allow_nan=False)))
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
    path: PathLike,
    what: str,
    required: Iterable[str],
    table: Optional[str] = None,
    *,
    data: Optional[bytes] = None,
) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
    """Read what `write_arrays` wrote; `what` names it in the error, `table` is what its record must call itself.

    data: the file's bytes, where they were read and checked before; `path` then only names it.

    Raises:
        CalibrationError: the file is missing, damaged, another table, unpacks to far more than such a table, or lacks one
            of the `required` arrays.
    """
    try:
        with open(path, "rb") if data is None else io.BytesIO(data) as file:
            arrays = _unpacked(file)
        meta = dict(parse_json(str(arrays.pop("meta"))))
    except (
        Exception
    ) as error:  # of the system, zipfile, zlib and numpy's tokenizer, which have no common base
        raise CalibrationError(
            f"cannot read the {what} {path}: {str(error) or type(error).__name__}; restore the file or make it again"
        ) from error
    check_format(f"{what} {path}", meta.pop(FORMAT_FIELD, 1), ARRAYS_FORMATS, "make it again")
    if table is not None and meta.get("table") != table:
        found = (
            f"a table of {meta['table']!r}" if meta.get("table") else "an .npz file that is no table of rrise"
        )
        raise CalibrationError(f"{path}: got {found}, expected {table}; give the file of the {what}")
    missing = sorted(set(required) - set(arrays))
    if missing:
        raise CalibrationError(
            f"the {what} {path} has no {', '.join(missing)}: expected {', '.join(sorted(required))}"
        )
    return arrays, meta


def _unpacked(file: IO[bytes]) -> Dict[str, np.ndarray]:
    """Every array of an `.npz`, none of them pickled. Raises: ValueError: it would unpack to far more than a table."""
    limit = max(UNPACKED_LEAST, UNPACKED_FACTOR * file.seek(0, os.SEEK_END))
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if size > limit:
            raise ValueError(f"it would unpack to {size:,} bytes, expected at most {limit:,}")
        for member in members:
            with archive.open(member) as stream:
                arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(
                    stream, allow_pickle=False
                )
    return arrays
