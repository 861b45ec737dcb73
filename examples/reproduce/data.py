"""Reading the user's own copies of CIFAR-10, CIFAR-100 and Tiny ImageNet, without pickle and without downloads.

Accepted below the folder given as --data:
- .npz files called *train*.npz and *test*.npz, several of each are joined in alphabetical order; arrays `images` (or
  `frames`) uint8 [n, H, W, 3] and `labels`, optionally `class_names`; or a mosaic pack, which holds the images as
  lossless or JPEG pictures of many images each (`kind`, `blob`, `off`, `per`, `cols`, `shape`, `step`);
- the official binary version (data_batch_1.bin ... test_batch.bin, or train.bin and test.bin);
- Tiny ImageNet's own layout (train/<class>/images/*.JPEG, val/val_annotations.txt, val/images/*.JPEG).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from rrise.calibration.storage.digests import combined_digest, frame_digests
from rrise.trainer.data import load_digits
from rrise.trainer.errors import TrainerError

DATASETS = ("cifar10", "cifar100", "tiny-imagenet", "digits")
NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "tiny-imagenet": 200, "digits": 10}

KNOWN = {
    "9a3de24c1f5eb39f06e19526eb4347e0121a46dcffb90b5eef96f7b42b4214e0": "CIFAR-10 train, exact",
    "95db9fa5c4b4096081c18243f43080e0a87e3f45e6e89b67a869dd10045d8cfa": "CIFAR-10 test, exact",
    "0070a1329c8cac912dfec23742332f7c468c9e2bbb69ac7efb928131b1dbb45c": "CIFAR-100 test, exact",
    "6c86a57e3194602ac53a028522ceacf553d8f4ab677cf908710a1ad7817c7899": "CIFAR-100 train, re-encoded as JPEG of quality 95",
}
"""Digests of the official pixels in official order, so that a result says which copy it was made from."""


@dataclass(frozen=True)
class Images:
    """frames: uint8 [n, H, W, C]; labels: int64 [n]; class_names: K names."""

    frames: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    @cached_property
    def digests(self) -> np.ndarray:
        """S64 [n]."""
        return frame_digests(self.frames)

    def take(self, rows: np.ndarray) -> Images:
        return Images(self.frames[rows], self.labels[rows], self.class_names)

    def describe(self) -> dict[str, object]:
        """Number, digest, and whether these are pixels we know."""
        digest = combined_digest(self.digests)
        return {"frames": len(self.frames), "digest": digest, "copy": KNOWN.get(digest, "unknown copy")}


@dataclass(frozen=True)
class Source:
    """train: what networks learn from; held_out: independent images for tuning, calibration and test."""

    train: Images
    held_out: Images


def load_source(dataset: str, path: Path | None, seed: int = 0) -> Source:
    """Read a data set. digits needs no path: half of scikit-learn's digits are held out, drawn by `seed`.

    Raises TrainerError where the folder holds none of the accepted layouts, or images that do not fit.
    """
    if dataset == "digits":
        return _digits(seed)
    if path is None or not path.is_dir():
        raise TrainerError(f"--data: got {path}, expected the folder of your own copy of {dataset}")
    if (path / "val" / "val_annotations.txt").is_file():
        return Source(_tiny_train(path), _tiny_val(path))
    parts = {}
    for split in ("train", "test"):
        parts[split] = _npz_files(path, dataset, split) or _binary_files(path, dataset, split)
        if not parts[split]:
            raise TrainerError(
                f"{path}: no {split} images of {dataset}; expected *{split}*.npz, the official binary version, or "
                "Tiny ImageNet's layout"
            )
    train, held_out = (_joined([_read(file, dataset) for file in parts[split]]) for split in parts)
    if train.frames.shape[1:] != held_out.frames.shape[1:]:
        raise TrainerError(
            f"{path}: train images are {train.frames.shape[1:]}, test images {held_out.frames.shape[1:]}"
        )
    return Source(train, held_out)


def _digits(seed: int) -> Source:
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.frames))
    images = Images(digits.frames, digits.labels, digits.class_names)
    half = len(order) // 2
    return Source(images.take(order[:half]), images.take(order[half:]))


def _npz_files(path: Path, dataset: str, split: str) -> list[Path]:
    named = sorted(path.glob(f"{dataset}_*{split}*.npz")) or sorted(path.glob(f"{dataset}-*{split}*.npz"))
    return named or sorted(path.glob(f"*{split}*.npz"))


def _binary_files(path: Path, dataset: str, split: str) -> list[Path]:
    if dataset == "cifar100":
        return sorted(path.glob(f"{split}.bin"))
    return sorted(path.glob("data_batch_*.bin" if split == "train" else "test_batch.bin"))


def _read(path: Path, dataset: str) -> Images:
    images = _read_binary(path, dataset) if path.suffix == ".bin" else _read_npz(path)
    if images.frames.dtype != np.uint8 or images.frames.ndim != 4 or images.frames.shape[3] != 3:
        raise TrainerError(
            f"{path}: got images {images.frames.dtype} {images.frames.shape}, expected uint8 [n, H, W, 3]"
        )
    if len(images.labels) != len(images.frames) or images.labels.max(initial=0) >= NUM_CLASSES[dataset]:
        raise TrainerError(
            f"{path}: got {len(images.labels)} labels up to {images.labels.max(initial=0)} for {len(images.frames)} "
            f"images, expected one each, below {NUM_CLASSES[dataset]}"
        )
    names = images.class_names or tuple(str(number) for number in range(NUM_CLASSES[dataset]))
    return Images(images.frames, images.labels, names)


def _read_npz(path: Path) -> Images:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise TrainerError(f"{path}: not a readable .npz without pickled objects ({error})") from error
    frames: np.ndarray | None = arrays.get("images", arrays.get("frames"))
    if "kind" in arrays and str(arrays["kind"]) == "mosaic":
        frames = _from_mosaics(arrays)
    if frames is None or "labels" not in arrays:
        raise TrainerError(f"{path}: got arrays {sorted(arrays)}, expected 'images' and 'labels'")
    names = tuple(str(name) for name in arrays.get("class_names", ()))
    return Images(frames, arrays["labels"].astype(np.int64), names)


def _from_mosaics(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Each blob is one picture of `per` images in a grid `cols` wide; pixel = value * step."""
    from PIL import Image

    count, height, width, channels = (int(side) for side in arrays["shape"])
    columns, per, step = (int(arrays[name]) for name in ("cols", "per", "step"))
    rows = -(-per // columns)
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, rows * height * columns * width)
    frames = np.empty((count, height, width, channels), np.uint8)
    edges = arrays["off"]
    for number in range(len(edges) - 1):
        with Image.open(io.BytesIO(arrays["blob"][edges[number] : edges[number + 1]].tobytes())) as opened:
            picture = np.asarray(opened.convert("RGB" if channels == 3 else "L"))
        grid = picture.reshape(-1, height, columns, width, channels).transpose(0, 2, 1, 3, 4)
        part = frames[number * per : (number + 1) * per]
        part[:] = np.minimum(
            grid.reshape(-1, height, width, channels)[: len(part)].astype(np.uint16) * step, 255
        )
    return frames


