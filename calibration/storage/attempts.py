"""The log of calibration attempts: one JSON line each, only ever appended, each line bound to the one before it.

Whoever calibrates several times and keeps the best result has looked several times. So attempt j may spend only
delta / (j (j + 1)) (`Guarantee.spent`): all shares together are at most delta, and whichever attempt is kept, the promise
holds. That asks for one log for everything that one result is chosen from: a workspace has one, whatever its splits,
surrogates and settings are, and so has a bundle on a device, whatever frames it is calibrated on.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Dict, Iterable, List, Optional, Tuple

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.digests import PathLike, json_digest
from rrise.calibration.storage.files import parse_json, present, read_json
from rrise.calibration.storage.formats import check_format

FORMATS = (1, 2)
"""Of a line; the first did not name it."""
_BEGINNING = b'{"attempt": '
"""Of every line."""


class AttemptLog:
    """Attempts at calibrating one product, in a file of JSON lines.

    Each line holds its own digest and that of the line before, so that a changed byte is noticed, and so is a line that
    was removed, unless it was among the last. Records carry their attempt's number, so that a log that was cut short, or
    removed, is noticed as long as one of them is there (`append`, `seen`).
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)

    def lines(self) -> List[Dict[str, Any]]:
        """All attempts, oldest first; an absent file has none.

        A last line without its end was never answered with a number, since the disk was full or the power went: it
        counts as not written.

        Raises:
            CalibrationError: unreadable, or a line does not follow from the one before.
        """
        return self._read()[0]

    def different(self) -> List[Tuple[str, Dict[str, Any]]]:
        """Digest of the frames and content of every different attempt, in the order of their numbers from 1."""
        found: List[Tuple[str, Dict[str, Any]]] = []
        for line in self.lines():
            if (line["frames"], line["attempt"]) not in found:
                found.append((line["frames"], line["attempt"]))
        return found

    def append(
        self, frames: str, attempt: Dict[str, Any], *, seen: int = 0, now: Optional[datetime] = None
    ) -> int:
        """Log one attempt on the frames with digest `frames`, before its result is known.

        Args:
            frames: digest of all frames of the calibration split.
            attempt: what is calibrated, as JSON: execution, guarantee, map, counts and whatever else was chosen.
            seen: the largest number that a record at hand carries; a log that shows fewer attempts is not whole.
            now: for tests.

        Returns:
            Its number among the different attempts, from 1. The very same computation on the same frames again is no
            other attempt, since it gives the same offset.

        Raises:
            CalibrationError: the log was changed, or is not whole.
            OSError: the attempt cannot be logged; then the log is as it was.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            _lock(file)  # or two processes would both follow the same line, and break the chain
            lines, size = self._read()
            known = self.different()
            if len(known) < seen:
                raise CalibrationError(
                    f"the log of attempts {self.path} shows {len(known)} attempts, but there is a record of attempt {seen}:"
                    " restore the log, since attempts that were hidden void the promise"
                )
            entry: Dict[str, Any] = {
                "time": (now or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
                "format": FORMATS[-1],
                "frames": frames,
                "attempt": parse_json(json.dumps(attempt, allow_nan=False)),
                "previous": _link(lines[-1]) if lines else "",
            }
            entry["digest"] = _digest(entry)
            _write(file, size, _text(entry).encode())
        this = (frames, entry["attempt"])
        return (known.index(this) if this in known else len(known)) + 1

    def _read(self) -> Tuple[List[Dict[str, Any]], int]:
        """All lines, and how many bytes they take."""
        if not present(self.path):
            return [], 0
        found: List[Dict[str, Any]] = []
        try:
            content = self.path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            _check_unfinished(content[len(whole) :])
            for text in whole.decode("utf-8").splitlines():
                found.append(dict(parse_json(text)))
            written = "".join(_text(line) for line in found).encode()
            for line in found:
                check_format(f"log of attempts {self.path}", line.get("format", 1), FORMATS, "move it away")
            fields = [(line["frames"], line["attempt"], line["previous"]) for line in found]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CalibrationError(
                f"cannot read the log of attempts {self.path}: {error!r}; restore it"
            ) from error
        for number, line in enumerate(found):
            before = _link(found[number - 1]) if number else ""
            if fields[number][2] != before or line.get("digest", _digest(line)) != _digest(line):
                raise self._changed(f"line {number + 1} is not what was written, or the one before is not")
        if written != whole:
            raise self._changed("it has bytes that were not written")
        return found, len(whole)

    def _changed(self, why: str) -> CalibrationError:
        return CalibrationError(
            f"the log of attempts {self.path} was changed: {why}; restore it, since attempts that were hidden void the"
            " promise"
        )


def largest_attempt(records: Iterable[PathLike]) -> int:
    """The largest number that any of these calibration records carries, those that are there and readable."""
    numbers = [0]
    for path in records:
        try:
            numbers.append(int(read_json(path, "calibration record")["attempt"]))
        except (CalibrationError, KeyError, TypeError, ValueError):
            continue
    return max(numbers)


def _write(file: IO[bytes], size: int, line: bytes) -> None:
    """Put a line behind the first `size` bytes, whole or not at all."""
    try:
        file.truncate(size)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    except OSError:
        # What the disk had no room for must not lie in the way of every later attempt.
        os.ftruncate(file.fileno(), size)
        raise


def _lock(file: IO[bytes]) -> None:
    """Wait until no other process appends; until the file is closed. Nothing where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _digest(line: Dict[str, Any]) -> str:
    return json_digest({name: value for name, value in line.items() if name != "digest"})


def _check_unfinished(rest: bytes) -> None:
    """Raises: ValueError: what follows the last whole line is no beginning of a line that was cut short."""
    if rest[: len(_BEGINNING)] != _BEGINNING[: len(rest)]:
        raise ValueError("bytes after the last line that were not written")
    try:
        json.JSONDecoder().raw_decode(rest.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return
    raise ValueError("the end of the last line was changed")


def _link(line: Dict[str, Any]) -> str:
    """What the next line names as the one before it; the first versions of this log had no digests of their own."""
    return str(line["digest"]) if "digest" in line else json_digest(line)


def _text(line: Dict[str, Any]) -> str:
    """The one spelling of a line."""
    return json.dumps(line, sort_keys=True, allow_nan=False) + "\n"
