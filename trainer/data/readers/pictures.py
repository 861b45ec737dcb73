"""Pictures in files, whole ones or parts of shards, read by the one image reader of rrise."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rrise.calibration.errors import ImageError
from rrise.calibration.images.files import SUFFIXES, image_info, open_image
from rrise.trainer.data.readers.source import Header
from rrise.trainer.errors import TrainerError


@dataclass(frozen=True)
class Place:
    """Where the bytes of a picture lie: a whole file, or `length` bytes of one from `start` (a shard)."""

    path: Path
    start: int = 0
    length: int | None = None
    inside: str = ""

    def content(self) -> Path | bytes:
        """What the reader of images takes."""
        if self.length is None:
            return self.path
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return file.read(self.length)

    def __str__(self) -> str:
        return f"{self.path}, {self.inside}" if self.inside else str(self.path)


class ImageFiles:
    """Pictures in files or in parts of files."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def where(self, number: int) -> str:
        return str(self.places[number])

    def header(self, number: int) -> Header:
        return header_of(self.places[number].content(), self.where(number))

    def read(self, number: int) -> np.ndarray:
        return pixels_of(self.places[number].content(), self.where(number))


def pixels_of(content: Path | bytes, name: str) -> np.ndarray:
    """uint8 [h, w, 1] or [h, w, 3] (RGB) of an image file, which messages call `name`."""
    try:
        return open_image(content)
    except (ImageError, OSError) as error:
        raise _unreadable(error, name) from error


def header_of(content: Path | bytes, name: str) -> Header:
    """Size and colour of an image file."""
    try:
        info = image_info(content)
    except (ImageError, OSError) as error:
        raise _unreadable(error, name) from error
    return Header(info.height, info.width, info.grey)


def _unreadable(error: Exception, name: str) -> TrainerError:
    text = str(error).removeprefix("image: ").removeprefix(f"{name}: ")
    return TrainerError(
        f"{name}: unreadable image ({text}); mend, replace or remove it, or leave it out with --skip-broken"
    )


def is_image(path: Path) -> bool:
    """Whether the name of a file says that it is an image, in upper or lower case."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def clip_pattern(text: str) -> Callable[[str], str]:
    """From the stem of a file name to the name of its clip, by a pattern such as "{clip}_{frame}".

    {clip} is any text, {frame} a number, everything else stands for itself. A name that does not fit, and every name
    where the pattern is empty, is a clip of its own.

    >>> clip_pattern("{clip}_{frame}")("00003_00017"), clip_pattern("")("00003_00017")
    ('00003', 'file 00003_00017')
    """
    if text and (text.count("{clip}") != 1 or set(re.findall(r"\{(.*?)\}", text)) - {"clip", "frame"}):
        raise TrainerError(
            f"[data] clips: got {text!r}, expected a pattern of file names with {{clip}} once and {{frame}}, such as "
            '"{clip}_{frame}" for track_frame.png'
        )
    rule = {"{clip}": "(?P<clip>.+)", "{frame}": r"\d+"}
    parts = re.split(r"(\{clip\}|\{frame\})", text)
    compiled = re.compile("".join(rule.get(part, re.escape(part)) for part in parts))

    def clip_of(stem: str) -> str:
        found = compiled.fullmatch(stem) if text else None
        return found["clip"] if found else f"file {stem}"

    return clip_of
