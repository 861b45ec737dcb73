"""Which reader a data source needs, told by what lies there."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from rrise.trainer.data.readers import listing
from rrise.trainer.data.readers.arrays import open_npz, open_zarr
from rrise.trainer.data.readers.folder import open_folder
from rrise.trainer.data.readers.hugging_face import MARKERS, open_hugging_face
from rrise.trainer.data.readers.shards import open_shards
from rrise.trainer.data.readers.source import DataSource
from rrise.trainer.errors import TrainerError

EXPECTED = (
    "expected 'digits', an .npz file, a folder with one sub-folder of images per class, a listing (.csv, .jsonl), a Zarr "
    "group, a folder of .tar shards, or a Hugging Face data set on disk"
)


def open_data_source(source: str | Path, *, clips: str = "") -> DataSource:
    """Open a data source without decoding any picture.

    source: an .npz file, a folder of class folders, a listing, a Zarr group, .tar shards, or a Hugging Face data set
        that was saved to disk. clips: pattern of file names that belong together (folders only).
    Raises TrainerError where it cannot be used; the message names the culprit.
    """
    path = local_path(source)
    if path.is_dir():
        if any((path / name).is_file() for name in MARKERS):
            return open_hugging_face(path)
        if (path / "zarr.json").is_file():
            return open_zarr(path)
        return open_shards(path) if any(path.glob("*.tar")) else open_folder(path, clips)
    if path.is_file():
        if path.suffix.lower() in listing.SUFFIXES:
            return listing.open_listing(path)
        return open_shards(path) if path.suffix.lower() == ".tar" else open_npz(path)
    raise TrainerError(f"data source {str(source)!r}: no such file or folder; {EXPECTED}")


def local_path(source: str | Path) -> Path:
    """The path of a source, which may be written as file://.

    Other URLs are refused, because training reads every picture many times.
    """
    text = str(source)
    if "://" not in text:
        return Path(source)
    url = urlsplit(text)
    if url.scheme != "file" or url.netloc not in ("", "localhost"):
        raise TrainerError(
            f"data source {text!r}: not on this machine; copy it into a folder first. {EXPECTED}"
        )
    return Path(unquote(url.path))
