"""What a certifier answers from: one bundle on one runtime, as this device knows it. Never changed; exchanged as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional, Protocol, Tuple

import numpy as np

from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.certificate import Status
from rrise.edge_sdk.device.audit import AuditLog
from rrise.edge_sdk.device.drift import DriftMonitor
from rrise.edge_sdk.device.loading import ExecutionState, State
from rrise.edge_sdk.device.once import Once
from rrise.edge_sdk.device.suspension import suspend, suspended_because
from rrise.edge_sdk.frames.channels import ChannelOrder
from rrise.edge_sdk.runtime.base import Runtime

if TYPE_CHECKING:
    from rrise.edge_sdk.confirming.confirmer import Confirmer

Held = Tuple[Status, str]
"""The status of every certificate, and why."""


class FrameGuard(Protocol):
    """Says why a frame is no picture of the world; see `edge_sdk.stream.checks`."""

    def problem(self, frame: np.ndarray, *, in_order: bool = True) -> str:
        """The reason, or an empty text."""


class Hold:
    """Why certificates are withheld, or None; shared by a certifier and its clones."""

    __slots__ = ("why",)

    def __init__(self, why: Optional[Held] = None) -> None:
        self.why = why


@dataclass
class Course:
    """What becomes of a loaded bundle while it answers. It belongs to the bundle, and goes and comes back with it.

    Attributes:
        fault: the runtime's failure, after which it answers no more.
        hint: what the first frames told about themselves.
        channels: compares them, until it has seen enough.
        audits: their log, once there was one. confirmer: runs the base classifier, once it was asked.
    """

    fault: Optional[Exception] = None
    hint: str = ""
    channels: Optional[ChannelOrder] = None
    audits: Optional[AuditLog] = None
    confirmer: Optional[Confirmer] = None


@dataclass(frozen=True, eq=False)
class Loaded:
    """One bundle on one runtime. A frame is answered from one of these from beginning to end; `swap` and `rollback` exchange it.

    Attributes:
        state: of the execution when it was looked at; why: it was chosen. allow_unverified: issue where it is unverified.
        monitor: of drift. once: of the guarded tier, remembers frames. guard: refuses frames that show nothing.
        hold: shared with clones, as `once` is. course: what became of it.
        The others follow from these; fast_shape: of frames that need no preparation, None where all do; marks: whether
        certificates carry the digest of their frame; margin: subtracted from every radius.
    """

    bundle: Bundle
    artefact: str
    runtime: Runtime
    state: ExecutionState
    why: str = ""
    allow_unverified: bool = False
    monitor: Optional[DriftMonitor] = None
    guard: Optional[FrameGuard] = None
    once: Optional[Once] = None
    hold: Hold = field(default_factory=Hold)
    course: Course = field(default_factory=Course)
    names: Tuple[str, ...] = field(init=False)
    encoding: str = field(init=False)
    batch_size: int = field(init=False)
    fast_shape: Optional[Tuple[int, ...]] = field(init=False)
    frame_scale: float = field(init=False)
    margin: float = field(init=False)
    note: str = field(init=False)
    marks: bool = field(init=False)

    def __post_init__(self) -> None:
        manifest, signature = self.bundle.manifest, self.runtime.graph.signature
        # Only a single uint8 frame may skip the checks of `as_frame`: floats need a look at their values.
        fast = signature.dtype == "uint8" and signature.batch_size == 1
        derived = {
            "names": manifest.class_names,
            "encoding": manifest.input.encoding,
            "batch_size": signature.batch_size,
            "fast_shape": signature.frame_shape if fast else None,
            "frame_scale": frame_scale(manifest.preprocessing.get("operator_norm")),
            "margin": self.state.margin,
            "note": "unverified execution, allowed by the caller"
            if self.state.state is State.UNVERIFIED
            else "",
            "marks": manifest.base is not None,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def reason_to_withhold(self) -> Optional[Held]:
        """Why no certificate may be issued, looked up on the device anew; None where some may."""
        suspended = suspended_because(self.bundle)
        if suspended is not None:
            return Status.SUSPENDED, suspended
        if self.state.state is State.UNVERIFIED and not (self.allow_unverified and self.state.calibrated):
            return Status.UNVERIFIED, self.state.reason
        problem = "" if self.monitor is None else self.monitor.save()
        return (Status.SUSPENDED, problem) if problem else None

    def look(self) -> None:
        """Withhold, or issue, as the device says now."""
        self.hold.why = self.reason_to_withhold()

    def suspend(self, reason: str) -> None:
        """Withhold from now on, across restarts where the device folder can be written."""
        try:
            suspend(self.bundle, reason)
            self.hold.why = self.reason_to_withhold() or (Status.SUSPENDED, reason)
        except OSError as error:
            self.hold.why = (Status.SUSPENDED, f"{reason} (not kept for the next start: {error})")

    @property
    def suspended(self) -> Optional[str]:
        """Why it is suspended, as far as this process knows."""
        held = self.hold.why
        return held[1] if held is not None and held[0] is Status.SUSPENDED else None


def frame_scale(operator_norm: object) -> float:
    """1 / norm rounded down, or 0 where no usable bound is known: then no frame radius is stated."""
    if isinstance(operator_norm, (int, float)) and math.isfinite(operator_norm) and operator_norm > 0:
        return math.nextafter(1.0 / float(operator_norm), 0.0)
    return 0.0
