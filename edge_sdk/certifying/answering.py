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
from dataclasses import replace
from time import perf_counter, time
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import padded
from rrise.edge_sdk.certificate import Certificate, FrameId, Status, withheld
from rrise.edge_sdk.confirming.memory import Memory, mark_of
from rrise.edge_sdk.device.drift import forget_monitoring
from rrise.edge_sdk.device.loading import ExecutionState
from rrise.edge_sdk.device.once import Once
from rrise.edge_sdk.device.suspension import lift
from rrise.edge_sdk.errors import EdgeError, FrameError
from rrise.edge_sdk.frames.inputs import Prepared, Roi, capture_seconds, prepare_frame
from rrise.edge_sdk.loaded import Loaded
from rrise.edge_sdk.runtime.base import Runtime
from rrise.edge_sdk.runtime.device_frames import DeviceFrame, on_device


class _Closed(EdgeError):
    """A closed certifier was asked: the one error that is misuse and not a failing runtime's."""


_LIVE: "weakref.WeakSet[Answering]" = weakref.WeakSet()
"""Every certifier of this process, for a child that is forked from it."""

_HOLDERS = ("certify", "_certify_together", "_confirm", "_free", "_take_over")
"""Methods that hold a certifier's lock while they run."""

_UINT8 = np.dtype(np.uint8)


