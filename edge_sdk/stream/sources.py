"""Sources of frames: cameras, GStreamer pipelines, video files, image folders, ROS bags, MCAP files, any iterable."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Iterable, Iterator, Optional, cast

from rrise.edge_sdk.errors import EdgeError, FrameError
from rrise.edge_sdk.frames.images import find_images, read_image
from rrise.edge_sdk.stream.captured import Captured, Source, SourceLost

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mjpg", ".mpg")


def open_source(source: Any, *, encoding: str, topic: Optional[str] = None) -> Source:
    """Open whatever a user calls a source.

    Args:
        source: a camera number; a GStreamer pipeline (text with "!") or URI (text with "://"); the path of a video
            file, an image folder, a ROS bag or an MCAP file; an opened OpenCV capture; an object with the methods of
            `Source`; or any iterable of frames or `Captured`.
        encoding: of the bundle, for image files.
        topic: of a bag or MCAP file; by default its only image topic.

    Raises:
        EdgeError: nothing there, not understood, or a library is missing (says which).
    """
    if all(hasattr(source, name) for name in ("live", "read", "reopen", "close")):
        return cast(Source, source)
    if isinstance(source, int) or (isinstance(source, str) and ("!" in source or "://" in source)):
        return OpenCvSource(source, live=True)
    if hasattr(source, "read") and hasattr(source, "isOpened"):
        return OpenCvSource(source, live=True)
    if isinstance(source, (str, Path)):
        return _open_path(Path(source), encoding, topic)
    if isinstance(source, Iterable):
        return IterableSource(source)
    raise EdgeError(
        f"source: got {type(source).__name__}, expected a camera number, a path, a URI, a capture or an iterable"
    )


def _open_path(path: Path, encoding: str, topic: Optional[str]) -> Source:
    if not path.exists():
        raise EdgeError(
            f"source: {path} does not exist; expected a video file, an image folder, a bag or an MCAP file"
        )
    if path.suffix in (".bag", ".mcap", ".db3") or (path / "metadata.yaml").exists():
        from rrise.edge_sdk.stream.bags import open_bag

        return IterableSource(open_bag(path, topic))
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return OpenCvSource(str(path), live=False)
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
    """A camera, pipeline or video file through OpenCV, which delivers BGR."""

    def __init__(self, target: Any, *, live: bool) -> None:
        self.live = live
        self._target = target
        self._count = 0
        self._start = time.time()
        self._closed = False
        self._capture: Any = target if hasattr(target, "isOpened") else _open_capture(target)

    def read(self) -> Optional[Captured]:
        if self._closed:
            return None
        good, frame = self._capture.read()
        if not good:
            if self.live:
                raise SourceLost(f"source {self._target}: no frame")
            return None
        self._count += 1
        when = (
            time.time() if self.live else self._start + self._capture.get(0) / 1000.0
        )  # 0: position in milliseconds
        return Captured(frame, when, self._count - 1, "bgr8")

    def reopen(self) -> None:
        if self._target is self._capture:
            raise SourceLost("a capture that was handed in cannot be opened again; pass its number or URI")
        self._capture.release()
        self._capture = _open_capture(self._target)

    def close(self) -> None:
        self._closed = True
        self._capture.release()


def _open_capture(target: Any) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise EdgeError(
            "OpenCV is not installed: `pip install rrise[video]` (on a Jetson: the system's own)"
        ) from error
    pipeline = isinstance(target, str) and "!" in target
    capture = cv2.VideoCapture(target, cv2.CAP_GSTREAMER) if pipeline else cv2.VideoCapture(target)
    if not capture.isOpened():
        capture.release()
        raise SourceLost(
            f"source {target!r} cannot be opened; check the cable, the URI, or that OpenCV has its backend"
        )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture
