"""Preprocessed frames in a file: every picture is decoded once, by worker processes, and never resized again.

What the file holds is exactly what `Preprocess` gives: whole pixel levels as uint8 where nothing is resized, and float32
where something is. Rounding a resized frame back to uint8 would move it by 0.44 in L2 at 224 pixels, more than many
certified radii, and counts, scores and certificates must speak of one and the same input.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.digests import frame_digest
from rrise.calibration.storage.files import read_arrays, write_arrays
from rrise.trainer.data.geometry import Geometry
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.data.readers.arrays import FileArray
from rrise.trainer.data.readers.source import DataSource
from rrise.trainer.data.workers import Failure, spread
from rrise.trainer.errors import TrainerError


@dataclass(frozen=True)
class Pass:
    """What one pass over the pictures found.

    rows int64 [m] that could be read, their digests S64 [m], checksums uint32 [m] of what was written for them, and the
    failures.
    """

    rows: np.ndarray
    digests: np.ndarray
    checksums: np.ndarray
    failures: tuple[Failure, ...]


def stored_dtype(preprocess: Preprocess) -> np.dtype[Any]:
    """uint8 where preprocessing only crops and reorders, which is exact; float32 where it resizes."""
    return np.dtype(np.float32 if preprocess.resizes else np.uint8)


def read_all(source: DataSource, geometry: Geometry, preprocess: Preprocess, target: Path | None) -> Pass:
    """Decode every picture once, with a worker on every processor.

    target: a file that takes the preprocessed frames, row by row; None where only digests are needed.
    """
    writer = None if target is None else _Writer(target, len(source), preprocess)

    def work(number: int) -> tuple[bytes, int]:
        frame = geometry.frame(source.pictures.read(number))
        checksum = 0 if writer is None else writer.write(number, frame)
        return frame_digest(frame).encode(), checksum

    try:
        results = spread(
            work, len(source), label="reading images", pieces=getattr(source.pictures, "pieces", None)
        )
    finally:
        if writer is not None:
            writer.close()
    good = [(number, item) for number, item in enumerate(results) if not isinstance(item, Failure)]
    return Pass(
        np.array([number for number, _ in good], np.int64),
        np.array([digest for _, (digest, _) in good], "S64"),
        np.array([checksum for _, (_, checksum) in good], np.uint32),
        tuple(item for item in results if isinstance(item, Failure)),
    )


class _Writer:
    """An .npy file whose rows are written in any order, by several processes."""

    def __init__(self, path: Path, count: int, preprocess: Preprocess) -> None:
        self._preprocess, self._dtype = preprocess, stored_dtype(preprocess)
        shape = (count, *preprocess.output_shape)
        self._row = math.prod(shape[1:]) * self._dtype.itemsize
        _check_room(path.parent, count * self._row)
        with open(path, "wb") as file:
            header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            self._start = file.tell()
            file.truncate(self._start + count * self._row)
        self._file = os.open(path, os.O_WRONLY)

    def write(self, number: int, frame: np.ndarray) -> int:
        """Preprocess a frame and write it; returns the checksum of its row."""
        with torch.inference_mode():
            # In memory channel after channel, as the matrix products want it: a third faster, and the same bits.
            planes = torch.from_numpy(np.array(frame.transpose(2, 0, 1), order="C"))
            batch = planes.permute(1, 2, 0)[None]
            tensor = self._preprocess(batch) if self._dtype == np.float32 else self._preprocess.levels(batch)
        row = np.ascontiguousarray(tensor[0].numpy().astype(self._dtype, copy=False)).tobytes()
        try:
            written = os.pwrite(self._file, row, self._start + number * self._row)
        except OSError as error:
            raise OSError(error.errno, f"the cache of preprocessed frames: {error.strerror}") from error
        if written != self._row:
            raise OSError(28, "the cache of preprocessed frames: the disk is full")
        return zlib.crc32(row)

    def close(self) -> None:
        os.fsync(self._file)
        os.close(self._file)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TrainerError(
            f"{folder}: preprocessed frames take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; make room, "
            "choose a smaller [preprocess] size, or put the workspace on another disk"
        )


class InputsFile:
    """Preprocessed frames by row, each checked against its checksum when it is read for the first time."""

    def __init__(self, path: Path, rows: np.ndarray, checksums: np.ndarray) -> None:
        self._array = FileArray.of_npy(path)
        self._checksums = dict(zip(rows.tolist(), checksums.tolist(), strict=True))
        self._checked = np.zeros(len(self._array), bool)
        self._path = path

    def read(self, rows: np.ndarray) -> torch.Tensor:
        """float32 [B, C, h, w] in [0, 1] of the rows int64 [B]."""
        batch = np.empty((len(rows), *self._array.shape[1:]), self._array.dtype)
        for place, row in enumerate(rows.tolist()):
            self._array.read_into(row, batch[place])
            if not self._checked[row]:
                if zlib.crc32(batch[place].tobytes()) != self._checksums[row]:
                    raise TrainerError(
                        f"{self._path}: row {row} is damaged; remove this file and run the same command again, which makes "
                        "it anew from the images"
                    )
                self._checked[row] = True
        tensor = torch.from_numpy(batch)
        # As in `Preprocess.forward`: the same product, so the same float32.
        return tensor.to(torch.float32) * (1.0 / 255.0) if self._array.dtype == np.uint8 else tensor


def save_cache_record(path: Path, found: Pass, made_from: dict[str, Any]) -> None:
    """Write beside the file what its rows are and what it was made from."""
    write_arrays(path, {"rows": found.rows, "checksums": found.checksums}, {"table": "inputs", **made_from})


def open_inputs(path: Path, record: Path, made_from: dict[str, Any]) -> InputsFile | None:
    """The file, where it was made from exactly that; None where it was not, or is not there."""
    try:
        arrays, meta = read_arrays(
            record, "record of preprocessed frames", ("rows", "checksums"), table="inputs"
        )
        if {key: meta.get(key) for key in made_from} != json.loads(json.dumps(made_from)):
            return None
        return InputsFile(path, arrays["rows"], arrays["checksums"])
    except (CalibrationError, OSError, ValueError):
        return None
