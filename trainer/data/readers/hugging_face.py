"""Hugging Face data sets that `save_to_disk` wrote; needs the package `datasets`, and reads local files only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rrise.calibration.requirements import install
from rrise.trainer.data.readers.pictures import header_of, pixels_of
from rrise.trainer.data.readers.source import (
    DataSource,
    Header,
    clip_numbers,
    files_stamp,
    held_out_of,
    in_order,
)
from rrise.trainer.errors import TrainerError

MARKERS = ("dataset_info.json", "dataset_dict.json")


class HuggingFaceImages:
    """The image column of a data set, as the bytes that are stored."""

    def __init__(self, table: Any, column: str, root: Path) -> None:
        self._table, self._column, self._root = table, column, root

    def __len__(self) -> int:
        return len(self._table)

    def where(self, number: int) -> str:
        return f"{self._root}, row {number}"

    def header(self, number: int) -> Header:
        return header_of(self._content(number), self.where(number))

    def read(self, number: int) -> np.ndarray:
        return pixels_of(self._content(number), self.where(number))

    def _content(self, number: int) -> Path | bytes:
        stored = self._table[number][self._column]
        return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"])


def open_hugging_face(root: Path) -> DataSource:
    """A data set with an image column and a column `label`; a column `clip` says what belongs together.

    Of a DatasetDict, train is the train split and validation or test are held out.
    """
    try:
        import datasets
    except ImportError as error:
        raise TrainerError(
            f"{root}: a Hugging Face data set, which the package `datasets` reads: {install('datasets')}"
        ) from error
    try:
        loaded = datasets.load_from_disk(str(root))
    except Exception as error:  # pyarrow and the library raise many kinds
        raise TrainerError(f"{root}: cannot be read as a data set on disk ({error})") from error
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    words = [name for name, part in parts.items() for _ in range(len(part))]
    table = (
        datasets.concatenate_datasets(list(parts.values())) if len(parts) > 1 else next(iter(parts.values()))
    )
    columns = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    if len(columns) != 1 or "label" not in table.features:
        raise TrainerError(
            f"{root}: got columns {sorted(table.features)}, expected one image column and 'label'"
        )
    table = table.cast_column(columns[0], datasets.Image(decode=False))
    labels, names = _labels(table)
    clips = [str(clip) for clip in table["clip"]] if "clip" in table.features else range(len(table))
    return DataSource(
        HuggingFaceImages(table, columns[0], root),
        labels,
        names,
        clip_numbers(list(clips)),
        files_stamp(sorted(path for path in root.rglob("*") if path.is_file()), root),
        held_out_of(words, str(root)) if len(parts) > 1 else None,
    )


def _labels(table: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    given = list(table["label"])
    names = getattr(table.features["label"], "names", None)
    if names is not None:
        return np.array(given, np.int64), tuple(names)
    found = in_order(str(label) for label in given)
    return np.array([found.index(str(label)) for label in given], np.int64), tuple(found)
