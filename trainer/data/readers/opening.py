"""Which reader a data source needs, told by what lies there."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from rrise.trainer.data.readers import listing
from rrise.trainer.data.readers.arrays import open_npz, open_zarr
from rrise.trainer.data.readers.folder import open_folder
from rrise.trainer.data.readers.hugging_face import MARKERS, open_hugging_face
from rrise.trainer.data.readers.recorded import Indexes, Taking
from rrise.trainer.data.readers.recordings import is_recording
from rrise.trainer.data.readers.shards import open_shards
from rrise.trainer.data.readers.source import DataSource
from rrise.trainer.errors import TrainerError

EXPECTED = (
    "expected 'digits', an .npz file, a folder with one sub-folder of images or recordings per class, a listing (.csv, "
    ".jsonl), a Zarr group, a folder of .tar shards, or a Hugging Face data set on disk"
)


def open_data_source(
    source: str | Path, *, clips: str = "", every: int = 1, topic: str = "", kept: Path | None = None
) -> DataSource:
    """Open a data source without decoding its pictures.

    source: an .npz file, a folder of class folders, a listing, a Zarr group, .tar shards, or a Hugging Face data set
        that was saved to disk. clips: pattern of file names that belong together (folders only).
    every, topic: of recordings (videos, ROS bags, MCAP files): each so-many-th frame is taken, and of bags those of this
        topic, by default the only image topic. kept: a file that keeps what was found out about recordings.
    Raises TrainerError where it cannot be used; the message names the culprit.
    """
    path, taking = local_path(source), Taking(every, Indexes(kept))
    if is_recording(path):
        raise TrainerError(
            f"{path}: one recording without labels; put recordings into a folder for each class, or give a listing (.csv) with "
            "the columns path, start, end (seconds) and label"
        )
    if path.is_dir():
        if any((path / name).is_file() for name in MARKERS):
            return open_hugging_face(path)
        if (path / "zarr.json").is_file():
            return open_zarr(path)
        return (
            open_shards(path)
            if any(path.glob("*.tar"))
            else open_folder(path, clips, topic=topic, taking=taking)
        )
    if path.is_file():
        if path.suffix.lower() in listing.SUFFIXES:
            return listing.open_listing(path, topic=topic, taking=taking)
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
