"""The camera loop: takes the newest frame, refuses what is late or unusable, certifies the rest, and keeps count."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, NamedTuple, Optional

import numpy as np

from rrise.edge_sdk.certificate import Certificate, Status, withheld
from rrise.edge_sdk.certifying.asking import not_asked
from rrise.edge_sdk.errors import EdgeError, FrameError
from rrise.edge_sdk.frames.encodings import convert_encoding, known_encodings
from rrise.edge_sdk.frames.inputs import as_array, capture_seconds, check_frame, with_channel
from rrise.edge_sdk.stream.captured import Captured, FrameSource
from rrise.edge_sdk.stream.checks import CheckSettings, FrameChecks
from rrise.edge_sdk.stream.mailbox import Mailbox

if TYPE_CHECKING:
    from rrise.edge_sdk.certifier import Certifier
    from rrise.edge_sdk.confirming.settings import Confirm

CLOCK_SKEW = 0.05
"""Seconds that a capture time may lie ahead of the clock before it is not believed."""


class Answer(NamedTuple):
    """One turn of the loop, to be unpacked: the frame in the bundle's encoding (None where there is none), its certificate."""

    frame: Optional[np.ndarray]
    certificate: Certificate


@dataclass(frozen=True)
class StreamSettings:
    """How a stream treats time and unusable frames.

    Attributes:
        max_staleness: seconds from capture after which a frame is no longer run; None never.
        deadline: seconds from capture after which an answer is no longer certified; None never.
        silence: seconds without a frame after which the loop yields a `stale` certificate without a frame, so that
            a robot notices a dead camera; None waits for ever. Recordings have no silence.
        checks: dark and frozen frames.
        clock: now, on the clock of the capture times; ROS nodes under simulated time pass theirs.
    """

    max_staleness: Optional[float] = None
    deadline: Optional[float] = None
    silence: Optional[float] = 1.0
    checks: CheckSettings = field(default_factory=CheckSettings)
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        for name in ("max_staleness", "deadline", "silence"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise EdgeError(f"{name}: got {value}, expected a positive number of seconds or None")


@dataclass
class StreamCounts:
    """What a stream has seen.

    Frames received, dropped unseen, reconnects, certificates by status, and tests of single inputs by outcome
    (confirmed, open, refuted) with the evaluations that they took.
    """

    received: int = 0
    dropped: int = 0
    reconnects: int = 0
    statuses: Dict[str, int] = field(default_factory=Counter)
    confirmations: Dict[str, int] = field(default_factory=Counter)
    evaluations: int = 0


class Stream:
    """Iterate it: `for frame, certificate in stream`. Close it, or use it in a `with` block, to release the source.

    A live source runs in a thread of its own with a mailbox of one; a recording is read in step.
    """

    def __init__(
        self,
        certifier: "Certifier",
        source: FrameSource,
        settings: StreamSettings,
        encoding: Optional[str] = None,
        confirm: "Optional[Confirm]" = None,
    ) -> None:
        """encoding: of frames of which their source says none; None is the bundle's. confirm: what a frame's rest is for."""
        if encoding is not None and encoding not in known_encodings():
            raise EdgeError(f"encoding: got {encoding!r}, expected one of {', '.join(known_encodings())}")
        self.settings = settings
        self._encoding, self._confirm = encoding, confirm
        self.counts = StreamCounts()
        self._certifier = certifier
        self._source = source
        self._checks = FrameChecks(settings.checks)
        self._mailbox = Mailbox(source) if source.live else None
        self._closed = False

    @property
    def live(self) -> bool:
        """Whether the source is a camera, and not a recording."""
        return self._source.live

    def __iter__(self) -> Iterator[Answer]:
        try:
            if self._mailbox is not None:
                self._mailbox.start()
            while not self._closed:
                captured = self._next()
                if captured is not None:
                    answer = self.answer(captured)
                elif self._mailbox is not None and not self._mailbox.ended:
                    answer = self._silent()
                else:
                    return
                self.counts.statuses[answer.certificate.status.value] += 1
                self._count(answer.certificate)
                yield answer
        finally:
            self.close()

    def _next(self) -> Optional[Captured]:
        if self._mailbox is None:
            captured = self._source.read()
            self.counts.received += captured is not None
            return captured
        captured = self._mailbox.take(self.settings.silence)
        box, counts = self._mailbox, self.counts
        counts.received, counts.dropped, counts.reconnects = box.received, box.dropped, box.reconnects
        return captured

    def _silent(self) -> Answer:
        why = f"no frame for {self.settings.silence} s"
        return Answer(None, withheld(Status.STALE, why, capture_time=self.settings.clock()))

    def answer(self, captured: Captured) -> Answer:
        """Judge one frame and certify it if it is fit for that."""
        when, name = self.settings.clock(), captured.frame_id
        try:
            when = capture_seconds(captured.capture_time)
            if captured.frame is None:
                raise FrameError(captured.problem or "frame: the source delivered none")
        except FrameError as error:
            return Answer(None, withheld(Status.INVALID_INPUT, str(error), capture_time=when, frame_id=name))
        late = self._late(when, self.settings.max_staleness, "old")
        if late:
            return Answer(None, withheld(Status.STALE, late, capture_time=when, frame_id=name))
        try:
            frame = self._decode(captured)
        except FrameError as error:
            return Answer(None, withheld(Status.INVALID_INPUT, str(error), capture_time=when, frame_id=name))
        problem = captured.problem or self._checks.problem(frame)
        if problem:
            return Answer(frame, withheld(Status.INVALID_INPUT, problem, capture_time=when, frame_id=name))
        certificate = self._certifier.certify(frame, capture_time=when, frame_id=name)
        late = self._late(when, self.settings.deadline, "old when its answer was there")
        if certificate and not late and self._confirm is not None:
            certificate = self._confirmed(frame, certificate, when, self._confirm)
            late = self._late(when, self.settings.deadline, "old when its answer was there")
        if late and certificate.answered:
            certificate = withheld(
                Status.STALE,
                late,
                capture_time=when,
                latency=certificate.latency,
                frame_id=name,
                label=certificate.label,
                name=certificate.name,
            )
        return Answer(frame, certificate)

    def _confirmed(
        self, frame: np.ndarray, certificate: Certificate, when: float, confirm: "Confirm"
    ) -> Certificate:
        """The certificate after what its frame's time was enough for; it never stops the loop."""
        if confirm.when is not None and not confirm.when(certificate):
            return certificate
        deadline = confirm.deadline
        if self.settings.deadline is not None:
            deadline = min(deadline, self.settings.deadline - (self.settings.clock() - when))
        try:
            # A recording waits for its reader, so that no frame of it is ever waiting.
            waiting = (lambda: False) if self._mailbox is None else self._mailbox.waiting
            return self._certifier._confirm(
                frame, certificate, max(deadline, 1e-9), confirm.alpha, None, None, waiting
            )
        except EdgeError as error:
            held = self._certifier.withheld
            if held:  # suspended between answer and test
                return withheld(
                    Status.SUSPENDED,
                    held,
                    capture_time=when,
                    latency=certificate.latency,
                    frame_id=certificate.frame_id,
                    label=certificate.label,
                    name=certificate.name,
                )
            return not_asked(certificate, confirm.alpha, str(error))

    def _count(self, certificate: Certificate) -> None:
        found = certificate.confirmation
        if found is not None:
            self.counts.confirmations[found.outcome.value] += 1
            self.counts.evaluations += found.new_samples

    def _decode(self, captured: Captured) -> np.ndarray:
        signature, target = (
            self._certifier.runtime.graph.signature,
            self._certifier.bundle.manifest.input.encoding,
        )
        pixels: Any = captured.frame
        if not isinstance(pixels, (bytes, bytearray, memoryview)):
            pixels = as_array(pixels, signature)
        encoding = self._encoding if captured.encoding is None else captured.encoding
        if encoding is not None and encoding != target:
            pixels = convert_encoding(pixels, encoding, target)
        return check_frame(with_channel(pixels, signature), signature)

    def _late(self, capture_time: float, limit: Optional[float], what: str) -> str:
        if limit is None:
            return ""
        age = self.settings.clock() - capture_time
        if age < -CLOCK_SKEW:
            return f"the frame's capture time lies {-age:.3f} s ahead of the clock; synchronise the clocks"
        return f"the frame is {age:.3f} s {what}, at most {limit:g} s are allowed" if age > limit else ""

    def close(self) -> None:
        """Stop and release the source."""
        if self._closed:
            return
        self._closed = True
        if self._mailbox is not None:
            self._mailbox.close()
        else:
            self._source.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
