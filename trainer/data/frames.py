"""What a data set is: labelled camera frames, either in memory or read one by one when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rrise.calibration.storage.digests import frame_digest, frame_digests
from rrise.trainer.errors import TrainerError


class LazyFrames:
    """uint8 [n, H, W, C] that are read when they are asked for; `frames[index]` is an array, a slice of one, too.

    >>> frames = LazyFrames(lambda i: np.full((2, 2, 1), i, np.uint8), np.arange(5), (2, 2, 1))
    >>> frames.shape, frames[3].max(), frames[1:3].shape, frames.take(np.array([4, 0]))[0].max()
    ((5, 2, 2, 1), np.uint8(3), (2, 2, 2, 1), np.uint8(4))
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        rows: np.ndarray,
        frame_shape: tuple[int, int, int],
        digests: np.ndarray | None = None,
    ) -> None:
        """Frames that are read when asked for.

        read: one frame by its number in the source. rows: the numbers, int64 [n]. digests: S64 [n]; what is read must
        have them, so that pictures that changed, or that another decoder reads otherwise, are refused.
        """
        self._read, self._rows, self._digests = read, np.asarray(rows, np.int64), digests
        self.frame_shape = frame_shape

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self._rows), *self.frame_shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all frames would take in memory."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        chosen = np.arange(len(self))[key]
        if np.ndim(chosen) == 0:
            return self._one(int(chosen))
        frames = np.empty((len(chosen), *self.frame_shape), np.uint8)
        for place, number in enumerate(chosen):
            frames[place] = self._one(int(number))
        return frames

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._one(number) for number in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def take(self, index: np.ndarray) -> LazyFrames:
        """The frames of those numbers, in that order, still to be read."""
        digests = None if self._digests is None else self._digests[index]
        return LazyFrames(self._read, self._rows[index], self.frame_shape, digests)

    def _one(self, number: int) -> np.ndarray:
        frame = self._read(int(self._rows[number]))
        if self._digests is not None and frame_digest(frame).encode() != self._digests[number]:
            raise TrainerError(
                f"frame {int(self._rows[number])} of the data: its pixels are not those that were there when the "
                "workspace was made (the picture changed, or another version of Pillow decodes it differently); "
                "restore it, or start a new workspace"
            )
        return frame


Frames = np.ndarray | LazyFrames


@dataclass(frozen=True)
class Dataset:
    """Labelled frames.

    frames: uint8 [n, H, W, C], C = 1 or 3 (RGB order where a reader here produced them), in memory or LazyFrames.
    labels: int64 [n], index into class_names. class_names: K names.
    clips: int64 [n]; frames with the same number belong together (a video clip, a burst) and are never
    split apart. By default every frame is its own clip.
    held_out: bool [n], the frames that tuning, calibration, verification and test are drawn from while all others
    belong to the train split; None where the data say nothing about it and the splits are drawn from all frames.
    known_digests: S64 [n] where they were computed before.
    """

    frames: Frames
    labels: np.ndarray
    class_names: tuple[str, ...]
    clips: np.ndarray
    held_out: np.ndarray | None = None
    known_digests: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_frames(self.frames)
        check_labels(self.labels, len(self.frames), self.class_names)
        if self.clips.shape != (len(self.frames),) or self.clips.dtype != np.int64:
            raise TrainerError(
                f"clips: got {self.clips.dtype} {list(self.clips.shape)}, expected int64 [{len(self.frames)}], "
                "one clip number per frame"
            )

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def digests(self) -> np.ndarray:
        """Digest of every frame, S64 [n]."""
        return frame_digests(self.frames) if self.known_digests is None else self.known_digests  # type: ignore[arg-type]

    def take(self, index: np.ndarray) -> Frames:
        """The frames of those numbers: an array where they are in memory, else still to be read."""
        return self.frames.take(index) if isinstance(self.frames, LazyFrames) else self.frames[index]


def one_clip_each(count: int) -> np.ndarray:
    """Clip numbers, int64 [count], of frames that do not belong together."""
    return np.arange(count, dtype=np.int64)


def _check_frames(frames: Frames) -> None:
    got = f"frames: got {frames.dtype} {list(frames.shape)}"
    if frames.dtype != np.uint8:
        raise TrainerError(f"{got}, expected uint8 pixel values 0..255; convert the images first")
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise TrainerError(f"{got}, expected uint8 [n, H, W, 3] or [n, H, W, 1] (channels last)")
    if 0 in frames.shape:
        raise TrainerError(f"{got}: there is no frame in it")


def check_labels(labels: np.ndarray, count: int, class_names: tuple[str, ...]) -> None:
    """Refuse labels that are not one index into `class_names` for each of `count` frames."""
    if labels.shape != (count,):
        raise TrainerError(f"labels: got shape {list(labels.shape)}, expected [{count}], one label per frame")
    if len(class_names) < 2 or len(set(class_names)) != len(class_names):
        raise TrainerError(f"class names: got {list(class_names)}, expected at least two different names")
    outside = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(outside):
        raise TrainerError(
            f"label {labels[outside[0]]} of frame {outside[0]}: expected 0..{len(class_names) - 1} "
            f"for the {len(class_names)} class names"
        )
