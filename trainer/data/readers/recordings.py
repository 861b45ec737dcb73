"""Recordings as data: video files, ROS bags and MCAP files, of which frames are taken one by one and in order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rrise.calibration.errors import ImageError, RecordingError
from rrise.calibration.images.encodings import pixels_as
from rrise.calibration.images.files import open_image
from rrise.calibration.recordings.bags import BAG_SUFFIXES, ImageMessage, bag_images, is_bag
from rrise.calibration.recordings.messages import Picture
from rrise.calibration.recordings.videos import VIDEO_SUFFIXES, opencv
from rrise.trainer.data.readers.source import Header
from rrise.trainer.errors import TrainerError

_COUNT, _RATE = 7, 5
"""Properties of an OpenCV capture: number of frames, and frames a second."""


@dataclass(frozen=True)
class Index:
    """What must be known of a recording before its frames are decoded.

    times: int64 [n], nanoseconds from its first frame, ascending; header: of its frames.
    """

    times: np.ndarray
    header: Header


class Cursor(Protocol):
    """A recording that was opened to decode frames. Numbers that ascend are cheap, others open it again."""

    def read(self, number: int) -> np.ndarray:
        """uint8 [h, w, 1] or [h, w, 3] (RGB) of that frame; TrainerError where there is none."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Recording:
    """A video file, a bag or an MCAP file. topic: of a bag; empty = its only image topic."""

    path: Path
    topic: str = ""

    @property
    def files(self) -> list[Path]:
        """Its files: those of its folder, for a ROS 2 bag."""
        return (
            sorted(item for item in self.path.iterdir() if item.is_file())
            if self.path.is_dir()
            else [self.path]
        )

    def index(self) -> Index:
        """Times and shape of its frames. A bag is read through for it, a video only opened."""
        try:
            return _bag_index(self) if is_bag(self.path) else _video_index(self)
        except RecordingError as error:
            raise TrainerError(_about(self.path, str(error))) from error

    def open(self, index: Index) -> Cursor:
        """A cursor before its first frame."""
        return _BagCursor(self, index) if is_bag(self.path) else _VideoCursor(self)


def is_recording(path: Path) -> bool:
    """Whether a path is a video file, a bag or an MCAP file, by its name, or the folder of a ROS 2 bag."""
    return _called_like_one(path.name) or (path.is_dir() and is_bag(path))


def find_recordings(folder: Path) -> Iterator[Path]:
    """All recordings below a folder, in order; the files of a ROS 2 bag belong to it."""
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if here != folder and is_bag(here):
            folders[:] = []
            yield here
        else:
            yield from (here / name for name in sorted(files) if _called_like_one(name))


