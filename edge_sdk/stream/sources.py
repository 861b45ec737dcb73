"""Sources of frames: cameras, GStreamer pipelines, video files, image folders, ROS bags, MCAP files, any iterable."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, Optional, cast
from urllib.parse import unquote, urlsplit

import numpy as np

from rrise.calibration.errors import RecordingError
from rrise.calibration.recordings.bags import is_bag
from rrise.calibration.recordings.videos import VIDEO_SUFFIXES, opencv
from rrise.deprecations import older_names
from rrise.edge_sdk.errors import EdgeError, FrameError
from rrise.edge_sdk.frames.images import find_images, read_image
from rrise.edge_sdk.stream.captured import Captured, FrameSource, SourceLost

_POSITION, _FRAMES = 0, 7
"""Properties of an OpenCV capture: milliseconds from the start, and number of frames, which a camera has not."""


def open_frame_source(
    source: Any, *, encoding: str, topic: Optional[str] = None, given: Optional[str] = None
) -> FrameSource:
    """Open whatever a user calls a source.

    Args:
        source: a camera number or device file (/dev/video0, /dev/v4l/by-id/...); a GStreamer pipeline (text with "!")
            or URI (text with "://", `file://` included); the path of a video file, an image folder, a ROS bag or an
            MCAP file; an opened OpenCV capture; an object with the methods of `FrameSource`; or any iterable of frames or
            `Captured`. What has a number of frames is a recording, whoever opened it; `OpenCvSource(capture,
            live=...)` decides otherwise.
        encoding: of the bundle, for image files.
        topic: of a bag or MCAP file; by default its only image topic.
        given: encoding of the frames of a camera, video or iterable, where the user names one.

    Raises:
        EdgeError: nothing there, not understood, or a library is missing (says which).
    """
    if all(hasattr(source, name) for name in ("live", "read", "reopen", "close")):
        return cast(FrameSource, source)
    if hasattr(source, "read") and hasattr(source, "isOpened"):
        return OpenCvSource(source, encoding=given)
    if isinstance(source, str) and source.lower().startswith("file:"):
        source = _path_of(source)
    if isinstance(source, int) and not isinstance(source, bool):
        return OpenCvSource(source, live=True, encoding=given)
    if isinstance(source, str) and ("!" in source or "://" in source):
        return OpenCvSource(source, encoding=given)
    if isinstance(source, (str, Path)):
        return _open_path(Path(source), encoding, topic, given)
    if isinstance(source, Iterable):
        return IterableSource(source)
    raise EdgeError(
        f"source: got {type(source).__name__}, expected a camera number, a path, a URI, a capture or an iterable"
    )


def _path_of(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise EdgeError(f"source: got {uri!r}, expected file:///PATH on this machine")
    return Path(unquote(parts.path))


def _open_path(path: Path, encoding: str, topic: Optional[str], given: Optional[str]) -> FrameSource:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise EdgeError(
            f"source: {path} does not exist or cannot be looked at ({error}); expected a camera's device file, a video"
            " file, an image folder, a bag or an MCAP file"
        ) from error
    if stat.S_ISCHR(mode):
        return OpenCvSource(str(path), live=True, encoding=given)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise EdgeError(f"source: {path} is neither a file, a folder nor a camera's device file")
    if path.suffix.lower() in VIDEO_SUFFIXES and stat.S_ISREG(mode):
        return OpenCvSource(str(path), live=False, encoding=given)
    if given is not None:
        raise EdgeError(f"encoding: got {given!r} for {path}, whose files say it themselves; leave it out")
    if is_bag(path):
        from rrise.edge_sdk.stream.bags import open_bag

        return IterableSource(open_bag(path, topic))
    return IterableSource(_images(path, encoding))


def _images(path: Path, encoding: str) -> Iterator[Captured]:
    for file in find_images([path]):
        try:
            yield Captured(read_image(file, encoding), time.time(), str(file))
        except FrameError as error:
            yield Captured(None, time.time(), str(file), problem=str(error))


class IterableSource:
    """Frames or `Captured` from any iterable, in step and without dropping any."""

    live = False

    def __init__(self, frames: Iterable[Any]) -> None:
        self._frames = iter(frames)
        self._count = 0

    def read(self) -> Optional[Captured]:
        for frame in self._frames:
            self._count += 1
            return frame if isinstance(frame, Captured) else Captured(frame, time.time(), self._count - 1)
        return None

    def reopen(self) -> None:
        raise SourceLost("a recording cannot be opened again")

    def close(self) -> None:
        close = getattr(self._frames, "close", None)
        if close is not None:
            close()


class OpenCvSource:
    """A camera, pipeline or video file through OpenCV.

    Args:
        target: what OpenCV opens, or an opened capture.
        live: whether it is a camera; None: it is one unless it has a number of frames.
        encoding: of its frames; None: bgr8, bgra8 or mono8 by their shape, which is what OpenCV delivers.
    """

    def __init__(self, target: Any, *, live: Optional[bool] = None, encoding: Optional[str] = None) -> None:
        self._target = target
        self._encoding = encoding
        self._count = 0
        self._start = time.time()
        self._closed = False
        self._capture: Any = target if hasattr(target, "isOpened") else _open_capture(target)
        self.live = not _number(self._capture, _FRAMES) > 0 if live is None else live

    def read(self) -> Optional[Captured]:
        if self._closed:
            return None
        try:
            good, frame = self._capture.read()
        except Exception as error:  # OpenCV's backends raise many kinds, where others return False
            if self.live:
                raise SourceLost(f"source {self._target}: {error}") from error
            raise EdgeError(f"source {self._target}: cannot be read ({error})") from error
        if not good:
            if self.live:
                raise SourceLost(f"source {self._target}: no frame")
            return None
        self._count += 1
        when = time.time() if self.live else self._start + _number(self._capture, _POSITION) / 1000.0
        return _delivered(frame, when, self._count - 1, self._encoding)

    def reopen(self) -> None:
        if self._target is self._capture:
            raise SourceLost("a capture that was handed in cannot be opened again; pass its number or URI")
        try:
            self._capture.release()
        except Exception as error:
            raise SourceLost(f"source {self._target}: cannot be released ({error})") from error
        self._capture = _open_capture(self._target)

    def close(self) -> None:
        self._closed = True
        self._capture.release()


_OF_SHAPE: Dict[Any, str] = {None: "mono8", 1: "mono8", 3: "bgr8", 4: "bgra8"}


def _delivered(frame: Any, when: float, number: int, encoding: Optional[str]) -> Captured:
    if encoding is not None:
        return Captured(frame, when, number, encoding)
    dimensions = getattr(frame, "ndim", 0)
    channels = frame.shape[2] if dimensions == 3 else None
    if dimensions not in (2, 3) or frame.dtype != np.uint8 or channels not in _OF_SHAPE:
        got = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
        problem = f"capture: got {got}, expected uint8 [H, W], [H, W, 3] or [H, W, 4]; name its `encoding` in `stream`"
        return Captured(None, when, number, problem=problem)
    return Captured(frame, when, number, _OF_SHAPE[channels])


def _number(capture: Any, which: int) -> float:
    """A property of a capture; 0 where it has none."""
    try:
        value = float(capture.get(which))
    except Exception:  # noqa: BLE001 - not every object that reads frames has properties
        return 0.0
    return value if np.isfinite(value) else 0.0


def _open_capture(target: Any) -> Any:
    try:
        cv2 = opencv()
    except RecordingError as error:
        raise EdgeError(str(error)) from error
    pipeline = isinstance(target, str) and "!" in target
    try:
        capture = cv2.VideoCapture(target, cv2.CAP_GSTREAMER) if pipeline else cv2.VideoCapture(target)
        opened = capture.isOpened()
    except Exception as error:
        raise SourceLost(
            f"source {target!r} cannot be opened ({error}); check the cable and the URI"
        ) from error
    if not opened:
        capture.release()
        raise SourceLost(
            f"source {target!r} cannot be opened; check the cable, the URI, or that OpenCV has its backend"
        )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


if not TYPE_CHECKING:
    __getattr__ = older_names(__name__, {"open_source": "open_frame_source"})
