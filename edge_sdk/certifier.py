"""The certifier: one frame in, one certificate out, in a single forward pass of the bundle's graph."""

from __future__ import annotations

import math
import threading
from time import perf_counter, time
from typing import List, Optional, Sequence, Tuple

import numpy as np

from calibration.digests import PathLike
from calibration.execution import Execution
from calibration.guarantee import Guarantee
from edge_sdk.bundle import Bundle
from edge_sdk.certificate import Certificate, FrameId, Status, withheld
from edge_sdk.errors import EdgeError, FrameError
from edge_sdk.inputs import as_frame
from edge_sdk.loading import ExecutionState, State, execution_state, matches_probe, warm_up
from edge_sdk.runtime.base import Runtime
from edge_sdk.runtime.select import load_runtime
from edge_sdk.scoring import padded


class Certifier:
    """Certifies frames with one bundle on one runtime. Build one with `Certifier.load`, one per thread.

    `certify` never raises for data: a frame of a wrong type, shape or content gives an uncertified certificate of
    status `invalid_input`, and a failing runtime gives status `fault` from then on, so that a camera loop lives on.
    Misuse raises `EdgeError`: a closed certifier, or two threads in one certifier.
    """

    def __init__(
        self, bundle: Bundle, artefact: str, runtime: Runtime, state: ExecutionState, allow_unverified: bool
    ):
        self.bundle = bundle
        self.artefact = artefact
        self.runtime = runtime
        self.state = state
        self._names = bundle.manifest.class_names
        self._frame_scale = _frame_scale(bundle.manifest.preprocessing.get("operator_norm"))
        self._margin = state.margin
        self._note = ""
        self._withhold: Optional[Tuple[Status, str]] = None
        self._fault: Optional[Exception] = None
        self._closed = False
        self._entry = threading.Lock()
        signature = runtime.graph.signature
        self._batch_size = signature.batch_size
        self._frame_shape = signature.frame_shape
        # Only a single uint8 frame may skip the checks of `as_frame`: floats need a look at their values.
        self._fast_shape = (
            signature.frame_shape if signature.dtype == "uint8" and self._batch_size == 1 else None
        )
        self._fast_dtype = np.dtype(np.uint8)
        if state.state is State.UNVERIFIED:
            if allow_unverified and state.calibrated:
                self._note = "unverified execution, allowed by the caller"
            else:
                self._withhold = (Status.UNVERIFIED, state.reason)

    @classmethod
    def load(
        cls,
        path: PathLike,
        *,
        artefact: Optional[str] = None,
        runtime: str = "auto",
        provider: Optional[str] = None,
        threads: int = 1,
        allow_unverified: bool = False,
    ) -> "Certifier":
        """Open a bundle, check all of it, load a runtime, check that too, and warm it up.

        Args:
            path: the bundle's folder.
            artefact: which of its graphs, as in "fp32"; by default the first calibrated one.
            runtime: "onnxruntime", or "auto" for the best that bundle and machine have.
            provider: of ONNX Runtime: "cpu", "cuda" or "tensorrt"; strict.
            threads: of ONNX Runtime; more than one is another execution.
            allow_unverified: issue certificates on an execution that was neither calibrated nor verified here.
                The guarantee then does not cover them.

        Raises:
            BundleError: the bundle is damaged or contradicts itself.
            RuntimeUnavailable: the runtime or provider is not there.
        """
        bundle = Bundle.open(path)
        name = bundle.artefact_name(artefact)
        loaded = load_runtime(bundle, name, runtime=runtime, provider=provider, threads=threads)
        try:
            bundle.check_graph(name, loaded.graph)
            state = execution_state(bundle, name, loaded, matches_probe(bundle, name, loaded))
            warm_up(loaded)
        except BaseException:
            loaded.close()
            raise
        return cls(bundle, name, loaded, state, allow_unverified)

    @property
    def execution(self) -> Execution:
        """Which computation answers."""
        return self.runtime.execution

    @property
    def guarantee(self) -> Optional[Guarantee]:
        """What certificates of this bundle promise; None for an artefact that was never calibrated."""
        record = self.bundle.calibrations.get(self.artefact)
        return None if record is None else record.guarantee

    @property
    def fault(self) -> Optional[Exception]:
        """The runtime's failure that ended this certifier, or None. Load a new one to go on."""
        return self._fault

    def certify(
        self, frame: np.ndarray, *, capture_time: Optional[float] = None, frame_id: FrameId = None
    ) -> Certificate:
        """Answer one frame.

        Args:
            frame: uint8 [H, W, C] (or float32 [C, H, W] in [0, 1]) as the bundle's manifest declares. Read during
                the call only, never kept.
            capture_time: seconds since the epoch; by default now.
            frame_id: anything that names the frame.

        Raises:
            EdgeError: the certifier is closed, or another thread is in it.

        **Guarantee**: that of the bundle; see `Certificate`.
        """
        start = perf_counter()
        when = time() if capture_time is None else capture_time
        if not self._entry.acquire(blocking=False):
            raise EdgeError(
                "certify: another thread is in this certifier; give each thread its own with `clone()`"
            )
        try:
            if (
                type(frame) is np.ndarray
                and frame.shape == self._fast_shape
                and frame.dtype == self._fast_dtype
                and frame.flags.c_contiguous
            ):
                batch = frame[None]
            else:
                checked = as_frame(frame, self.runtime.graph.signature)
                batch = padded(checked[None], self._batch_size)
            if self._fault is not None or self._closed:
                return self._refuse(when, start, frame_id)
            label, radius = self.runtime.answer(batch)
            return self._issue(label.item(0), radius.item(0), start, when, frame_id)
        except FrameError as error:
            return withheld(
                Status.INVALID_INPUT,
                str(error),
                capture_time=when,
                latency=perf_counter() - start,
                frame_id=frame_id,
            )
        except EdgeError:
            raise
        except Exception as error:  # whatever a runtime raises: no answer of it can be trusted any more
            self._fault = error
            return self._refuse(when, start, frame_id)
        finally:
            self._entry.release()

    def certify_batch(
        self,
        frames: Sequence[np.ndarray],
        *,
        capture_time: Optional[float] = None,
        frame_ids: Optional[Sequence[FrameId]] = None,
    ) -> List[Certificate]:
        """Answer several frames, in order; one wrong frame does not harm the others.

        Where the graph takes batches, frames share a forward pass and each certificate's latency is its batch's.
        """
        ids = list(frame_ids) if frame_ids is not None else [None] * len(frames)
        if len(ids) != len(frames):
            raise EdgeError(f"frame_ids: got {len(ids)} for {len(frames)} frames, expected one for each")
        if self._batch_size == 1:
            return [
                self.certify(frame, capture_time=capture_time, frame_id=name)
                for frame, name in zip(frames, ids)
            ]
        certificates: List[Certificate] = []
        for first in range(0, len(frames), self._batch_size):
            chosen = slice(first, first + self._batch_size)
            certificates += self._certify_together(frames[chosen], ids[chosen], capture_time)
        return certificates

    def _certify_together(
        self, frames: Sequence[np.ndarray], ids: Sequence[FrameId], capture_time: Optional[float]
    ) -> List[Certificate]:
        start = perf_counter()
        when = time() if capture_time is None else capture_time
        if not self._entry.acquire(blocking=False):
            raise EdgeError(
                "certify_batch: another thread is in this certifier; give each thread its own with `clone()`"
            )
        try:
            good: List[np.ndarray] = []
            answers: List[Optional[str]] = []
            for frame in frames:
                try:
                    good.append(as_frame(frame, self.runtime.graph.signature))
                    answers.append(None)
                except FrameError as error:
                    answers.append(str(error))
            if self._fault is not None or self._closed:
                return [self._refuse(when, start, name) for name in ids]
            labels = radii = iter(())
            if good:
                label, radius = self.runtime.answer(padded(np.stack(good), self._batch_size))
                labels, radii = iter(label.tolist()), iter(radius.tolist())
            return [
                self._issue(next(labels), next(radii), start, when, name)
                if wrong is None
                else withheld(
                    Status.INVALID_INPUT,
                    wrong,
                    capture_time=when,
                    latency=perf_counter() - start,
                    frame_id=name,
                )
                for wrong, name in zip(answers, ids)
            ]
        except EdgeError:
            raise
        except Exception as error:
            self._fault = error
            return [self._refuse(when, start, name) for name in ids]
        finally:
            self._entry.release()

    def _issue(self, label: int, radius: float, start: float, when: float, frame_id: FrameId) -> Certificate:
        if not (0 <= label < len(self._names) and 0.0 <= radius < math.inf):
            raise ArithmeticError(f"the runtime answered label {label} with radius {radius}")
        name = self._names[label]
        if self._withhold is not None:
            status, reason = self._withhold
            return Certificate(status, label, name, 0.0, 0.0, when, perf_counter() - start, frame_id, reason)
        radius -= self._margin
        if radius > 0.0:
            scaled = radius * self._frame_scale
            return Certificate(
                Status.CERTIFIED,
                label,
                name,
                radius,
                scaled,
                when,
                perf_counter() - start,
                frame_id,
                self._note,
            )
        return Certificate(
            Status.ABSTAINED, label, name, 0.0, 0.0, when, perf_counter() - start, frame_id, self._note
        )

    def _refuse(self, when: float, start: float, frame_id: FrameId) -> Certificate:
        if self._closed:
            raise EdgeError("certify: this certifier is closed; load a new one with `Certifier.load`")
        reason = f"the runtime failed and stays out of use, load the bundle again: {self._fault}"
        return withheld(
            Status.FAULT, reason, capture_time=when, latency=perf_counter() - start, frame_id=frame_id
        )

    def close(self) -> None:
        """Release the runtime; afterwards `certify` raises."""
        self._closed = True
        self.runtime.close()

    def __enter__(self) -> "Certifier":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _frame_scale(operator_norm: object) -> float:
    """1 / norm rounded down, or 0 where no usable bound is known: then no frame radius is stated."""
    if isinstance(operator_norm, (int, float)) and math.isfinite(operator_norm) and operator_norm > 0:
        return math.nextafter(1.0 / float(operator_norm), 0.0)
    return 0.0
