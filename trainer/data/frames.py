"""Reading labelled images: scikit-learn's digits, an .npz file, or a folder with one sub-folder per class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np

from rrise.trainer.errors import TrainerError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
NPZ_HELP = (
    "expected arrays 'images' (uint8 [n, H, W, 3] or [n, H, W]), 'labels' (integer [n]), 'class_names' [K]"
)


@dataclass(frozen=True)
class Dataset:
    """Labelled frames.

    frames: uint8 [n, H, W, C], C = 1 or 3 (RGB order where a loader here produced them).
    labels: int64 [n], index into class_names. class_names: K names.
    clips: int64 [n]; frames with the same number belong together (a video clip, a burst) and are never
    split apart. By default every frame is its own clip.
    """

    frames: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    clips: np.ndarray

    def __post_init__(self) -> None:
        _check_frames(self.frames)
        _check_labels(self.labels, len(self.frames), self.class_names)
        if self.clips.shape != (len(self.frames),) or self.clips.dtype != np.int64:
            raise TrainerError(
                f"clips: got {self.clips.dtype} {list(self.clips.shape)}, expected int64 [{len(self.frames)}], "
                "one clip number per frame"
            )

    def __len__(self) -> int:
        return len(self.frames)


def load_dataset(source: str | Path, *, reverse_colours: bool = False) -> Dataset:
    """Load `source`: the word "digits", the path of an .npz file, or a folder with one sub-folder per class.

    reverse_colours: give the colour images of a folder in BGR order, as a bgr8 camera would. An .npz file is taken
        as it is, so it must hold frames in the order in which the camera will deliver them.
    Raises TrainerError where the images or labels cannot be used; the message names the culprit.
    """
    if str(source) == "digits":
        return load_digits()
    path = Path(source)
    if path.is_dir():
        dataset = load_folder(path)
        return replace(dataset, frames=dataset.frames[..., ::-1].copy()) if reverse_colours else dataset
    if path.is_file():
        return load_npz(path)
    raise TrainerError(
        f"data source {str(source)!r}: no such file or folder; expected 'digits', an .npz file, "
        "or a folder with one sub-folder of images per class"
    )


def load_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits (8x8 scans, grey levels 0..16).

    The level v becomes the uint8 nearest to v * 255 / 16, that is (v * 255 + 8) // 16, so 0 -> 0 and 16 -> 255.
    """
    from sklearn.datasets import load_digits as fetch

    digits = fetch()
    levels = digits.images.astype(np.int64)
    frames = ((levels * 255 + 8) // 16).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    return Dataset(
        frames, labels, tuple(str(name) for name in digits.target_names), _one_clip_each(len(frames))
    )


def load_npz(path: Path) -> Dataset:
    """Load images, labels, class_names and, where present, clips from an .npz file (no pickle).

    The images may also be called frames, as in rrise's own reference packs.
    """
    if not is_zipfile(path):
        raise TrainerError(f"{path}: not an .npz file, or a damaged one; {NPZ_HELP}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, BadZipFile, EOFError, AttributeError) as error:
        raise TrainerError(
            f"{path}: not a readable .npz file without pickled objects ({error}); {NPZ_HELP}"
        ) from error
    images = "frames" if "frames" in arrays and "images" not in arrays else "images"
    missing = [name for name in (images, "labels", "class_names") if name not in arrays]
    if missing:
        raise TrainerError(f"{path}: got arrays {sorted(arrays)}, missing {missing}; {NPZ_HELP}")
    frames, labels = arrays[images], arrays["labels"]
    if frames.ndim not in (3, 4):
        raise TrainerError(f"{path}: {images} are {frames.dtype} {list(frames.shape)}; {NPZ_HELP}")
    if frames.ndim == 3:
        frames = frames[..., None]
    if labels.dtype.kind not in "iu":
        raise TrainerError(f"{path}: labels are {labels.dtype}, expected integers that index class_names")
    clips = arrays.get("clips", _one_clip_each(len(frames)))
    if clips.dtype.kind not in "iu":
        raise TrainerError(f"{path}: clips are {clips.dtype}, expected one integer per frame")
    names = np.atleast_1d(arrays["class_names"])
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "replace")
    class_names = tuple(str(name) for name in names)
    return Dataset(frames, labels.astype(np.int64), class_names, clips.astype(np.int64))


def load_folder(root: Path) -> Dataset:
    """Load a folder with one sub-folder per class, in alphabetical order; the folder names are the classes.

    All images must have one size; grey images stay one channel where every image is grey, otherwise all
    become RGB.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise TrainerError(f"{root}: got no sub-folders, expected one sub-folder of images per class")
    files = [(path, label) for label, folder in enumerate(folders) for path in _image_files(folder)]
    images = [_read_image(path) for path, _ in files]
    colour = any(image.ndim == 3 for image in images)
    images = [_as_colour(image) if colour else image[..., None] for image in images]
    _check_one_size([path for path, _ in files], images)
    labels = np.array([label for _, label in files], np.int64)
    names = tuple(folder.name for folder in folders)
    return Dataset(np.stack(images), labels, names, _one_clip_each(len(images)))


def _image_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise TrainerError(
            f"{folder}: got no images, expected at least one of {', '.join(sorted(IMAGE_SUFFIXES))}; "
            "add images or remove the empty class folder"
        )
    return files


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise TrainerError(
                    f"{path}: pixel mode {image.mode}, expected 8 bits per channel; convert it first"
                )
            grey = image.mode in ("1", "L")
            return np.asarray(image.convert("L" if grey else "RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise TrainerError(f"{path}: unreadable image ({error}); replace or remove it") from error


def _as_colour(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _check_one_size(paths: list[Path], images: list[np.ndarray]) -> None:
    first = images[0].shape[:2]
    for path, image in zip(paths, images, strict=True):
        if image.shape[:2] != first:
            raise TrainerError(
                f"mixed image sizes: {paths[0]} is {first[0]}x{first[1]}, {path} is "
                f"{image.shape[0]}x{image.shape[1]} (height x width); a camera delivers one size, "
                "so bring all images to one size first"
            )


def _one_clip_each(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


def _check_frames(frames: np.ndarray) -> None:
    got = f"frames: got {frames.dtype} {list(frames.shape)}"
    if frames.dtype != np.uint8:
        raise TrainerError(f"{got}, expected uint8 pixel values 0..255; convert the images first")
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise TrainerError(f"{got}, expected uint8 [n, H, W, 3] or [n, H, W, 1] (channels last)")
    if frames.size == 0:
        raise TrainerError(f"{got}: there is no frame in it")


def _check_labels(labels: np.ndarray, count: int, class_names: tuple[str, ...]) -> None:
    if labels.shape != (count,):
        raise TrainerError(f"labels: got shape {list(labels.shape)}, expected [{count}], one label per frame")
    if len(class_names) < 2 or len(set(class_names)) != len(class_names):
        raise TrainerError(f"class names: got {list(class_names)}, expected at least two different names")
    outside = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(outside):
        raise TrainerError(
            f"label {labels[outside[0]]} of frame {outside[0]}: expected 0..{len(class_names) - 1} "
            f"for the {len(class_names)} class names"
        )
