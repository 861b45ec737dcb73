"""The drift monitor of a certifier: which frames it looks at, what of them, and where it remembers."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Any, Dict, Optional

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.drift import DriftReference, DriftTest
from rrise.calibration.storage.execution import Execution
from rrise.calibration.storage.files import present
from rrise.calibration.tables.references import References
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.device.audit import STATE_FILE as AUDIT_STATE_FILE
from rrise.edge_sdk.device.belonging import independent_rows
from rrise.edge_sdk.errors import BundleError, EdgeError
from rrise.edge_sdk.formats.sealed import read_sealed
from rrise.edge_sdk.runtime.base import Runtime

REFERENCE_FILE = "drift-reference.json"
STATE_FILE = "drift-state.json"
REFERENCE_FORMATS = ("rrise-drift-reference/1",)
STATE_FORMATS = ("rrise-drift-state/1",)
_SAVE_EVERY = 20


@dataclass(frozen=True)
class DriftSettings:
    """How a monitor works.

    Attributes:
        interval: seconds between the frames that are tested; at least the time after which the robot sees another
            scene, since frames within it resemble each other.
        alpha: probability of ever alarming without cause, beside the `delta` of the reference.
    """

    interval: float = 30.0
    alpha: float = 0.005

    def __post_init__(self) -> None:
        if not (0 <= self.interval < math.inf and 0 < self.alpha < 1):
            raise EdgeError(
                f"drift: got interval {self.interval}, alpha {self.alpha}; expected seconds >= 0 and 0 < alpha < 1"
            )


def frame_features(frame: np.ndarray, probit: float) -> np.ndarray:
    """What is compared of a frame, float64 [6]: confidence, brightness, contrast, clipping, sharpness, fine noise.

    Args:
        frame: uint8 [H, W, C] or float32 [C, H, W] in [0, 1].
        probit: the surrogate's, before map and offset.
    """
    grey = frame.mean(axis=2) / 255.0 if frame.dtype == np.uint8 else frame.mean(axis=0, dtype=np.float64)
    across, down = np.diff(grey, axis=1), np.diff(grey, axis=0)
    gradient = float(np.mean(across**2) + np.mean(down**2)) if min(grey.shape) > 1 else 0.0
    # Second differences answer to pixel noise and to blocks of compression more than to edges.
    fine = float(np.mean(np.diff(grey, n=2, axis=1) ** 2)) if grey.shape[1] > 2 else 0.0
    clipped = float(np.mean((grey < 0.02) | (grey > 0.98)))
    return np.array(
        [
            probit,
            float(grey.mean()),
            float(grey.std()),
            clipped,
            math.log(gradient + 1e-6),
            math.log(fine + 1e-6),
        ]
    )


class DriftMonitor:
    """Tests one frame per interval; made by `DriftMonitor.load` where a reference was fitted, and kept by the certifier."""

    def __init__(
        self, bundle: Bundle, execution: Execution, reference: DriftReference, settings: DriftSettings
    ) -> None:
        self.settings = settings
        self._bundle = bundle
        self._folder = bundle.device_folder(execution)
        self._reference, self._p_values = reference, reference.p_values()
        self._kept: Optional[int] = None
        self.test = self._restore()
        self._begin = self._stamp = -math.inf
        self._clock = time.monotonic()

    @classmethod
    def load(cls, bundle: Bundle, execution: Execution) -> Optional["DriftMonitor"]:
        """The monitor of this execution, with what it remembers; None where no reference was fitted.

        Raises:
            BundleError: reference or memory were changed.
        """
        value = bundle.device_record(
            bundle.device_folder(execution) / REFERENCE_FILE,
            "drift reference",
            formats=REFERENCE_FORMATS,
            mend="run `rrise-edge drift` again",
        )
        if value is None:
            return None
        try:
            if (
                value["release"] != bundle.manifest.digest
                or Execution.from_json(value["execution"]) != execution
            ):
                return None
            settings = DriftSettings(float(value["interval"]), float(value["alpha"]))
            return cls(bundle, execution, DriftReference.from_json(value["reference"]), settings)
        except (KeyError, TypeError, ValueError, CalibrationError) as error:
            raise BundleError(f"drift reference: {error!r}; run `rrise-edge drift` again") from error

    def due(self, now: float) -> bool:
        """Whether the frame captured at `now` is to be tested; to be asked for every frame.

        Where stamps stand still or go back (0, a stuck clock, a recording that begins anew) the time counts that
        passed here since the last frame.
        """
        clock = time.monotonic()
        if now <= self._stamp:
            self._begin = now - (self._stamp - self._begin) - (clock - self._clock)
        self._stamp, self._clock = now, clock
        return now - self._begin >= self.settings.interval

    def observe(self, frame: np.ndarray, probit: float, now: float) -> str:
        """Test one frame; the reason to withhold certificates, or an empty text."""
        self._begin = now
        self.test.update(self._p_values(frame_features(frame, probit)))
        problem = self.save() if self.test.martingale.seen % _SAVE_EVERY == 0 else ""
        if self.test.log_wealth < -math.log(self.settings.alpha):
            return problem
        return (
            f"drift: frames no longer look like the reference frames (evidence {math.exp(min(self.test.log_wealth, 50)):.3g}"
            f" to 1 after {self.test.martingale.seen} frames)"
        )

    def save(self) -> str:
        """Remember the evidence across restarts; why that is impossible, or an empty text.

        A monitor whose alarm would be forgotten at the next start is none, so certificates are withheld then. Nothing is
        written unless a frame was tested, so that a second process which only looks forgets nothing of the first.
        """
        seen = self.test.martingale.seen
        try:
            if seen != self._kept:
                value = {"format": STATE_FORMATS[-1], **self.test.martingale.to_json()}
                self._bundle.keep(self._folder / STATE_FILE, value)
                self._kept = seen
            elif not os.access(self._folder, os.W_OK):
                raise PermissionError(f"{self._folder} is read-only")
        except OSError as error:
            return f"drift: the monitor's memory cannot be kept ({error}); make the bundle's device folder writable"
        return ""

    def reset(self) -> None:
        """Forget the evidence."""
        forget_monitoring(self._folder)
        self.test, self._kept = self._reference.test(), None

    def _restore(self) -> DriftTest:
        if not present(self._folder / STATE_FILE):
            return self._reference.test()
        value = read_sealed(
            self._folder / STATE_FILE,
            "drift monitor's memory",
            formats=STATE_FORMATS,
            mend="run `rrise-edge reset`",
        )
        try:
            restored = self._reference.test(value)
        except CalibrationError as error:
            raise BundleError(f"drift monitor's memory: {error}; run `rrise-edge reset`") from error
        self._kept = restored.martingale.seen
        return restored


def fit_reference(
    bundle: Bundle, runtime: Runtime, references: References, settings: DriftSettings, *, delta: float = 0.005
) -> Dict[str, Any]:
    """Fit a drift reference for one execution on reference frames (labels and counts are not used) and keep it.

    Returns:
        What was written, as JSON.

    Raises:
        EdgeError: too few independent frames, or frames that do not fit the graph.
    """
    rows = independent_rows(references)
    outputs = run_all(runtime, references.frames)
    features = np.stack([frame_features(references.frames[row], float(outputs.probit[row])) for row in rows])
    try:
        reference = DriftReference.fit(features, delta=delta)
    except CalibrationError as error:
        raise EdgeError(f"{error}; use the calibration pack, or collect more frames") from error
    value = {
        "format": REFERENCE_FORMATS[-1],
        "release": bundle.manifest.digest,
        "execution": runtime.execution.to_json(),
        "references": references.frames_digest,
        "interval": settings.interval,
        "alpha": settings.alpha,
        "reference": reference.to_json(),
    }
    folder = bundle.device_folder(runtime.execution)
    bundle.keep(folder / REFERENCE_FILE, value)
    forget_monitoring(folder)
    return value


def forget_monitoring(folder: Any) -> None:
    """Remove the memory of a monitor and of audits."""
    for name in (STATE_FILE, AUDIT_STATE_FILE):
        (folder / name).unlink(missing_ok=True)
