"""A live view of a stream in the terminal: what was certified, how fast, and what was withheld for which reason."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections import Counter, deque
from typing import Deque, Dict, List, Optional, TextIO, Tuple

import numpy as np

from rrise.edge_sdk.certificate import Certificate

_WINDOW = 1000
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")


class Reason:
    """Reasons that differ in their numbers only, told as one with the range of each number.

    >>> reason = Reason("the frame is 0.31 s old, expected at most 0.2 s")
    >>> reason.add("the frame is 0.57 s old, expected at most 0.2 s")
    >>> str(reason), reason.count
    ('the frame is 0.31 to 0.57 s old, expected at most 0.2 s', 2)
    """

    def __init__(self, text: str) -> None:
        self.count = 0
        self._words = _NUMBER.split(text)
        self._ranges = [(number, number) for number in _NUMBER.findall(text)]
        self.add(text)

    @staticmethod
    def kind(text: str) -> str:
        """The same for all reasons that are counted together."""
        return _NUMBER.sub("#", text)

    def add(self, text: str) -> None:
        """Count one more of this kind."""
        self.count += 1
        found = zip(self._ranges, _NUMBER.findall(text))
        self._ranges = [
            (min(low, number, key=float), max(high, number, key=float)) for (low, high), number in found
        ]

    def __str__(self) -> str:
        shown = [low if low == high else f"{low} to {high}" for low, high in self._ranges]
        return "".join(word + number for word, number in zip(self._words, [*shown, ""]))


class StatusLine:
    """Counts certificates and draws one line, at most a few times a second; silent where there is no terminal."""

    def __init__(self, stream: Optional[TextIO] = None, interval: float = 0.2) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._interval = interval
        self._start = self._drawn = time.monotonic()
        self.statuses: Dict[str, int] = Counter()
        self.latest: Deque[float] = deque(maxlen=_WINDOW)
        self._reasons: Dict[str, Reason] = {}

    @property
    def reasons(self) -> Dict[str, int]:
        """How often each kind of reason withheld a certificate; numbers that differed are shown as a range."""
        return {str(reason): reason.count for reason in self._reasons.values()}

    def add(self, certificate: Certificate, dropped: int = 0) -> None:
        """Count one certificate and draw if it is time."""
        self.statuses[certificate.status.value] += 1
        self.latest.append(certificate.latency)
        if not certificate and certificate.reason:
            kind = Reason.kind(certificate.reason)
            if kind in self._reasons:
                self._reasons[kind].add(certificate.reason)
            else:
                self._reasons[kind] = Reason(certificate.reason)
        now = time.monotonic()
        if self._live and now - self._drawn >= self._interval:
            self._drawn = now
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r\x1b[K" + self.line(certificate, dropped, now - self._start, width))
            self._stream.flush()

    def line(
        self, certificate: Certificate, dropped: int, seconds: float, width: Optional[int] = None
    ) -> str:
        """The text of the line after `seconds`: the latest answer first, then what of the totals fits into `width`.

        A line that is longer than the terminal cannot be taken back by the next one.
        """
        total = sum(self.statuses.values())
        issued = self.statuses["certified"] + self.statuses["confirmed"]
        share = 100.0 * issued / max(total, 1)
        p50, p99 = (value * 1e3 for value in self.percentiles())
        parts = [
            f"{total} frames, {share:.0f} % certified",
            f"{total / max(seconds, 1e-9):.1f}/s",
            f"{dropped} dropped",
            f"p50 {p50:.2f} ms, p99 {p99:.2f} ms",
        ]
        line = _answer(certificate, None if width is None else width - len(parts[0]) - 3)
        line += f" | {parts[0]}"
        for part in parts[1:]:
            if width is None or len(line) + 2 + len(part) <= width:
                line += f", {part}"
        return line if width is None else line[:width]

    def percentiles(self) -> Tuple[float, float]:
        """p50 and p99 of the latest thousand latencies, seconds."""
        if not self.latest:
            return 0.0, 0.0
        p50, p99 = np.percentile(np.array(self.latest), [50, 99])
        return float(p50), float(p99)

    def finish(self) -> None:
        """Leave the line."""
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def rows(self) -> List[Tuple[str, str]]:
        """Name and value of each line of the summary."""
        p50, p99 = (value * 1e3 for value in self.percentiles())
        rows = [
            (name, str(count)) for name, count in sorted(self.statuses.items(), key=lambda pair: -pair[1])
        ]
        rows.append(("latency", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms of the last {len(self.latest)}"))
        rows += [
            ("reason", f"{count} times: {text}")
            for text, count in sorted(self.reasons.items(), key=lambda pair: -pair[1])[:5]
        ]
        return rows


def _answer(certificate: Certificate, room: Optional[int]) -> str:
    """Label, status and radius, or why there is none, in `room` characters: a long name or reason is cut, a radius never."""
    size = f", radius {certificate.radius:.4g}" if certificate else ""
    why = f": {certificate.reason}" if certificate.reason and not certificate else ""
    said = f"{certificate.status}{size}"
    name = f"{certificate.name} " if certificate.name is not None else ""
    if room is not None:
        name = _cut(name, max(room - len(said), 12))
        why = _cut(why, max(room - len(said) - len(name), 12)).rstrip()
    return f"{name}{said}{why}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 4].rstrip()}... "
