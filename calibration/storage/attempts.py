"""The log of calibration attempts: one JSON line each, only ever appended, each line bound to the one before it.

Whoever calibrates twice on the same frames and keeps the better result has broken the promise; the log makes it seen.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Dict, List, Optional

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.digests import PathLike, json_digest


class AttemptLog:
    """Attempts on calibration frames, in a file of JSON lines.

    Each line holds its own digest and that of the line before, so that a changed byte is noticed, and so is a line that
    was removed, unless it was among the last.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)

    def lines(self) -> List[Dict[str, Any]]:
        """All attempts, oldest first; an absent file has none.

        Raises:
            CalibrationError: unreadable, or a line does not follow from the one before.
        """
        if not self.path.exists():
            return []
        found: List[Dict[str, Any]] = []
        try:
            content = self.path.read_bytes().decode("utf-8")
            for text in content.splitlines():
                found.append(dict(json.loads(text)))
            written = "".join(_text(line) for line in found)
        except (OSError, UnicodeDecodeError, ValueError, TypeError, RecursionError) as error:
            raise CalibrationError(
                f"cannot read the log of attempts {self.path}: {error}; restore it"
            ) from error
        for number, line in enumerate(found):
            before = found[number - 1]["digest"] if number else ""
            if line.get("previous") != before or line.get("digest") != _digest(line):
                raise self._changed(f"line {number + 1} is not what was written, or the one before is not")
        if written != content:
            raise self._changed("it has bytes that were not written")
        return found

    def _changed(self, why: str) -> CalibrationError:
        return CalibrationError(
            f"the log of attempts {self.path} was changed: {why}; restore it, since attempts that were hidden void the"
            " promise"
        )

    def append(self, frames: str, attempt: Dict[str, Any], *, now: Optional[datetime] = None) -> int:
        """Log one attempt on the frames with digest `frames`, before its result is known.

        Args:
            frames: digest of all frames of the calibration split.
            attempt: what is calibrated, as JSON: execution, guarantee, map and whatever else was chosen.
            now: for tests.

        Returns:
            Its number among the different attempts on these frames, from 1. The very same computation again is no
            other attempt, since it gives the same offset.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            _lock(file)  # or two processes would both follow the same line, and break the chain
            lines = self.lines()
            entry: Dict[str, Any] = {
                "time": (now or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
                "frames": frames,
                "attempt": attempt,
                "previous": lines[-1]["digest"] if lines else "",
            }
            entry["digest"] = _digest(entry)
            file.write(_text(entry))
            file.flush()
            os.fsync(file.fileno())
        different: List[Dict[str, Any]] = []
        for line in [*lines, entry]:
            if line["frames"] == frames and line["attempt"] not in different:
                different.append(line["attempt"])
        return different.index(attempt) + 1


def _lock(file: IO[str]) -> None:
    """Wait until no other process appends; until the file is closed. Nothing where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _digest(line: Dict[str, Any]) -> str:
    return json_digest({name: value for name, value in line.items() if name != "digest"})


def _text(line: Dict[str, Any]) -> str:
    """The one spelling of a line."""
    return json.dumps(line, sort_keys=True, allow_nan=False) + "\n"
