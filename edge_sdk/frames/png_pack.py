"""A reference pack as a folder: one lossless PNG for each frame, to look at or to weed out, and its counts beside them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

import numpy as np

from rrise.calibration.storage.digests import PathLike, frame_digests
from rrise.calibration.storage.files import names_field, read_arrays, reading, text_field, write_arrays
from rrise.calibration.tables.references import References
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.frames.images import pillow

COUNTS_FILE = "references.npz"
FRAMES_FOLDER = "frames"
TABLE = "references-png"
_ARRAYS = ("digest", "clip", "target", "counts", "num_samples", "radius")
_MODES = {"mono8": ("L", 1), "rgb8": ("RGB", 3), "bgr8": ("RGB", 3)}


@dataclass(frozen=True)
class PackSize:
    """What a folder takes up, in bytes. Pictures of what the robot saw: decide whether they may leave the house."""

    frames: int
    pictures: int
    counts: int
    raw: int

    def text(self) -> str:
        """One line for a person."""
        return (
            f"{self.frames} raw camera images, {_megabytes(self.pictures)} as PNG"
            f" ({_megabytes(self.raw)} unpacked), counts {_megabytes(self.counts)}"
        )


def export_png(
    references: References,
    folder: PathLike,
    *,
    encoding: Optional[str] = None,
    advance: Optional[Callable[[int], None]] = None,
) -> PackSize:
    """Write a pack as `frames/000000.png`, ... and `references.npz`; every PNG is read back and compared.

    Args:
        folder: does not exist yet, or is empty.
        encoding: of the frames, so that the pictures have the right colours: "mono8", "rgb8" or "bgr8"; None: mono8
            or rgb8 by the number of channels. The pack read back is the same for all.

    Raises:
        EdgeError: the folder is in use, Pillow is not installed, or frames are no pictures of that encoding.
    """
    target, channels = Path(folder), references.frames.shape[3]
    name = encoding if encoding is not None else {1: "mono8"}.get(channels, "rgb8")
    if name not in _MODES or _MODES[name][1] != channels:
        raise EdgeError(
            f"encoding: got {name!r} for frames with {channels} channels, expected mono8 with 1, rgb8 or bgr8 with 3"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise EdgeError(f"{target}: got something there already, expected a new or empty folder")
    image_module = pillow()
    (target / FRAMES_FOLDER).mkdir(parents=True, exist_ok=True)
    pictures = 0
    for number, frame in enumerate(references.frames):
        path = _picture(target, number)
        image_module.fromarray(
            _swapped(frame, name)[:, :, 0] if channels == 1 else _swapped(frame, name)
        ).save(path, format="PNG")
        if not np.array_equal(_read(path, name, frame.shape, image_module), frame):
            raise EdgeError(
                f"{path}: reads back as another picture; check the disk and this Pillow's version"
            )
        pictures += path.stat().st_size
        if advance is not None:
            advance(1)
    # Last, so that a folder whose writing was cut short is no pack.
    arrays = {**{field: getattr(references, field) for field in _ARRAYS}, **references.optional()}
    meta = {
        "table": TABLE,
        "split": references.split,
        "sigma": references.sigma,
        "class_names": list(references.class_names),
        "base_digest": references.base_digest,
        "beta": references.beta,
        "encoding": name,
        "frame_shape": list(references.frames.shape[1:]),
    }
    write_arrays(target / COUNTS_FILE, arrays, meta)
    counts = (target / COUNTS_FILE).stat().st_size
    return PackSize(len(references), pictures, counts, references.frames.nbytes)


def import_png(folder: PathLike, *, advance: Optional[Callable[[int], None]] = None) -> References:
    """The pack that `export_png` wrote; every frame is checked against its digest.

    Raises:
        EdgeError: a picture is missing, too many, no PNG of the right size and mode, or shows something else; or
            Pillow is not installed.
        CalibrationError: the counts are missing, damaged or contradict each other.
    """
    source = Path(folder)
    arrays, meta = read_arrays(source / COUNTS_FILE, "reference folder", _ARRAYS, table=TABLE)
    with reading(source / COUNTS_FILE, "reference folder"):
        encoding = text_field(meta, "encoding")
        height, width, channels = (int(side) for side in meta["frame_shape"])
        if _MODES[encoding][1] != channels or min(height, width) < 1:
            raise ValueError(f"{encoding} frames with shape {[height, width, channels]}")
        digests, image_module = arrays["digest"], pillow()
        if digests.ndim != 1 or not len(digests):
            raise ValueError(f"digests with shape {digests.shape}")
    expected = [_picture(source, number).name for number in range(len(digests))]
    found = sorted(path.name for path in (source / FRAMES_FOLDER).glob("*"))
    if found != sorted(expected):
        odd = sorted(set(found) ^ set(expected))
        raise EdgeError(
            f"{source}: {odd[0]} is missing or too many ({len(odd)} such files), expected {len(expected)} pictures in"
            f" {FRAMES_FOLDER}; export the pack again"
        )
    pictures: List[np.ndarray] = []
    for number in range(len(digests)):
        pictures.append(_read(_picture(source, number), encoding, (height, width, channels), image_module))
        if advance is not None:
            advance(1)
    frames = np.stack(pictures)
    changed = np.flatnonzero(frame_digests(frames) != digests)
    if len(changed):
        raise EdgeError(
            f"{source}: {len(changed)} pictures do not match their digest, first {expected[changed[0]]}; they were edited"
            " or saved by another program: get the folder again"
        )
    with reading(source / COUNTS_FILE, "reference folder"):
        return References(
            frames,
            **{field: arrays[field] for field in _ARRAYS},
            split=text_field(meta, "split"),
            sigma=float(meta["sigma"]),
            class_names=names_field(meta, "class_names"),
            base_digest=text_field(meta, "base_digest"),
            beta=float(meta["beta"]),
            level=arrays.get("level"),
        )


def load_references(path: PathLike) -> References:
    """A pack from its file, or from the folder that `export_png` wrote. Raises: EdgeError, CalibrationError."""
    return import_png(path) if Path(path).is_dir() else References.load(path)


def _picture(folder: Path, number: int) -> Path:
    return folder / FRAMES_FOLDER / f"{number:06d}.png"


def _swapped(frame: np.ndarray, encoding: str) -> np.ndarray:
    """Between the frame's channels and those of a picture, which are RGB."""
    return np.ascontiguousarray(frame[:, :, ::-1]) if encoding == "bgr8" else frame


def _read(path: Path, encoding: str, shape: Tuple[int, ...], image_module: Any) -> np.ndarray:
    """One picture exactly as it was written, without any conversion. Raises: EdgeError."""
    height, width, channels = shape
    wanted: List[object] = ["PNG", _MODES[encoding][0], (width, height)]
    got: List[object] = []
    with suppress(OSError, ValueError, SyntaxError, image_module.DecompressionBombError):
        with image_module.open(path, formats=("PNG",)) as image:
            # Size and mode stand in the header: a wrong picture is refused before it is unpacked.
            got = [image.format, image.mode, image.size]
            if got == wanted:
                return _swapped(np.asarray(image).reshape(height, width, channels), encoding)
        raise EdgeError(f"{path}: got {got}, expected {wanted}; export the pack again")
    raise EdgeError(f"{path}: cannot be read as a PNG; export the pack again")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB"
