"""The log of calibration attempts: one JSON line each, only ever appended, each line bound to the one before it.

Whoever calibrates twice on the same frames and keeps the better result has broken the promise; the log makes it seen.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, List, Optional

from calibration.digests import PathLike, json_digest
from calibration.errors import CalibrationError


class AttemptLog:
    """Attempts on calibration frames, in a file of JSON lines.

    Each line holds the digest of the line before, so that a line that was removed or changed is noticed, unless all
    that follow it were written anew.
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
            for text in self.path.read_text(encoding="utf-8").splitlines():
                found.append(dict(json.loads(text)))
        except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
            raise CalibrationError(
                f"cannot read the log of attempts {self.path}: {error}; restore it"
            ) from error
        for number, line in enumerate(found):
            if line.get("previous") != (json_digest(found[number - 1]) if number else ""):
                raise CalibrationError(
                    f"the log of attempts {self.path} was changed: line {number + 1} does not follow from the one before; "
                    "restore it, since attempts that were hidden void the promise"
                )
        return found

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
        lines = self.lines()
        entry = {
            "time": (now or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
            "frames": frames,
            "attempt": attempt,
            "previous": json_digest(lines[-1]) if lines else "",
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, sort_keys=True, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        different: List[Dict[str, Any]] = []
        for line in [*lines, entry]:
            if line["frames"] == frames and line["attempt"] not in different:
                different.append(line["attempt"])
        return different.index(attempt) + 1
