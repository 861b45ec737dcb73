"""A live view of a stream in the terminal: what was certified, how fast, and what was withheld for which reason."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from typing import Deque, Dict, List, Optional, TextIO, Tuple

import numpy as np

from rrise.edge_sdk.certificate import Certificate

_WINDOW = 1000


class StatusLine:
    """Counts certificates and draws one line, at most a few times a second; silent where there is no terminal."""

    def __init__(self, stream: Optional[TextIO] = None, interval: float = 0.2) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._interval = interval
        self._start = self._drawn = time.monotonic()
        self.statuses: Dict[str, int] = Counter()
        self.latest: Deque[float] = deque(maxlen=_WINDOW)
        self.reasons: Dict[str, int] = Counter()

    def add(self, certificate: Certificate, dropped: int = 0) -> None:
        """Count one certificate and draw if it is time."""
        self.statuses[certificate.status.value] += 1
        self.latest.append(certificate.latency)
        if not certificate and certificate.reason:
            self.reasons[_kind(certificate.reason)] += 1
        now = time.monotonic()
        if self._live and now - self._drawn >= self._interval:
            self._drawn = now
            self._stream.write("\r\x1b[K" + self.line(certificate, dropped, now - self._start))
            self._stream.flush()

    def line(self, certificate: Certificate, dropped: int, seconds: float) -> str:
        """The text of the line after `seconds`."""
        total = sum(self.statuses.values())
        issued = self.statuses["certified"] + self.statuses["confirmed"]
        share = 100.0 * issued / max(total, 1)
        p50, p99 = (value * 1e3 for value in self.percentiles())
        return (
            f"{total} frames, {total / max(seconds, 1e-9):.1f}/s, {share:.0f} % certified, {dropped} dropped,"
            f" p50 {p50:.2f} ms, p99 {p99:.2f} ms | {certificate.to_line()}"
        )

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


def _kind(reason: str) -> str:
    """A reason without its numbers, so that equal ones are counted together."""
    return "".join("#" if character.isdigit() else character for character in reason)
