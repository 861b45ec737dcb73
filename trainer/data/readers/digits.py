"""scikit-learn's handwritten digits, which come with it: data for a first run without any files."""

from __future__ import annotations

import numpy as np

from rrise.trainer.data.frames import Dataset, one_clip_each
from rrise.trainer.data.readers.arrays import PictureRows
from rrise.trainer.data.readers.source import DataSource


def load_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits (8x8 scans, grey levels 0..16).

    The level v becomes the uint8 nearest to v * 255 / 16, that is (v * 255 + 8) // 16, so 0 -> 0 and 16 -> 255.
    """
    source = open_digits()
    pictures: PictureRows = source.pictures  # type: ignore[assignment]
    return Dataset(pictures.array, source.labels, source.class_names, source.clips)


def open_digits() -> DataSource:
    """The same as a source; it is made anew each time and needs no file."""
    from sklearn.datasets import load_digits as fetch

    digits = fetch()
    levels = digits.images.astype(np.int64)
    frames = ((levels * 255 + 8) // 16).astype(np.uint8)[..., None]
    names = tuple(str(name) for name in digits.target_names)
    labels = digits.target.astype(np.int64)
    return DataSource(
        PictureRows(frames, "digits"), labels, names, one_clip_each(len(frames)), "digits", file_order=False
    )
