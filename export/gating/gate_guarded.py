"""The gate's own look at the guarded tier: what a Certifier issues belongs to fresh noise, drawn once for each frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import List

import numpy as np

from rrise.calibration.errors import RriseError
from rrise.calibration.promise.guarded import GRID, PIXEL_SCALE
from rrise.calibration.tables.references import References
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.certifier import Certifier
from rrise.edge_sdk.device.loading import State
from rrise.edge_sdk.formats.noise import FreshNoise
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.export.gating.gate_report import CERTIFIED_FRAMES, Check

NAME, LIMIT = "a Certifier issues these radii", "state calibrated, answers to fresh noise of the stated size"
SIGNIFICANT = 5.0
"""Standard errors by which the size of the drawn noise may be off: false alarms of 6e-7."""


@dataclass(frozen=True)
class _Heard(FreshNoise):
    """Fresh noise that keeps what it drew."""

    drawn: List[np.ndarray] = field(default_factory=list)

    def draw(self) -> np.ndarray:
        self.drawn.append(super().draw())
        return self.drawn[-1]


def check_guarded_certifier(path: Path, artefact: str, references: References) -> Check:
    """A user's own calls, frame by frame twice: each label and radius is the graph's answer to the noise of that call."""
    frames = references.frames[:CERTIFIED_FRAMES]
    twice = np.concatenate([frames, frames])
    try:
        with Certifier.load(path, artefact=artefact, runtime="onnxruntime") as certifier:
            runtime, state = certifier.runtime, certifier.state.state
            if not isinstance(runtime, OnnxRuntime) or runtime.fresh is None:
                return Check(NAME, False, "a runtime that draws no noise", LIMIT)
            certifier._remember_no_frames()  # twice on purpose: the noise must not be a function of the frame
            runtime.fresh = heard = _Heard(runtime.fresh.guard, runtime.fresh.shape)
            certificates = certifier.certify_batch(list(twice))
            drawn = np.concatenate(heard.drawn)[: len(twice)]
            wanted = run_all(runtime, twice, noise=drawn)
    except (RriseError, ValueError) as error:
        return Check(NAME, False, str(error), LIMIT)
    wrong = sum(
        (certificate.label, np.float32(certificate.radius)) != (label, radius)
        for certificate, label, radius in zip(certificates, wanted.label, wanted.radius)
    )
    problem = unfit(drawn, len(twice), heard.guard.noise)
    got = f"state {state}, {wrong} of {len(certificates)} answers differ, {problem or 'noise as stated'}"
    return Check(NAME, wrong == 0 and not problem and state is State.CALIBRATED, got, LIMIT)


def unfit(drawn: np.ndarray, passes: int, noise: float) -> str:
    """What is wrong with the noise float32 [n, C, h, w] of `passes` frames; empty when nothing is."""
    if len(drawn) != passes:
        return f"{len(drawn)} draws for {passes} frames"
    if len(np.unique(drawn.reshape(passes, -1), axis=0)) != passes:
        return "the noise of two frames is the same"
    if not np.array_equal(drawn, np.rint(drawn / GRID) * GRID):
        return "the noise is not on its grid"
    wanted = noise * PIXEL_SCALE
    # The variance of n Gaussian draws has the relative standard error sqrt(2 / n); rounding to the grid adds GRID^2 / 12.
    variance = float(np.mean(np.square(drawn, dtype=np.float64))) - GRID**2 / 12
    if abs(variance / wanted**2 - 1) > SIGNIFICANT * np.sqrt(2 / drawn.size):
        return f"the noise has standard deviation {np.sqrt(max(variance, 0)) / PIXEL_SCALE:.4g} instead of {noise:g}"
    return ""
