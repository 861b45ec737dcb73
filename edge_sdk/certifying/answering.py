"""One frame in, one certificate out: the path that a camera loop takes, in a single forward pass of a loaded graph."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import replace
from time import perf_counter, time
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import padded
from rrise.edge_sdk.certificate import Certificate, FrameId
from rrise.edge_sdk.certifying.entry import Closed, Entry
from rrise.edge_sdk.certifying.issuing import invalid, issue
from rrise.edge_sdk.certifying.loaded import Loaded
from rrise.edge_sdk.confirming.memory import Memory, mark_of
from rrise.edge_sdk.device.drift import forget_monitoring
from rrise.edge_sdk.device.loading import ExecutionState
from rrise.edge_sdk.device.once import Once
from rrise.edge_sdk.device.suspension import lift
from rrise.edge_sdk.errors import EdgeError, FrameError
from rrise.edge_sdk.frames.inputs import Prepared, Roi, capture_seconds, prepare_frame
from rrise.edge_sdk.runtime.base import Runtime
from rrise.edge_sdk.runtime.device_frames import DeviceFrame, on_device

_UINT8 = np.dtype(np.uint8)


class Answering(Entry):
    """The answering half of `Certifier`, which adds loading and everything that is not done for each frame.

    All that an answer is made from is one `Loaded`, which is never changed and exchanged as a whole.
    """

    def __init__(self, loaded: Loaded, options: Optional[Dict[str, Any]] = None) -> None:
        self._load_options: Dict[str, Any] = {} if options is None else options
        self._tested = Memory()
        super().__init__(loaded)

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
            certificate = issue(loaded, label.item(0), radius.item(0), scale, start, when, frame_id, mark)
            channels = loaded.course.channels
            if channels is not None and encoding is None and channels.due():
                _compare_channels(loaded, batch)
            return certificate
        except FrameError as error:
            return invalid(error, start, when, frame_id)
        except Closed:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises: its answers are trusted no more
            return self._fail(loaded, error, start, when, frame_id)
        finally:
            self._leave()

    def certify_batch(
        self,
        frames: Union[Sequence[Any], np.ndarray],
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
                invalid(result, start, when, frame_id)
                if isinstance(result, FrameError)
                else issue(
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
            return [invalid(error, start, when, frame_id) for _, _, frame_id in part]
        except Closed:
            raise
        except Exception as error:  # noqa: BLE001 - as in `certify`
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