def _called_like_one(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in (*VIDEO_SUFFIXES, *BAG_SUFFIXES)


def _about(path: Path, text: str) -> str:
    return text if str(path) in text else f"{path}: {text}"


def _video_index(recording: Recording) -> Index:
    capture = _capture(recording.path)
    try:
        count, rate = capture.get(_COUNT), capture.get(_RATE)
        good, frame = capture.read()
    finally:
        capture.release()
    if not good:
        raise TrainerError(
            f"{recording.path}: no frame of this video can be decoded; OpenCV lacks its codec or the file is damaged. Write it "
            f"again, such as `ffmpeg -i {recording.path.name} -c:v libx264 -qp 0 again.mp4`"
        )
    if not (count >= 1 and rate > 0):
        raise TrainerError(
            f"{recording.path}: does not say how many frames it holds (got {count:g} at {rate:g} a second), as streams that were "
            f"cut off do not; write it again, such as `ffmpeg -i {recording.path.name} -c copy again.mp4`"
        )
    times = np.round(np.arange(int(count)) * (1e9 / rate)).astype(np.int64)
    return Index(times, _header(_rgb(frame)))


def _capture(path: Path) -> Any:
    cv2 = opencv()
    try:
        capture = cv2.VideoCapture(str(path))
        opened = capture.isOpened()
    except Exception as error:  # OpenCV's backends raise many kinds, where others return False
        raise RecordingError(f"{path}: cannot be opened as a video ({error})") from error
    if not opened:
        capture.release()
        raise RecordingError(
            f"{path}: cannot be opened as a video: it is none, it is damaged, or OpenCV lacks its format; replace or remove it"
        )
    return capture


def _rgb(frame: np.ndarray) -> np.ndarray:
    """OpenCV's picture in the order of files."""
    return np.ascontiguousarray(frame[..., ::-1] if frame.ndim == 3 else frame[..., None])


def _header(pixels: np.ndarray) -> Header:
    return Header(pixels.shape[0], pixels.shape[1], pixels.shape[2] == 1)


class _VideoCursor:
    """Frames are counted by decoding: jumping to a frame by its time misses in many files."""

    def __init__(self, recording: Recording) -> None:
        self._path, self._next = recording.path, 0
        self._capture = self._open()

    def _open(self) -> Any:
        try:
            return _capture(self._path)
        except RecordingError as error:
            raise TrainerError(str(error)) from error

    def read(self, number: int) -> np.ndarray:
        if number < self._next:
            self.close()
            self._capture, self._next = self._open(), 0
        good = True
        while good and self._next <= number:
            good = self._capture.grab()
            self._next += good
        good, frame = self._capture.retrieve() if good else (False, None)
        if not good or frame is None:
            raise TrainerError(
                f"{self._path}: its header promises frame {number}, but decoding ends after {self._next}: it was cut off or is "
                "damaged. Write it again with what is left, remove it, or leave the rest out with --skip-broken"
            )
        return _rgb(frame)

    def close(self) -> None:
        self._capture.release()


def _bag_index(recording: Recording) -> Index:
    times: list[int] = []
    header = None
    for message in bag_images(recording.path, recording.topic or None):
        if header is None:  # a message can be decoded while its recording is open
            header = _header(_pixels(message, str(recording.path), 0))
        times.append(message.time)
    if header is None:
        raise TrainerError(
            f"{recording.path}: got no image message on its topic; remove it, or name another [data] topic"
        )
    found = np.array(times, np.int64)
    return Index(found - found[0], header)


class _BagCursor:
    """Messages are found by their times of recording, so that a reader can begin in the middle of a bag."""

    def __init__(self, recording: Recording, index: Index) -> None:
        self._recording, self._index, self._next = recording, index, 0
        self._origin: int | None = None
        self._messages = self._from(None)

    def _from(self, start: int | None) -> Iterator[ImageMessage]:
        return bag_images(self._recording.path, self._recording.topic or None, start)

    def read(self, number: int) -> np.ndarray:
        path = self._recording.path
        try:
            message = next(self._messages, None) if self._next == number else self._seek(number)
        except RecordingError as error:
            raise TrainerError(_about(path, str(error))) from error
        if message is None:
            raise TrainerError(
                f"{path}: has no message {number} any more; it was changed: run the command again"
            )
        self._next = number + 1
        pixels, header = _pixels(message, str(path), number), self._index.header
        if _header(pixels) != header:
            raise TrainerError(
                f"{path}, message {number}: {pixels.shape[0]}x{pixels.shape[1]} of {pixels.shape[2]} channels, and the first is "
                f"{header.height}x{header.width} of {1 if header.grey else 3}; a clip has one size: cut the recording there"
            )
        return pixels

    def _seek(self, number: int) -> ImageMessage | None:
        times = self._index.times
        if self._origin is None:
            begin = self._from(None)
            first = next(begin, None)
            self._origin = 0 if first is None else first.time
        # The first of the messages with that time, then on to the wanted one.
        start = int(np.searchsorted(times, times[number]))
        self.close()
        self._messages = self._from(self._origin + int(times[start]))
        for _ in range(number - start):
            next(self._messages, None)
        return next(self._messages, None)

    def close(self) -> None:
        close = getattr(self._messages, "close", None)
        if close is not None:
            close()


def _pixels(message: ImageMessage, path: str, number: int) -> np.ndarray:
    """uint8 [h, w, C] of a message, in RGB; grey ones and grey JPEGs stay grey."""
    where = f"{path}, message {number} of {message.topic}"
    picture: Picture = message.picture()
    if picture.problem:
        raise TrainerError(f"{where}: {picture.problem}")
    try:
        if picture.encoding == "jpeg":
            return open_image(picture.pixels, formats=["JPEG"])
        return np.ascontiguousarray(
            pixels_as(
                picture.pixels, str(picture.encoding), "mono8" if picture.encoding == "mono8" else "rgb8"
            )
        )
    except ImageError as error:
        raise TrainerError(f"{where}: {error}") from error
