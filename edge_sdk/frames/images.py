"""Read image files as frames, through Pillow and only when asked."""

from __future__ import annotations

from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Iterator, List, Sequence

import numpy as np

from rrise.edge_sdk.certificate import Certificate, Status, withheld
from rrise.edge_sdk.errors import EdgeError, FrameError

if TYPE_CHECKING:
    from rrise.edge_sdk.certifier import Certifier

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
_MODES = {"rgb8": "RGB", "bgr8": "RGB", "mono8": "L"}


def find_images(paths: Sequence[Path]) -> List[Path]:
    """The image files among `paths`, folders searched for them in order of name.

    Raises:
        EdgeError: a path does not exist, or nothing was found.
    """
    found: List[Path] = []
    for path in paths:
        if not path.exists():
            raise EdgeError(f"{path}: got nothing there, expected an image or a folder of images")
        found += [path] if path.is_file() else sorted(_images_in(path))
    if not found:
        raise EdgeError(
            f"{', '.join(map(str, paths))}: got no images, expected files of {', '.join(SUFFIXES)}"
        )
    return found


def _images_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def read_image(path: Path, encoding: str) -> np.ndarray:
    """One image as uint8 [H, W, C] in the encoding of a bundle.

    Raises:
        FrameError: the file cannot be read as an image.
        EdgeError: Pillow is not installed.
    """
    image_module = pillow()
    if encoding not in _MODES:
        raise EdgeError(
            f"encoding: got {encoding!r}, and image files give only {', '.join(_MODES)}; pass arrays from Python"
        )
    try:
        with image_module.open(path) as image:
            array = np.asarray(image.convert(_MODES[encoding]))
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise FrameError(f"{path}: cannot be read as an image ({error})") from error
    if encoding == "mono8":
        return array[:, :, None]
    return array[:, :, ::-1].copy() if encoding == "bgr8" else array


def read_certified(certifier: Certifier, path: Path) -> Certificate:
    """Certify one image file; an unreadable one gives a certificate of status `invalid_input`."""
    try:
        frame = read_image(path, certifier.bundle.manifest.input.encoding)
    except FrameError as error:
        return withheld(Status.INVALID_INPUT, str(error), capture_time=time(), frame_id=str(path))
    return certifier.certify(frame, frame_id=str(path))


def pillow() -> Any:
    """Pillow's `Image` module. Raises: EdgeError: it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise EdgeError("Pillow is not installed: `pip install rrise[images]`") from error
    return Image
