"""A data set for use in Python, and the camera frames of a source."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rrise.trainer.data.frames import Dataset, LazyFrames
from rrise.trainer.data.geometry import Geometry, geometry_of
from rrise.trainer.data.readers.arrays import RESIDENT, PictureRows
from rrise.trainer.data.readers.digits import load_digits
from rrise.trainer.data.readers.opening import open_data_source
from rrise.trainer.data.readers.source import DataSource


def load_dataset(
    source: str | Path,
    *,
    reverse_colours: bool = False,
    camera: tuple[int, int] | None = None,
    clips: str = "",
    every: int = 1,
    topic: str = "",
) -> Dataset:
    """Load labelled frames for use in Python: in memory up to 256 MiB, beyond that read when they are asked for.

    source: the word "digits", or what `open_data_source` takes.
    reverse_colours: give colour images of files in BGR order, as a bgr8 camera would. An .npz file or Zarr group is taken
        as it is, so it must hold frames in the order in which the camera will deliver them.
    camera: (height, width) of the camera's frames, where images have several sizes.
    every, topic: of recordings; see `open_data_source`.
    Raises TrainerError where the images or labels cannot be used; the message names the culprit.
    """
    if str(source) == "digits":
        return load_digits()
    opened = open_data_source(source, clips=clips, every=every, topic=topic)
    geometry = geometry_of(opened, camera, reverse_colours)
    lazy = lazy_frames(opened, geometry, np.arange(len(opened)), None)
    frames = lazy[:] if lazy.nbytes <= RESIDENT else lazy
    return Dataset(frames, opened.labels, opened.class_names, opened.clips, opened.held_out)


def lazy_frames(
    source: DataSource, geometry: Geometry, rows: np.ndarray, digests: np.ndarray | None
) -> LazyFrames:
    """Camera frames of the pictures of those numbers."""
    return LazyFrames(
        lambda number: geometry.frame(source.pictures.read(number)), rows, geometry.frame_shape, digests
    )


def resident(source: DataSource, geometry: Geometry) -> np.ndarray | None:
    """All frames as the array that holds them already, uint8 [n, H, W, C].

    None where they lie elsewhere or must be changed first.
    """
    pictures = source.pictures
    if (
        isinstance(pictures, PictureRows)
        and pictures.in_memory
        and pictures.frame_shape == geometry.frame_shape
    ):
        return np.asarray(pictures.array).reshape(len(pictures), *geometry.frame_shape)
    return None
