"""From a picture of any size to the frame that the deployed camera would deliver: uint8 [H, W, C]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rrise.trainer.data.readers.source import DataSource, Header
from rrise.trainer.data.workers import Failure, spread
from rrise.trainer.errors import TrainerError


@dataclass(frozen=True)
class Geometry:
    """Frames of the camera: height, width, channels, and whether pictures are turned from RGB to BGR for it."""

    height: int
    width: int
    channels: int
    reverse: bool = False

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (self.height, self.width, self.channels)

    def frame(self, picture: np.ndarray) -> np.ndarray:
        """The camera's frame of a picture, uint8 [H, W, C].

        Scaled until it covers the frame, cut at the centre, grey repeated where others are in colour. The result is rounded
        to uint8, as a camera rounds: it *is* the frame, which digests, counts and certificates speak of. What comes after
        it (`Preprocess`) is not rounded.
        """
        if picture.shape[:2] != (self.height, self.width):
            picture = self._fitted(picture)
        if picture.shape[2] < self.channels:
            picture = np.repeat(picture, self.channels, axis=2)
        return np.ascontiguousarray(picture[..., ::-1] if self.reverse and self.channels == 3 else picture)

    def _fitted(self, picture: np.ndarray) -> np.ndarray:
        from PIL import Image, ImageOps

        image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
        fitted = np.asarray(ImageOps.fit(image, (self.width, self.height), Image.Resampling.BILINEAR))
        return fitted.reshape(self.height, self.width, -1)

    def to_json(self) -> list[Any]:
        return [self.height, self.width, self.channels, self.reverse]


def geometry_of(
    source: DataSource,
    camera: tuple[int, int] | None = None,
    reverse_colours: bool = False,
    failures: list[Failure] | None = None,
) -> Geometry:
    """Look at every picture's header and say which frames they give.

    camera: (height, width); needed where pictures differ in size.
    failures: takes the pictures that cannot be read instead of raising for the first.
    """
    headers = _headers(source, failures)
    grey = all(header.grey for header in headers.values())
    sizes: dict[tuple[int, int], int] = {}
    for number, header in headers.items():
        sizes.setdefault((header.height, header.width), number)
    if camera is None and len(sizes) > 1:
        (first, a), (second, b) = list(sizes.items())[:2]
        raise TrainerError(
            f"mixed image sizes ({len(sizes)} of them): {source.pictures.where(a)} is {first[0]}x{first[1]}, "
            f"{source.pictures.where(b)} is {second[0]}x{second[1]} (height x width). A camera delivers one size: say which, "
            "as `rrise-train init --camera 640x480` or [data] camera = [480, 640], and every image is scaled and cut to it"
        )
    height, width = camera or next(iter(sizes))
    return Geometry(height, width, 1 if grey else 3, reverse_colours and source.file_order and not grey)


def _headers(source: DataSource, failures: list[Failure] | None) -> dict[int, Header]:
    pictures = source.pictures
    shape = getattr(pictures, "frame_shape", None)
    if shape is not None:  # rows of one array are all alike
        return {0: pictures.header(0)}
    # All frames of a recording are alike.
    pieces = getattr(pictures, "pieces", None)
    if pieces is not None:
        return {piece.start: pictures.header(piece.start) for piece in pieces}
    read = spread(pictures.header, len(pictures), label="image headers")
    broken = [item for item in read if isinstance(item, Failure)]
    if broken and failures is None:
        raise broken_pictures(broken)
    if failures is not None:
        failures += broken
    found = {number: item for number, item in enumerate(read) if not isinstance(item, Failure)}
    if not found:
        raise TrainerError(f"none of {len(pictures)} images can be read: {broken[0].message}")
    return found


def broken_pictures(broken: list[Failure]) -> TrainerError:
    """The error that names the pictures that cannot be read."""
    names = "; ".join(failure.message for failure in broken[:3])
    more = f" (and {len(broken) - 3} more)" if len(broken) > 3 else ""
    return TrainerError(f"{names}{more}")


def parse_camera(text: str) -> tuple[int, int]:
    """(height, width) of "640x480", which is width x height as cameras are described.

    >>> parse_camera("640x480")
    (480, 640)
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise TrainerError(f"camera {text!r}: expected WIDTHxHEIGHT in pixels, such as 640x480")
    return int(parts[1]), int(parts[0])
