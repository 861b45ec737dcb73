"""Spends time on a question: full batches of the base classifier under fresh noise, until an answer or the deadline."""

from __future__ import annotations

import math
from collections import deque
from time import perf_counter
from typing import Callable, Deque, Optional, Tuple

import numpy as np

from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.confirming.classifier import OpenBase, labels_from_output, open_base
from rrise.edge_sdk.confirming.preprocess import FramePreprocess
from rrise.edge_sdk.confirming.question import Question
from rrise.edge_sdk.errors import EdgeError

BATCH_SIZES = (16, 32, 64, 128)
BATCH_SECONDS = 0.0025
"""The largest batch that takes no longer than this is taken: small beside a frame's time, full enough for the processor."""
_HEADROOM = 1.25
"""A batch is begun if this multiple of what one takes is left."""


def never() -> bool:
    """Nobody waits."""
    return False


class Confirmer:
    """One caller's base classifier, noise and clock.

    The noise comes from one generator, seeded by 128 bits of the operating system when this object is made. Nothing that is
    seen outside reveals its state, and no sender of frames knows it.

    Attributes:
        batch_size: evaluations at once. engine: what runs the classifier. batch_seconds: what three in
        four batches took lately, at most.
    """

    def __init__(
        self,
        base: OpenBase,
        preprocess: FramePreprocess,
        sigma: float,
        batch_size: Optional[int] = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.engine, self._base, self._clock = base.engine, base, clock
        self._preprocess, self._sigma = preprocess, np.float32(sigma)
        self._noise = np.random.Generator(np.random.SFC64())
        self.batch_seconds, self._fastest = 0.0, math.inf
        self._recent: Deque[float] = deque(maxlen=16)
        self.batch_size = self._chosen(batch_size)
        self._batch = self._room(self.batch_size)

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        *,
        provider: str = "cpu",
        threads: int = 1,
        batch_size: Optional[int] = None,
        clock: Callable[[], float] = perf_counter,
    ) -> "Confirmer":
        """Open the base classifier that the bundle carries and time it.

        Raises:
            BundleError: it carries none, or a damaged one. EdgeError: it takes something else, or its preprocessing cannot
                be repeated here. RuntimeUnavailable: the provider is not there.
        """
        manifest = bundle.manifest
        model, preprocess = bundle.base_model(), FramePreprocess.of(manifest)
        base = open_base(model, provider, preprocess.output_shape, len(manifest.class_names), threads=threads)
        return cls(base, preprocess, manifest.sigma, batch_size, clock)

    def clone(self) -> "Confirmer":
        """For another thread: the same classifier, another generator and other buffers."""
        return Confirmer(self._base, self._preprocess, float(self._sigma), self.batch_size, self._clock)

    def now(self) -> float:
        """Seconds on this object's clock."""
        return self._clock()

    def input_of(self, frame: np.ndarray) -> np.ndarray:
        """float32 [C, h, w] of a frame uint8 [H, W, C] in the bundle's encoding: what noise is added to."""
        return self._preprocess(frame)

    def spend(self, question: Question, x: np.ndarray, until: float, stop: Callable[[], bool] = never) -> str:
        """Go on with a question until it is answered, `until` on this clock, or `stop`; why it is open, or empty.

        Whether another batch is begun never depends on a draw that is not counted yet, and every batch that is begun is
        counted: see the proof in `question`.
        """
        begun = False
        while True:
            if question.void:
                return "the base classifier failed on this input"
            if question.refuted or question.confirmed:
                return ""
            left = until - self._clock()
            if left < _HEADROOM * self.batch_seconds:
                # Nothing is timed where nothing is begun: without this, one slow moment would be the last word.
                self.batch_seconds = max(0.95 * self.batch_seconds, self._fastest)
                return self._too_short(left) if not begun else "the deadline came first"
            if stop():
                return "a newer frame is waiting"
            try:
                self._evaluate(question, x)
            except Exception as error:  # noqa: BLE001 - whatever a runtime raises
                # The batch cannot be counted, and leaving it out would choose among the draws.
                question.void = True
                return f"the base classifier failed on this input ({error})"
            begun = True

    def _evaluate(self, question: Question, x: np.ndarray) -> None:
        start = self._clock()
        batch = self._batch
        self._noise.standard_normal(out=batch, dtype=np.float32)
        batch *= self._sigma
        batch += x
        question.add(labels_from_output(self._base.classify(batch), len(batch)))
        taken = self._clock() - start
        self._recent.append(taken)
        self._fastest = min(self._fastest, taken)
        self.batch_seconds = sorted(self._recent)[3 * len(self._recent) // 4]

    def _too_short(self, left: float) -> str:
        return (
            f"{max(left, 0.0) * 1e3:.2g} ms were left, too short for one batch of {self.batch_size} evaluations, which takes"
            f" about {self.batch_seconds * 1e3:.2g} ms here; give a longer deadline or a smaller batch_size"
        )

    def _chosen(self, wanted: Optional[int]) -> int:
        """The batch size; also warms up and takes the time."""
        fixed = self._base.fixed
        if wanted is not None and not (isinstance(wanted, int) and wanted >= 1 and fixed in (None, wanted)):
            raise EdgeError(
                f"confirm: got batch_size {wanted!r}, expected {fixed or 'a number of evaluations, such as 64'}"
            )
        sizes: Tuple[int, ...] = BATCH_SIZES if wanted is None else (wanted,)
        if fixed is not None:
            sizes = (fixed,)
        chosen = sizes[0]
        for size in sizes[1:]:
            if self._time(size) > BATCH_SECONDS:
                break
            chosen = size
        self._time(chosen)
        return chosen

    def _time(self, size: int) -> float:
        """Seconds of a batch of this size on a grey input, counted for no question; what is timed anew begins here."""
        self._batch = self._room(size)
        self._recent.clear()
        self._fastest = math.inf
        grey = np.full(self._preprocess.output_shape, 0.5, np.float32)
        for _ in range(4):
            self._evaluate(Question(0, 1.0, sigma=1.0, alpha=0.5), grey)
        return self._fastest

    def _room(self, size: int) -> np.ndarray:
        return np.empty((size, *self._preprocess.output_shape), np.float32)
