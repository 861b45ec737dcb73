"""One frame in, one certificate out: the path that a camera loop takes, in a single forward pass of a loaded graph."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import warnings
import weakref
from contextlib import suppress
from time import perf_counter, time
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Protocol, Sequence, Tuple, Union

import numpy as np

from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import padded
from rrise.edge_sdk.certificate import Certificate, FrameId, Status, withheld
from rrise.edge_sdk.confirming.memory import Memory, mark_of
from rrise.edge_sdk.device.audit import AuditLog
from rrise.edge_sdk.device.drift import DriftMonitor, forget_monitoring
from rrise.edge_sdk.device.loading import ExecutionState, State
from rrise.edge_sdk.device.once import Once
from rrise.edge_sdk.device.suspension import lift, suspend, suspended_because
from rrise.edge_sdk.errors import EdgeError, FrameError
from rrise.edge_sdk.frames.channels import ChannelOrder
from rrise.edge_sdk.frames.inputs import Prepared, Roi, capture_seconds, prepare_frame
from rrise.edge_sdk.runtime.base import Runtime
from rrise.edge_sdk.runtime.device_frames import DeviceFrame, on_device

if TYPE_CHECKING:
    from rrise.edge_sdk.confirming.confirmer import Confirmer


class FrameGuard(Protocol):
    """Says why a frame is no picture of the world; see `edge_sdk.stream.checks`."""

    def problem(self, frame: np.ndarray, *, in_order: bool = True) -> str:
        """The reason, or an empty text."""


class _Hold:
    """Why certificates are withheld, or None; shared by a certifier and its clones."""

    __slots__ = ("why",)

    def __init__(self, why: Optional[Tuple[Status, str]]) -> None:
        self.why = why


class _Closed(EdgeError):
    """A closed certifier was asked: the one error that is misuse and not a failing runtime's."""


_LIVE: "weakref.WeakSet[Answering]" = weakref.WeakSet()
"""Every certifier of this process, for a child that is forked from it."""

_HOLDERS = ("certify", "_certify_together", "_confirm", "_free", "_take_over")
"""Methods that hold a certifier's lock while they run."""