def _read_binary(path: Path, dataset: str) -> Images:
    labels = 2 if dataset == "cifar100" else 1  # coarse and fine label, or the label
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % (labels + 3072):
        raise TrainerError(
            f"{path}: {len(content)} bytes are not whole records of {dataset}'s binary version"
        )
    records = content.reshape(-1, labels + 3072)
    frames = records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(frames), records[:, labels - 1].astype(np.int64), ())


def _joined(parts: list[Images]) -> Images:
    return Images(
        np.concatenate([part.frames for part in parts]),
        np.concatenate([part.labels for part in parts]),
        parts[0].class_names,
    )


def _tiny_train(path: Path) -> Images:
    names = _tiny_classes(path)
    files = [
        (file, label)
        for label, name in enumerate(names)
        for file in sorted((path / "train" / name / "images").glob("*.JPEG"))
    ]
    return _read_pictures(files, names, path / "train")


def _tiny_val(path: Path) -> Images:
    names = _tiny_classes(path)
    numbers = {name: number for number, name in enumerate(names)}
    lines = [line.split("\t") for line in (path / "val" / "val_annotations.txt").read_text().splitlines()]
    files = [(path / "val" / "images" / line[0], numbers[line[1]]) for line in lines if line[1] in numbers]
    return _read_pictures(files, names, path / "val")


def _tiny_classes(path: Path) -> tuple[str, ...]:
    return tuple(sorted(folder.name for folder in (path / "train").iterdir() if folder.is_dir()))


def _read_pictures(files: list[tuple[Path, int]], names: tuple[str, ...], folder: Path) -> Images:
    from PIL import Image

    if not files:
        raise TrainerError(f"{folder}: no *.JPEG images, expected Tiny ImageNet's own layout")
    frames = np.empty((len(files), 64, 64, 3), np.uint8)
    for row, (file, _) in enumerate(files):
        with Image.open(file) as opened:
            frames[row] = np.asarray(opened.convert("RGB"))
    return Images(frames, np.array([label for _, label in files], np.int64), names)
