"""The noise of the guarded tier: fresh for every live pass, recorded for replaying frames whose answers were recorded.

Why fresh noise must be unpredictable, and each frame passed once: calibration/README.md, "Guarded".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Tuple

import numpy as np

from rrise.calibration.promise.guarded import Guard, NoiseSource
from rrise.calibration.storage.digests import frame_digest


@dataclass(frozen=True)
class FreshNoise:
    """Noise for live frames.

    It keeps no generator: every draw seeds a new one with 256 bits of the operating system, so that nothing can be
    reused by a copy, a clone, a forked process or a restored snapshot of one.

    Attributes:
        guard: what it is drawn against.
        shape: (B, C, h, w) of a batch.
    """

    guard: Guard
    shape: Tuple[int, ...]

    def draw(self) -> np.ndarray:
        """float32 `shape` in 8-bit pixel levels, on the exact grid; independent of every other draw and every frame."""
        return NoiseSource(self.guard.noise).draw(self.shape)


@dataclass(frozen=True)
class ReplayNoise:
    """The one draw that each recorded frame had when it was scored: the same frame gets the same noise again.

    For calibration, verification and probe frames only, whose answers are to repeat. A live frame never meets it:
    noise that a sender can foresee defeats the guarantee.

    Attributes:
        noise: s, standard deviation in [0, 1] pixel units.
        seed: 64 hexadecimal characters, from the manifest.
        shape: (C, h, w) of one frame's noise.
    """

    noise: float
    seed: str
    shape: Tuple[int, int, int]

    def of(self, frames: np.ndarray) -> np.ndarray:
        """float32 [n, C, h, w] in 8-bit pixel levels for frames [n, ...]; equal frames have equal noise."""
        return np.stack([NoiseSource(self.noise, self._seed(frame)).draw(self.shape) for frame in frames])

    def _seed(self, frame: np.ndarray) -> int:
        text = f"rrise replay noise\n{self.seed}\n{frame_digest(frame)}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