class Answering:
    """The answering half of `Certifier`, which adds loading and everything that is not done for each frame.

    Attributes:
        hint: what the first frames told about themselves, as that their channels seem to be exchanged; may be empty.
    """

    def __init__(
        self,
        bundle: Bundle,
        artefact: str,
        runtime: Runtime,
        state: ExecutionState,
        allow_unverified: bool,
        monitor: Optional[DriftMonitor] = None,
        why: str = "",
    ) -> None:
        self.bundle = bundle
        self.artefact = artefact
        self.runtime = runtime
        self.state = state
        self._names = bundle.manifest.class_names
        self._frame_scale = _frame_scale(bundle.manifest.preprocessing.get("operator_norm"))
        self._margin = state.margin
        self._allow_unverified = allow_unverified
        self._monitor = monitor
        self._hold = _Hold(self._reason_to_withhold())
        self._audits: Optional[AuditLog] = None
        self.hint = ""
        self._why = why
        self._load_options: Dict[str, Any] = {}
        self._previous: Optional[Dict[str, Any]] = None
        self._fault: Optional[Exception] = None
        self._closed = self._out_of_use = self._freed = self._foreign = False
        self._encoding = bundle.manifest.input.encoding
        self._entry = threading.Lock()
        self._audit_entry = threading.Lock()
        self._swapping = False
        signature = runtime.graph.signature
        self._batch_size = signature.batch_size
        self._frame_shape = signature.frame_shape
        # Only a single uint8 frame may skip the checks of `as_frame`: floats need a look at their values.
        self._fast_shape = (
            signature.frame_shape if signature.dtype == "uint8" and self._batch_size == 1 else None
        )
        self._fast_dtype = np.dtype(np.uint8)
        self._note = note_of(state)
        self._once = None if bundle.manifest.guard is None else Once()
        self._marks = bundle.manifest.base is not None
        self._tested = Memory()
        self._confirmer: Optional[Confirmer] = None
        self._guard: Optional[FrameGuard] = None
        self._channels: Optional[ChannelOrder] = None
        _LIVE.add(self)

    def certify(
        self,
        frame: Any,
        *,
        encoding: Optional[str] = None,
        roi: Optional[Roi] = None,
        capture_time: Optional[float] = None,
        frame_id: FrameId = None,
    ) -> Certificate:
        """Answer one frame.

        Args:
            frame: uint8 [H, W, C] (or float32 [C, H, W] in [0, 1]) as the bundle's manifest declares; numpy with any
                strides, or DLPack in host memory. TensorRT also takes uint8 frames in GPU memory, as DLPack or with
                `__cuda_array_interface__`. Read during the call only, never kept.
            encoding: of the frame, where it is not the bundle's; see `rrise.edge_sdk.frames.encodings`.
            roi: a crop of the decoded frame. One of another size than the bundle's is resized, and has no frame radius;
                nor has a frame in another encoding, but for the order of its channels.
            capture_time: seconds since the epoch, finite; by default now.
            frame_id: anything that names the frame.

        Raises:
            EdgeError: the certifier is closed, or another thread is in it.

        **Guarantee**: that of the bundle; see `Certificate`.
        """
        start, when = perf_counter(), time()
        if not self._entry.acquire(False):
            self._enter_after_swap()
        try:
            if capture_time is not None:
                when = capture_seconds(capture_time)
            scale = self._frame_scale
            if (
                type(frame) is np.ndarray
                and frame.shape == self._fast_shape
                and frame.dtype == self._fast_dtype
                and frame.flags.c_contiguous
                and encoding is None
                and roi is None
            ):
                batch: Union[np.ndarray, DeviceFrame] = frame[None]
            elif type(frame) is not np.ndarray and on_device(frame):
                if self._out_of_use:
                    return self._refuse(when, start, frame_id)
                batch = self._device_frame(frame, encoding, roi)
            else:
                prepared = prepare_frame(
                    frame, self.runtime.graph.signature, self._encoding, encoding=encoding, roi=roi
                )
                batch, scale = (
                    padded(prepared.frame[None], self._batch_size),
                    0.0 if prepared.altered else scale,
                )
            if self._out_of_use:
                return self._refuse(when, start, frame_id)
            if self._guard is not None and type(batch) is np.ndarray:
                problem = self._guard.problem(batch[0])
                if problem:
                    raise FrameError(problem)
            if self._once is not None and not isinstance(
                batch, DeviceFrame
            ):  # no engine takes the noise of this tier
                self._once.check(batch[0])
            if self._monitor is not None and self._monitor.due(when):
                label, radius = self._observe(batch, when)
            else:
                label, radius = self.runtime.answer(batch)
            mark = mark_of(batch[0]) if self._marks and type(batch) is np.ndarray else None
            certificate = self._issue(label.item(0), radius.item(0), scale, start, when, frame_id, mark)
            if self._channels is not None and encoding is None and self._channels.due():
                self._compare_channels(batch)
            return certificate
        except FrameError as error:
            return _invalid(error, start, when, frame_id)
        except _Closed:
            raise
        except Exception as error:  # whatever a runtime raises: no answer of it can be trusted any more
            return self._fail(error, start, when, frame_id)
        finally:
            self._leave()

    def certify_batch(
        self,
        frames: Sequence[Any],
        *,
        encoding: Optional[str] = None,
        rois: Optional[Sequence[Optional[Roi]]] = None,
        capture_time: Optional[float] = None,
        frame_ids: Optional[Sequence[FrameId]] = None,
    ) -> List[Certificate]:
        """Answer several frames, in order; one wrong frame does not harm the others.

        For the crops of one image pass `[image] * len(rois)`. Where the graph takes batches, frames share a forward
        pass, and each certificate's latency is its batch's.

        Raises:
            EdgeError: as `certify`, or lists of different lengths.
        """
        try:
            frames = list(frames)
        except TypeError as error:
            raise EdgeError(
                f"certify_batch: got {type(frames).__name__}, expected a list of frames"
            ) from error
        ids = [None] * len(frames) if frame_ids is None else list(frame_ids)
        crops = [None] * len(frames) if rois is None else list(rois)
        if not len(ids) == len(crops) == len(frames):
            raise EdgeError(
                f"got {len(frames)} frames, {len(ids)} frame_ids, {len(crops)} rois; expected one for each frame"
            )
        certificates: List[Certificate] = []
        for first in range(0, len(frames), self._batch_size):
            chosen = slice(first, first + self._batch_size)
            part = list(zip(frames[chosen], crops[chosen], ids[chosen]))
            certificates += self._certify_together(part, encoding, capture_time)
        return certificates

    def _certify_together(
        self,
        part: Sequence[Tuple[Any, Optional[Roi], FrameId]],
        encoding: Optional[str],
        capture_time: Optional[float],
    ) -> List[Certificate]:
        start, when = perf_counter(), time()
        if not self._entry.acquire(False):
            self._enter_after_swap()
        try:
            if self._out_of_use:
                return [self._refuse(when, start, frame_id) for _, _, frame_id in part]
            if capture_time is not None:
                when = capture_seconds(capture_time)
            results = [self._prepare(frame, encoding, roi) for frame, roi, _ in part]
            if self._guard is not None:
                results = [self._guarded(result) for result in results]
            good = [result.frame for result in results if isinstance(result, Prepared)]
            answers: Iterator[Tuple[int, float]] = iter(())
            if good:
                batch = padded(np.stack(good), self._batch_size)
                if self._monitor is not None and self._monitor.due(when):
                    label, radius = self._observe(batch, when)
                else:
                    label, radius = self.runtime.answer(batch)
                answers = zip(label.tolist(), radius.tolist())
            return [
                _invalid(result, start, when, frame_id)
                if isinstance(result, FrameError)
                else self._issue(
                    *next(answers),
                    0.0 if result.altered else self._frame_scale,
                    start,
                    when,
                    frame_id,
                    mark_of(np.ascontiguousarray(result.frame)) if self._marks else None,
                )
                for result, (_, _, frame_id) in zip(results, part)
            ]
        except FrameError as error:
            return [_invalid(error, start, when, frame_id) for _, _, frame_id in part]
        except _Closed:
            raise
        except Exception as error:
            return [self._fail(error, start, when, frame_id) for _, _, frame_id in part]
        finally:
            self._leave()

    def _guarded(self, result: Union[Prepared, FrameError]) -> Union[Prepared, FrameError]:
        """A frame of a batch, which may be a crop: whether it equals the one before says nothing."""
        if self._guard is None or isinstance(result, FrameError):
            return result
        problem = self._guard.problem(result.frame, in_order=False)
        return FrameError(problem) if problem else result

    def _compare_channels(self, batch: Union[np.ndarray, DeviceFrame]) -> None:
        """Ask the network about this frame both ways, and say so, once, if the other way fits the frames better."""
        if self._channels is None or not isinstance(batch, np.ndarray):
            return
        exchanged = np.ascontiguousarray(batch[..., ::-1])
        given, other = (self.runtime.run(one).probit.item(0) for one in (batch, exchanged))
        hint = self._channels.add(given, other)
        if self._channels.done:
            self._channels = None
        if hint:
            self.hint = hint
            with suppress(Warning):  # a filter may turn it into an exception
                warnings.warn(hint, RuntimeWarning, stacklevel=3)

    def _enter_after_swap(self) -> None:
        """Wait for a swap, which is short; any other occupant is a second thread."""
        if (self._swapping and self._entry.acquire()) or self._entry.acquire(False):
            return
        if self._occupied():
            raise EdgeError(
                "certify: another thread is in this certifier; give each thread its own with `clone()`"
            )
        # A signal handler raised while a frame was let in or out: nobody is inside, and the lock is taken over.

    def _occupied(self) -> bool:
        """Whether anybody but the caller's own method runs inside, on any thread's stack."""
        inside = 0
        for frame in sys._current_frames().values():
            above: Any = frame
            while above is not None:
                inside += above.f_code.co_name in _HOLDERS and above.f_locals.get("self") is self
                above = above.f_back
        return inside > 1

    def _leave(self) -> None:
        """Let the next one in; a `close` that came meanwhile is left to whoever was inside."""
        self._entry.release()
        if self._closed:
            self._free()

    def _free(self) -> None:
        """Release the runtime of a closed certifier, once, and never under a frame that is being answered."""
        if self._freed or not (self._entry.acquire(False) or not self._occupied()):
            return
        try:
            if self._freed:
                return
            self._freed = True
            if self._monitor is not None:
                self._monitor.save()
            self.runtime.close()
            if self._previous is not None:
                self._previous["runtime"].close()
                self._previous = None
            self._confirmer = None
        finally:
            self._entry.release()

    def _leave_to_parent(self) -> None:
        """After a fork: the runtime's threads and locks stayed in the parent, so this copy answers and releases nothing."""
        self._entry, self._audit_entry = threading.Lock(), threading.Lock()
        self._foreign = self._out_of_use = self._freed = True
        runtimes = [self.runtime] + ([] if self._previous is None else [self._previous["runtime"]])
        for runtime in (*runtimes, self._confirmer):
            # Never destroyed: a session that joins threads which are not there hangs at the end of the process.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))

    def __reduce_ex__(self, protocol: object) -> Any:
        raise EdgeError(
            "a certifier cannot be copied or sent to another process: load it there with `Certifier.load`, and take"
            " `clone()` for another thread"
        )

    def _device_frame(self, frame: Any, encoding: Optional[str], roi: Optional[Roi]) -> DeviceFrame:
        if roi is not None or encoding not in (None, self._encoding):
            raise FrameError(
                "frame: lies in device memory, where neither crops nor other encodings are made; copy it with .cpu() or .get()"
            )
        return self.runtime.device_frame(frame)

    def _observe(self, batch: Union[np.ndarray, DeviceFrame], when: float) -> Tuple[np.ndarray, np.ndarray]:
        """Answer a batch whose first frame the drift monitor looks at as well."""
        if isinstance(batch, DeviceFrame):
            batch = self.runtime.host_copy(batch)
        outputs = self.runtime.run(batch)
        alarm = self._monitor.observe(batch[0], outputs.probit.item(0), when) if self._monitor else ""
        if alarm:
            self.suspend(alarm)
        return outputs.label, outputs.radius

    def suspend(self, reason: str) -> None:
        """Withhold every certificate from now on, on this device and across restarts, until `reset`."""
        try:
            suspend(self.bundle, reason)
            self._hold.why = self._reason_to_withhold() or (Status.SUSPENDED, reason)
        except OSError as error:
            self._hold.why = (Status.SUSPENDED, f"{reason} (not kept for the next start: {error})")

    def reset(self) -> None:
        """Lift a suspension and let the drift monitor begin anew: for a person who has found and mended the cause."""
        with self._audit_entry:
            lift(self.bundle)
            forget_monitoring(self.bundle.device_folder(self.runtime.execution))
            self._audits = None
        if self._monitor is not None:
            self._monitor.reset()
        self._hold.why = self._reason_to_withhold()

    def _reason_to_withhold(self) -> Optional[Tuple[Status, str]]:
        suspended = suspended_because(self.bundle)
        if suspended is not None:
            return Status.SUSPENDED, suspended
        if self.state.state is State.UNVERIFIED and not (self._allow_unverified and self.state.calibrated):
            return Status.UNVERIFIED, self.state.reason
        problem = "" if self._monitor is None else self._monitor.save()
        return (Status.SUSPENDED, problem) if problem else None

    def _prepare(
        self, frame: Any, encoding: Optional[str], roi: Optional[Roi]
    ) -> Union[Prepared, FrameError]:
        try:
            prepared = prepare_frame(
                frame, self.runtime.graph.signature, self._encoding, encoding=encoding, roi=roi
            )
            if self._once is not None:
                self._once.check(np.ascontiguousarray(prepared.frame))
            return prepared
        except FrameError as error:
            return error

    def _issue(
        self,
        label: int,
        radius: float,
        scale: float,
        start: float,
        when: float,
        frame_id: FrameId,
        mark: Optional[bytes],
    ) -> Certificate:
        if not (0 <= label < len(self._names) and 0.0 <= radius < math.inf):
            raise ArithmeticError(f"the runtime answered label {label} with radius {radius}")
        name = self._names[label]
        held = self._hold.why
        if held is not None:
            status, reason = held
            return Certificate(status, label, name, 0.0, 0.0, when, perf_counter() - start, frame_id, reason)
        radius -= self._margin
        if radius > 0.0:
            return Certificate(
                Status.CERTIFIED,
                label,
                name,
                radius,
                radius * scale,
                when,
                perf_counter() - start,
                frame_id,
                self._note,
                None,
                mark,
            )
        return Certificate(
            Status.ABSTAINED, label, name, 0.0, 0.0, when, perf_counter() - start, frame_id, self._note
        )

    def _refuse(self, when: float, start: float, frame_id: FrameId) -> Certificate:
        if self._foreign:
            raise _Closed(
                "certify: this certifier was loaded in the process that this one was forked from; load one in each"
                " process with `Certifier.load`"
            )
        if self._closed:
            raise _Closed("certify: this certifier is closed; load a new one with `Certifier.load`")
        reason = f"the runtime failed and stays out of use, load the bundle again: {self._fault}"
        return withheld(
            Status.FAULT, reason, capture_time=when, latency=perf_counter() - start, frame_id=frame_id
        )

    def _fail(self, error: Exception, start: float, when: float, frame_id: FrameId) -> Certificate:
        self._fault = error
        self._out_of_use = True
        return self._refuse(when, start, frame_id)


def note_of(state: ExecutionState) -> str:
    """What every certificate of an execution in this state says."""
    return "unverified execution, allowed by the caller" if state.state is State.UNVERIFIED else ""


def _invalid(error: FrameError, start: float, when: float, frame_id: FrameId) -> Certificate:
    return withheld(
        Status.INVALID_INPUT, str(error), capture_time=when, latency=perf_counter() - start, frame_id=frame_id
    )


def _frame_scale(operator_norm: object) -> float:
    """1 / norm rounded down, or 0 where no usable bound is known: then no frame radius is stated."""
    if isinstance(operator_norm, (int, float)) and math.isfinite(operator_norm) and operator_norm > 0:
        return math.nextafter(1.0 / float(operator_norm), 0.0)
    return 0.0


def _after_fork() -> None:
    for certifier in list(_LIVE):
        certifier._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
