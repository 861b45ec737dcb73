"""Pictures that are rows of one array: in memory, in an .npz file or in a Zarr group."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rrise.trainer.data.readers.source import DataSource, Header, files_stamp
from rrise.trainer.errors import TrainerError

RESIDENT = 256 << 20
"""Bytes of pixels up to which an array is simply held in memory."""

NPZ_HELP = (
    "expected arrays 'images' (uint8 [n, H, W, 3] or [n, H, W]), 'labels' (integer [n]), 'class_names' [K]"
)
ZARR_HELP = "expected a group with the arrays 'images' (uint8 [n, H, W, C]) and 'labels', and 'class_names'"


class FileArray:
    """Rows of an array in a file, read one by one without mapping: memory holds what was asked for and no more.

    A mapped file would count as resident memory, and one that got shorter would end the process.
    """

    def __init__(self, path: Path, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.start, self.shape, self.dtype = path, start, shape, dtype
        self._row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self._file = os.open(path, os.O_RDONLY)

    @staticmethod
    def of_npy(path: Path, start: int = 0) -> FileArray:
        """The array whose .npy header begins at byte `start` of a file."""
        with open(path, "rb") as file:
            file.seek(start)
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(file)
            if fortran or dtype.hasobject:
                raise ValueError("Fortran order or Python objects, expected plain rows")
            return FileArray(path, file.tell(), shape, dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, number: int) -> np.ndarray:
        row = np.empty(self.shape[1:], self.dtype)
        self.read_into(number, row)
        return row

    def read_into(self, number: int, row: np.ndarray) -> None:
        """Fill `row`, which is contiguous, with the row of that number."""
        if (
            os.preadv(self._file, [row.reshape(-1).view(np.uint8).data], self.start + number * self._row)
            != self._row
        ):
            raise TrainerError(f"{self.path}: ends before row {number}; restore it, or make it again")

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class PictureRows:
    """Pictures uint8 [n, H, W, C] or [n, H, W] of an array, or of anything whose rows can be read by number."""

    def __init__(self, array: Any, name: str) -> None:
        self.array, self._name = array, name
        self.frame_shape: tuple[int, int, int] = (*array.shape[1:], 1)[:3]

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def where(self, number: int) -> str:
        return f"{self._name}, frame {number}"

    def header(self, number: int) -> Header:
        height, width, channels = self.frame_shape
        return Header(height, width, channels == 1)

    def read(self, number: int) -> np.ndarray:
        return np.asarray(self.array[number]).reshape(self.frame_shape)

    @property
    def in_memory(self) -> bool:
        """Whether the array is in memory as a whole."""
        return isinstance(self.array, np.ndarray)


def open_npz(path: Path) -> DataSource:
    """Open images, labels, class_names and, where present, clips and held_out (bool [n]) of an .npz file (no pickle).

    The images may also be called frames, as in rrise's own reference packs. Images beyond 256 MiB stay in the file.
    """
    if not zipfile.is_zipfile(path):
        raise TrainerError(f"{path}: not an .npz file, or a damaged one; {NPZ_HELP}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            images = "frames" if "frames" in names and "images" not in names else "images"
            arrays: dict[str, Any] = {name: archive[name] for name in names if name in _SMALL}
            if images in names:
                arrays[images] = _images(path, images)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise TrainerError(
            f"{path}: not a readable .npz file without pickled objects ({error}); {NPZ_HELP}"
        ) from error
    missing = [name for name in (images, "labels", "class_names") if name not in arrays]
    if missing:
        raise TrainerError(f"{path}: got arrays {sorted(names)}, missing {missing}; {NPZ_HELP}")
    return array_source(arrays[images], images, arrays, str(path), files_stamp([path], path.parent), NPZ_HELP)


_SMALL = ("labels", "class_names", "clips", "held_out")


def _images(path: Path, name: str) -> Any:
    """The array in memory where it is small, else its rows in the file, which must not be compressed then."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.file_size <= RESIDENT:
        with np.load(path, allow_pickle=False) as archive:
            return archive[name]
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"{member.file_size / 2**30:.1f} GiB of compressed images, of which no single one can be read; write them with "
            "numpy.savez instead of savez_compressed"
        )
    with open(path, "rb") as file:
        file.seek(member.header_offset + 26)
        lengths = file.read(4)
    skip = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    return FileArray.of_npy(path, member.header_offset + 30 + skip)