class Answering:
    """The answering half of `Certifier`, which adds loading and everything that is not done for each frame.

    All that an answer is made from is one `Loaded`, which is never changed and exchanged as a whole.
    """

    def __init__(self, loaded: Loaded, options: Optional[Dict[str, Any]] = None) -> None:
        self._loaded = loaded
        self._previous: Optional[Loaded] = None
        self._load_options: Dict[str, Any] = {} if options is None else options
        self._tested = Memory()
        # ended: closed or another process's, and so for good; a fault ends the loaded bundle only.
        self._closed = self._ended = self._freed = self._foreign = False
        self._entry = threading.Lock()
        self._audit_entry = threading.Lock()
        self._swapping = False
        _LIVE.add(self)

    @property
    def bundle(self) -> Bundle:
        """The bundle that answers now."""
        return self._loaded.bundle

    @property
    def artefact(self) -> str:
        """Which of its graphs, as in "fp32"."""
        return self._loaded.artefact

    @property
    def runtime(self) -> Runtime:
        """What runs it."""
        return self._loaded.runtime

    @property
    def state(self) -> ExecutionState:
        """What was known about the execution when it was loaded."""
        return self._loaded.state

    @property
    def hint(self) -> str:
        """What the first frames told about themselves, as that their channels seem to be exchanged; may be empty."""
        return self._loaded.course.hint

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
            loaded = self._loaded
            if capture_time is not None:
                when = capture_seconds(capture_time)
            scale = loaded.frame_scale
            if (
                type(frame) is np.ndarray
                and frame.shape == loaded.fast_shape
                and frame.dtype == _UINT8
                and frame.flags.c_contiguous
                and encoding is None
                and roi is None
            ):
                batch: Union[np.ndarray, DeviceFrame] = frame[None]
            elif type(frame) is not np.ndarray and on_device(frame):
                if self._ended or loaded.course.fault is not None:
                    return self._refuse(loaded, when, start, frame_id)
                batch = _device_frame(loaded, frame, encoding, roi)
            else:
                prepared = prepare_frame(
                    frame, loaded.runtime.graph.signature, loaded.encoding, encoding=encoding, roi=roi
                )
                batch = padded(prepared.frame[None], loaded.batch_size)
                scale = 0.0 if prepared.altered else scale
            if self._ended or loaded.course.fault is not None:
                return self._refuse(loaded, when, start, frame_id)
            if loaded.guard is not None and type(batch) is np.ndarray:
                problem = loaded.guard.problem(batch[0])
                if problem:
                    raise FrameError(problem)
            if loaded.once is not None and not isinstance(
                batch, DeviceFrame
            ):  # no engine takes the noise of this tier
                loaded.once.check(batch[0])
            if loaded.monitor is not None and loaded.monitor.due(when):
                label, radius = self._observe(loaded, batch, when)
            else:
                label, radius = loaded.runtime.answer(batch)
            mark = mark_of(batch[0]) if loaded.marks and type(batch) is np.ndarray else None
            certificate = _issue(loaded, label.item(0), radius.item(0), scale, start, when, frame_id, mark)
            channels = loaded.course.channels
            if channels is not None and encoding is None and channels.due():
                _compare_channels(loaded, batch)
            return certificate
        except FrameError as error:
            return _invalid(error, start, when, frame_id)
        except _Closed:
            raise
        except Exception as error:  # whatever a runtime raises: no answer of it can be trusted any more
            return self._fail(loaded, error, start, when, frame_id)
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
        size = self._loaded.batch_size
        for first in range(0, len(frames), size):
            chosen = slice(first, first + size)
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
            loaded = self._loaded
            if self._ended or loaded.course.fault is not None:
                return [self._refuse(loaded, when, start, frame_id) for _, _, frame_id in part]
            if capture_time is not None:
                when = capture_seconds(capture_time)
            results = [_guarded(loaded, _prepared(loaded, frame, encoding, roi)) for frame, roi, _ in part]
            answers = self._answers(loaded, results, when)
            return [
                _invalid(result, start, when, frame_id)
                if isinstance(result, FrameError)
                else _issue(
                    loaded,
                    *next(answers),
                    0.0 if result.altered else loaded.frame_scale,
                    start,
                    when,
                    frame_id,
                    mark_of(np.ascontiguousarray(result.frame)) if loaded.marks else None,
                )
                for result, (_, _, frame_id) in zip(results, part)
            ]
        except FrameError as error:
            return [_invalid(error, start, when, frame_id) for _, _, frame_id in part]
        except _Closed:
            raise
        except Exception as error:
            return [self._fail(loaded, error, start, when, frame_id) for _, _, frame_id in part]
        finally:
            self._leave()

    def _answers(
        self, loaded: Loaded, results: Sequence[Union[Prepared, FrameError]], when: float
    ) -> Iterator[Tuple[int, float]]:
        """Label and radius of every sound frame, from as few passes as the graph allows."""
        good = [result.frame for result in results if isinstance(result, Prepared)]
        for first in range(0, len(good), loaded.batch_size):
            part = good[first : first + loaded.batch_size]
            batch = padded(np.stack(part), loaded.batch_size)
            if loaded.monitor is not None and loaded.monitor.due(when):
                label, radius = self._observe(loaded, batch, when)
            else:
                label, radius = loaded.runtime.answer(batch)
            yield from list(zip(label.tolist(), radius.tolist()))[: len(part)]

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
            if self._loaded.monitor is not None:
                self._loaded.monitor.save()
            for loaded in (self._loaded, self._previous):
                if loaded is not None:
                    loaded.runtime.close()
                    loaded.course.confirmer = None
            self._previous = None
        finally:
            self._entry.release()

    def _leave_to_parent(self) -> None:
        """After a fork: the runtime's threads and locks stayed in the parent, so this copy answers and releases nothing."""
        self._entry, self._audit_entry = threading.Lock(), threading.Lock()
        self._foreign = self._ended = self._freed = True
        for loaded in (self._loaded, self._previous):
            if loaded is not None:
                for kept in (loaded.runtime, loaded.course.confirmer):
                    # Never destroyed: a session that joins threads which are not there hangs at the end of the process.
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))

    def __reduce_ex__(self, protocol: object) -> Any:
        raise EdgeError(
            "a certifier cannot be copied or sent to another process: load it there with `Certifier.load`, and take"
            " `clone()` for another thread"
        )

    def _observe(
        self, loaded: Loaded, batch: Union[np.ndarray, DeviceFrame], when: float
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Answer a batch whose first frame the drift monitor looks at as well."""
        if isinstance(batch, DeviceFrame):
            batch = loaded.runtime.host_copy(batch)
        outputs = loaded.runtime.run(batch)
        alarm = (
            "" if loaded.monitor is None else loaded.monitor.observe(batch[0], outputs.probit.item(0), when)
        )
        if alarm:
            loaded.suspend(alarm)
        return outputs.label, outputs.radius

    def suspend(self, reason: str) -> None:
        """Withhold every certificate from now on, on this device and across restarts, until `reset`."""
        while True:
            loaded = self._loaded
            loaded.suspend(reason)
            # A swap in another thread that came before this look is seen here; one that comes later sees the suspension.
            if self._loaded is loaded:
                return

    def reset(self) -> None:
        """Lift a suspension and let the drift monitor begin anew: for a person who has found and mended the cause."""
        with self._audit_entry:  # no swap meanwhile
            loaded = self._loaded
            lift(loaded.bundle)
            forget_monitoring(loaded.bundle.device_folder(loaded.runtime.execution))
            loaded.course.audits = None
            if loaded.monitor is not None:
                loaded.monitor.reset()
            loaded.look()

    def _remember_no_frames(self) -> None:
        """Let a guarded certifier answer the same frame again, for measurements whose answers nobody acts on."""
        if self._loaded.once is not None:
            self._loaded = replace(self._loaded, once=Once(0))

    def _refuse(self, loaded: Loaded, when: float, start: float, frame_id: FrameId) -> Certificate:
        if self._foreign:
            raise _Closed(
                "certify: this certifier was loaded in the process that this one was forked from; load one in each"
                " process with `Certifier.load`"
            )
        if self._closed:
            raise _Closed("certify: this certifier is closed; load a new one with `Certifier.load`")
        reason = f"the runtime failed and stays out of use, load the bundle again: {loaded.course.fault}"
        return withheld(
            Status.FAULT, reason, capture_time=when, latency=perf_counter() - start, frame_id=frame_id
        )

    def _fail(
        self, loaded: Loaded, error: Exception, start: float, when: float, frame_id: FrameId
    ) -> Certificate:
        loaded.course.fault = error
        return self._refuse(loaded, when, start, frame_id)


def _prepared(
    loaded: Loaded, frame: Any, encoding: Optional[str], roi: Optional[Roi]
) -> Union[Prepared, FrameError]:
    try:
        prepared = prepare_frame(
            frame, loaded.runtime.graph.signature, loaded.encoding, encoding=encoding, roi=roi
        )
        if loaded.once is not None:
            loaded.once.check(np.ascontiguousarray(prepared.frame))
        return prepared
    except FrameError as error:
        return error


def _guarded(loaded: Loaded, result: Union[Prepared, FrameError]) -> Union[Prepared, FrameError]:
    """A frame of a batch, which may be a crop: whether it equals the one before says nothing."""
    if loaded.guard is None or isinstance(result, FrameError):
        return result
    problem = loaded.guard.problem(result.frame, in_order=False)
    return FrameError(problem) if problem else result


def _device_frame(loaded: Loaded, frame: Any, encoding: Optional[str], roi: Optional[Roi]) -> DeviceFrame:
    if roi is not None or encoding not in (None, loaded.encoding):
        raise FrameError(
            "frame: lies in device memory, where neither crops nor other encodings are made; copy it with .cpu() or .get()"
        )
    return loaded.runtime.device_frame(frame)


def _compare_channels(loaded: Loaded, batch: Union[np.ndarray, DeviceFrame]) -> None:
    """Ask the network about this frame both ways, and say so, once, if the other way fits the frames better."""
    course, channels = loaded.course, loaded.course.channels
    if channels is None or not isinstance(batch, np.ndarray):
        return
    exchanged = np.ascontiguousarray(batch[..., ::-1])
    given, other = (loaded.runtime.run(one).probit.item(0) for one in (batch, exchanged))
    hint = channels.add(given, other)
    if channels.done:
        course.channels = None
    if hint:
        course.hint = hint
        with suppress(Warning):  # a filter may turn it into an exception
            warnings.warn(hint, RuntimeWarning, stacklevel=3)


def _issue(
    loaded: Loaded,
    label: int,
    radius: float,
    scale: float,
    start: float,
    when: float,
    frame_id: FrameId,
    mark: Optional[bytes],
) -> Certificate:
    if not (0 <= label < len(loaded.names) and 0.0 <= radius < math.inf):
        raise ArithmeticError(f"the runtime answered label {label} with radius {radius}")
    name = loaded.names[label]
    held = loaded.hold.why
    if held is not None:
        status, reason = held
        return Certificate(status, label, name, 0.0, 0.0, when, perf_counter() - start, frame_id, reason)
    radius -= loaded.margin
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
            loaded.note,
            None,
            mark,
        )
    return Certificate(
        Status.ABSTAINED, label, name, 0.0, 0.0, when, perf_counter() - start, frame_id, loaded.note
    )


def _invalid(error: FrameError, start: float, when: float, frame_id: FrameId) -> Certificate:
    return withheld(
        Status.INVALID_INPUT, str(error), capture_time=when, latency=perf_counter() - start, frame_id=frame_id
    )


def _after_fork() -> None:
    for certifier in list(_LIVE):
        certifier._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
