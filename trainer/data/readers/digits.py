"""scikit-learn's handwritten digits, which come with it: data for a first run without any files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from rrise.trainer.data.frames import Dataset, one_clip_each
from rrise.trainer.data.readers.arrays import PictureRows
from rrise.trainer.data.readers.source import DataSource

CLASSES = 10


def load_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits (8x8 scans, grey levels 0..16).

    The level v becomes the uint8 nearest to v * 255 / 16, that is (v * 255 + 8) // 16, so 0 -> 0 and 16 -> 255.
    """
    source = open_digits()
    pictures: PictureRows = source.pictures  # type: ignore[assignment]
    return Dataset(pictures.array, source.labels, source.class_names, source.clips)


def open_digits() -> DataSource:
    """The same as a source; it is made anew each time and needs no file of the user's."""
    levels, labels = _table()
    frames = ((levels * 255 + 8) // 16).astype(np.uint8)[..., None]
    names = tuple(str(name) for name in range(CLASSES))
    return DataSource(
        PictureRows(frames, "digits"), labels, names, one_clip_each(len(frames)), "digits", file_order=False
    )


def _table() -> tuple[np.ndarray, np.ndarray]:
    """Grey levels int64 [1797, 8, 8] and labels int64 [1797], of the file that lies in scikit-learn's folder.

    Importing scikit-learn takes seconds in every process, and nothing else of it is needed; where its file has moved, it is
    asked itself.
    """
    found = importlib.util.find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.exists():
            rows = np.loadtxt(path, delimiter=",", dtype=np.int64)
            return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]
    from sklearn.datasets import load_digits as fetch

    digits = fetch()
    return digits.images.astype(np.int64), digits.target.astype(np.int64)
