"""Read image files as frames, through Pillow and only when asked."""

from __future__ import annotations

from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import ImageError
from rrise.calibration.images.files import SUFFIXES, open_image
from rrise.calibration.requirements import install
from rrise.edge_sdk.certificate import Certificate, Status, withheld
from rrise.edge_sdk.errors import EdgeError, FrameError

if TYPE_CHECKING:
    from rrise.edge_sdk.certifier import Certifier
    from rrise.edge_sdk.confirming.settings import Confirm

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


def read_image(path: Path, encoding: str, size: Optional[Tuple[int, int]] = None) -> np.ndarray:
    """One image as uint8 [H, W, C] in the encoding of a bundle, read as the trainer reads it.

    Args:
        size: height and width, where the file must have them; another is refused before it is unpacked.

    Raises:
        FrameError: the file cannot be read as an image, or only by guessing: see `rrise.calibration.images.files`.
        EdgeError: Pillow is not installed.
    """
    pillow()
    if encoding not in _MODES:
        raise EdgeError(
            f"encoding: got {encoding!r}, and image files give only {', '.join(_MODES)}; pass arrays from Python"
        )
    try:
        array = open_image(path, _MODES[encoding], size=size)
    except ImageError as error:
        raise FrameError(str(error)) from error
    return np.ascontiguousarray(array[:, :, ::-1]) if encoding == "bgr8" else array


def read_certified(certifier: Certifier, path: Path, confirm: "Optional[Confirm]" = None) -> Certificate:
    """Certify one image file, and confirm it if asked; an unreadable one gives a certificate of status `invalid_input`."""
    signature = certifier.runtime.graph.signature
    height, width = signature.frame_shape[:2]
    size = (height, width) if signature.dtype == "uint8" else None
    try:
        frame = read_image(path, certifier.bundle.manifest.input.encoding, size)
    except FrameError as error:
        return withheld(Status.INVALID_INPUT, str(error), capture_time=time(), frame_id=str(path))
    certificate = certifier.certify(frame, frame_id=str(path))
    if confirm is None or not certificate:
        return certificate
    return certifier.confirm(frame, certificate, confirm.deadline, alpha=confirm.alpha)


def pillow() -> Any:
    """Pillow's `Image` module. Raises: EdgeError: it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise EdgeError(f"Pillow is not installed: {install('pillow')}") from error
    return Image