def open_zarr(path: Path) -> DataSource:
    """Open a Zarr group with the arrays of an .npz file; class_names may be an attribute.

    Its codecs are numpy's own and those of Zarr: no pickle.
    """
    import zarr

    try:
        # Version 3 alone: metadata of version 2 may name pickle as a codec, which would run code.
        group = zarr.open_group(str(path), mode="r", zarr_format=3)
        arrays: dict[str, Any] = {
            name: np.asarray(_plain(group[name])[:]) for name in _SMALL if name in group
        }
        if "class_names" in group.attrs:
            arrays["class_names"] = np.array(group.attrs["class_names"])
        images: Any = _plain(group["images"])
    except Exception as error:  # damaged metadata may raise anything
        raise TrainerError(f"{path}: cannot be read as a Zarr group ({error}); {ZARR_HELP}") from error
    missing = [name for name in ("labels", "class_names") if name not in arrays]
    if missing:
        raise TrainerError(f"{path}: missing {missing}; {ZARR_HELP}")
    small = int(np.prod(images.shape, dtype=np.int64)) * images.dtype.itemsize <= RESIDENT
    stamp = files_stamp(sorted(item for item in path.rglob("*") if item.is_file()), path)
    return array_source(images[:] if small else images, "images", arrays, str(path), stamp, ZARR_HELP)


def _plain(array: Any) -> Any:
    """The array, refused where a codec is not one of Zarr's own."""
    names = {codec["name"] for codec in array.metadata.to_dict()["codecs"]}
    if names - _CODECS:
        raise ValueError(f"codecs {sorted(names - _CODECS)}, expected only {', '.join(sorted(_CODECS))}")
    return array


_CODECS = {"bytes", "blosc", "zstd", "gzip", "crc32c", "transpose", "vlen-utf8"}


def array_source(
    images: Any, name: str, arrays: dict[str, Any], where: str, stamp: str, expected: str
) -> DataSource:
    """A source of an array of images and the arrays beside it."""
    labels = arrays["labels"]
    if images.ndim not in (3, 4):
        raise TrainerError(f"{where}: {name} are {images.dtype} {list(images.shape)}; {expected}")
    got = f"{where}: frames: got {images.dtype} {list(images.shape)}"
    if images.dtype != np.uint8:
        raise TrainerError(f"{got}, expected uint8 pixel values 0..255; convert the images first")
    if images.ndim == 4 and images.shape[-1] not in (1, 3):
        raise TrainerError(f"{got}, expected uint8 [n, H, W, 3] or [n, H, W, 1] (channels last)")
    if 0 in images.shape:
        raise TrainerError(f"{got}: there is no frame in it")
    if labels.dtype.kind not in "iu":
        raise TrainerError(f"{where}: labels are {labels.dtype}, expected integers that index class_names")
    clips = arrays.get("clips", np.arange(len(images)))
    if clips.dtype.kind not in "iu":
        raise TrainerError(f"{where}: clips are {clips.dtype}, expected one integer per frame")
    if clips.shape != (len(images),):
        raise TrainerError(
            f"{where}: clips: got {list(clips.shape)}, expected [{len(images)}], one clip number per frame"
        )
    names = np.atleast_1d(arrays["class_names"])
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "replace")
    held_out = arrays.get("held_out")
    if held_out is not None and (held_out.dtype != bool or held_out.shape != (len(images),)):
        raise TrainerError(
            f"{where}: held_out: got {held_out.dtype} {list(held_out.shape)}, expected bool [{len(images)}]"
        )
    if held_out is not None and len(np.unique(held_out)) < 2:
        held_out = None
    return DataSource(
        PictureRows(images, where),
        labels.astype(np.int64),
        tuple(str(text) for text in names),
        clips.astype(np.int64),
        stamp,
        held_out,
        file_order=False,
    )
