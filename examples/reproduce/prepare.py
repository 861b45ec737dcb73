"""Official layouts of public image data sets -> one .npz that `rrise-train init --data` reads.

Your own copies are read; nothing is downloaded. Below the folder that is given:

- cifar10, cifar100: the binary version (data_batch_1.bin ..., test_batch.bin; train.bin, test.bin), the python version
  (data_batch_1 ..., test_batch; train, test), whose pickles may hold nothing but arrays, text and numbers, or
  *train*.npz and *test*.npz with `images` and `labels`;
- tiny-imagenet: train/CLASS/images/*.JPEG, val/val_annotations.txt and val/images, or *train*.npz and *val*.npz with
  `images`, `labels` and `class_names`;
- gtsrb: Final_Training/Images/CLASS/TRACK_FRAME.ppm and Final_Test/Images with GT-final_test.csv, resized to one size, or
  *train*.npz and *test*.npz with `images`, `labels`, and `clips` for the training images: the track of each.

Training images are for training; the official test (Tiny ImageNet: validation) images are `held_out`, and tuning, calibration,
verification and test come from them.

Not so gtsrb. Its 12,630 test images are the frames of 421 tracks, shuffled (every class has a multiple of 30), and nobody is told
which belong together. Frames of one track are no independent draws, so that a promise calibrated on these images would be
void. They are for training, with a share of the training tracks; all other training tracks are `held_out`, a clip each.
"""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np

from rrise.calibration.images.files import open_image
from rrise.calibration.storage.digests import combined_digest, frame_digests
from rrise.calibration.storage.files import atomic_file
from rrise.trainer.errors import TrainerError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NUM_CLASSES = {"cifar10": 10, "cifar100": 100}

SIGNS = (
    *(f"speed limit {speed}" for speed in (20, 30, 50, 60, 70, 80)),
    *(
        "end of speed limit 80",
        "speed limit 100",
        "speed limit 120",
        "no passing",
        "no passing for vehicles over 3.5 t",
    ),
    *(
        "right of way at the next crossing",
        "priority road",
        "yield",
        "stop",
        "no vehicles",
        "no vehicles over 3.5 t",
    ),
    *(
        "no entry",
        "danger",
        "dangerous curve left",
        "dangerous curve right",
        "double curve",
        "bumpy road",
        "slippery road",
    ),
    *(
        "road narrows on the right",
        "road work",
        "traffic signals",
        "pedestrians",
        "children",
        "bicycles",
        "ice or snow",
    ),
    *(
        "wild animals",
        "end of all limits",
        "turn right ahead",
        "turn left ahead",
        "ahead only",
        "straight or right",
    ),
    *("straight or left", "keep right", "keep left", "roundabout", "end of no passing"),
    "end of no passing for vehicles over 3.5 t",
)
"""What the 43 numbers of gtsrb mean."""

TRAIN_TRACKS = 0.3
"""Share of gtsrb's training tracks that are trained on, unless another is asked for."""

KNOWN = {
    "9a3de24c1f5eb39f06e19526eb4347e0121a46dcffb90b5eef96f7b42b4214e0": "CIFAR-10 train, exact",
    "95db9fa5c4b4096081c18243f43080e0a87e3f45e6e89b67a869dd10045d8cfa": "CIFAR-10 test, exact",
    "0070a1329c8cac912dfec23742332f7c468c9e2bbb69ac7efb928131b1dbb45c": "CIFAR-100 test, exact",
}
"""Digests of the official pixels in official order, so that a preparation can say which copy it read."""


@dataclass(frozen=True)
class Images:
    """frames: uint8 [n, H, W, 3]; labels, clips: int64 [n]; class_names: K names."""

    frames: np.ndarray
    labels: np.ndarray
    clips: np.ndarray
    class_names: tuple[str, ...]

    @property
    def copy(self) -> str:
        """Which copy of a data set these pixels are, as far as we know."""
        return KNOWN.get(combined_digest(frame_digests(self.frames)), "unknown copy")


@dataclass(frozen=True)
class Signs:
    """What gtsrb alone is asked.

    size: pixels of a side, since its images differ in size. train_tracks: share of the training tracks that are trained on,
    drawn with a fixed seed; the others are held out.
    """

    size: int = 32
    train_tracks: float = TRAIN_TRACKS


def prepare(layout: str, folder: Path, target: Path, signs: Signs = Signs()) -> dict[str, Images]:
    """Read an official layout and write `target`; returns its training and held-out images.

    Raises TrainerError where the folder does not hold what the layout says, naming what is missing or wrong.
    """
    if not folder.is_dir():
        raise TrainerError(f"{folder}: no such folder, expected your own copy of {layout}")
    parts = dict(zip(("train", "test"), LAYOUTS[layout](folder, signs)))
    train, test = parts["train"], parts["test"]
    if train.frames.shape[1:] != test.frames.shape[1:] or train.class_names != test.class_names:
        raise TrainerError(
            f"{folder}: train images {list(train.frames.shape[1:])} of {len(train.class_names)} classes, test images "
            f"{list(test.frames.shape[1:])} of {len(test.class_names)}; expected the same"
        )
    arrays: dict[str, Any] = {
        "images": np.concatenate([train.frames, test.frames]),
        "labels": np.concatenate([train.labels, test.labels]),
        "clips": np.concatenate([train.clips, test.clips + int(train.clips.max()) + 1]),
        "class_names": np.array(train.class_names),
        "held_out": np.repeat([False, True], [len(train.labels), len(test.labels)]),
    }
    with atomic_file(target) as file:
        np.savez(file, **arrays)  # not compressed: the trainer then reads single frames where they lie
    return parts


def _images(frames: np.ndarray, labels: Any, names: Sequence[str], where: Path, clips: Any = None) -> Images:
    """The same, checked."""
    labels = np.asarray(labels)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise TrainerError(
            f"{where}: images are {frames.dtype} {list(frames.shape)}, expected uint8 [n, H, W, 3]"
        )
    if labels.shape != (len(frames),) or labels.dtype.kind not in "iu":
        raise TrainerError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)}, expected {len(frames)} integers"
        )
    if labels.min() < 0 or labels.max() >= len(names):
        raise TrainerError(
            f"{where}: labels from {labels.min()} to {labels.max()}, expected 0 to {len(names) - 1}"
        )
    chosen = np.arange(len(frames)) if clips is None else np.asarray(clips)
    return Images(frames, labels.astype(np.int64), chosen.astype(np.int64), tuple(names))


def _cifar(dataset: str) -> Callable[[Path, Signs], tuple[Images, Images]]:
    def read(folder: Path, signs: Signs) -> tuple[Images, Images]:
        names = _cifar_names(dataset, folder)
        found = []
        for split in ("train", "test"):
            files = _cifar_files(dataset, folder, split)
            if not files:
                raise TrainerError(
                    f"{folder}: no {split} images of {dataset}; expected its binary or python version (such as "
                    f"{'test_batch' if dataset == 'cifar10' else 'test'}.bin), or *{split}*.npz"
                )
            parts = [_cifar_part(dataset, file, names) for file in files]
            frames, labels = (
                np.concatenate([getattr(part, name) for part in parts]) for name in ("frames", "labels")
            )
            found.append(_images(frames, labels, names, folder))
        return found[0], found[1]

    return read


def _cifar_files(dataset: str, folder: Path, split: str) -> list[Path]:
    official = {"train": "data_batch_[0-9]", "test": "test_batch"}[split] if dataset == "cifar10" else split
    return next(
        (f for p in (f"{official}.bin", official, f"*{split}*.npz") if (f := sorted(folder.glob(p)))), []
    )


def _cifar_names(dataset: str, folder: Path) -> tuple[str, ...]:
    """Those of the python version's or the binary version's own list, else the published ones, else numbers."""
    for name in ("batches.meta", "meta"):
        if (folder / name).is_file():
            stored = _unpickled(folder / name).get(
                b"fine_label_names" if name == "meta" else b"label_names", []
            )
            return tuple(text.decode() for text in stored)
    for name in ("batches.meta.txt", "fine_label_names.txt"):
        if (folder / name).is_file():
            return tuple((folder / name).read_text(encoding="utf-8").split())
    for path in sorted(folder.glob("*test*.npz")):
        if "class_names" in (arrays := _npz(path)):
            return tuple(str(text) for text in arrays["class_names"])
    return CIFAR10 if dataset == "cifar10" else tuple(str(number) for number in range(100))


def _cifar_part(dataset: str, path: Path, names: Sequence[str]) -> Images:
    if len(names) != NUM_CLASSES[dataset]:
        raise TrainerError(f"{path.parent}: {len(names)} class names, expected {NUM_CLASSES[dataset]}")
    if path.suffix == ".npz":
        return _of_npz(path, names)
    if path.suffix == ".bin":
        extra = 2 if dataset == "cifar100" else 1  # coarse and fine label, or the label
        content = np.fromfile(path, np.uint8)
        if not len(content) or len(content) % (extra + 3072):
            raise TrainerError(f"{path}: {len(content)} bytes are not whole records of {extra} + 3,072 bytes")
        records = content.reshape(-1, extra + 3072)
        rows, labels = records[:, extra:], records[:, extra - 1].astype(np.int64)
    else:
        batch = _unpickled(path)
        rows = np.asarray(batch.get(b"data", ()))
        labels = np.asarray(batch.get(b"fine_labels" if dataset == "cifar100" else b"labels", ()))
        if rows.ndim != 2 or rows.shape[1] != 3072:
            raise TrainerError(
                f"{path}: data are {rows.dtype} {list(rows.shape)}, expected uint8 [n, 3072] of the python version"
            )
    frames = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return _images(frames, labels, names, path)


class _Plain(pickle.Unpickler):
    """Unpickles arrays, text, numbers, lists and dictionaries; a pickle that names anything else is refused."""

    # numpy's own rebuilding function has moved between versions, so it is taken from where numpy itself has it.
    KNOWN: ClassVar[dict[str, Any]] = {
        "_reconstruct": np.empty(0).__reduce__()[0],
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self.KNOWN:
            return self.KNOWN[name]
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which data have no use for")


def _unpickled(path: Path) -> dict[bytes, Any]:
    try:
        with open(path, "rb") as file:
            found = _Plain(file, encoding="bytes").load()
    except Exception as error:  # of damaged bytes pickle may raise anything
        raise TrainerError(f"{path}: not a batch of the python version ({error})") from error
    if not isinstance(found, dict):
        raise TrainerError(f"{path}: holds a {type(found).__name__}, expected a dictionary")
    return found


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise TrainerError(f"{path}: not a readable .npz without pickled objects ({error})") from error


def _of_npz(path: Path, names: Sequence[str] = (), needed: Sequence[str] = ()) -> Images:
    """names: of the classes; empty: those in the file. needed: arrays beside `images` and `labels`."""
    arrays = _npz(path)
    wanted = ["images", "labels", *needed, *([] if names else ["class_names"])]
    if missing := [name for name in wanted if name not in arrays]:
        raise TrainerError(f"{path}: got arrays {sorted(arrays)}, missing {missing}")
    known = names or [str(name) for name in arrays["class_names"]]
    clips = arrays["clips"] if "clips" in needed else None
    if clips is not None and (clips.shape != arrays["labels"].shape or clips.dtype.kind not in "iu"):
        raise TrainerError(
            f"{path}: clips are {clips.dtype} {list(clips.shape)}, expected an integer a frame"
        )
    return _images(arrays["images"], arrays["labels"], known, path, clips)


def _pair(folder: Path, *patterns: str) -> list[Path]:
    """The one file of each pattern; nothing where one of them has none, or several."""
    found = [sorted(folder.glob(pattern)) for pattern in patterns]
    return [files[0] for files in found] if all(len(files) == 1 for files in found) else []


def _tiny_imagenet(folder: Path, signs: Signs) -> tuple[Images, Images]:
    annotations = folder / "val" / "val_annotations.txt"
    if files := _pair(folder, "*train*.npz", "*val*.npz"):
        return _of_npz(files[0]), _of_npz(files[1])
    if not (folder / "train").is_dir() or not annotations.is_file():
        raise TrainerError(
            f"{folder}: no train/ or val/val_annotations.txt, expected Tiny ImageNet's own layout, or *train*.npz and *val*.npz"
        )
    names = tuple(sorted(item.name for item in (folder / "train").iterdir() if item.is_dir()))
    number = {name: place for place, name in enumerate(names)}
    train = [
        (path, number[name])
        for name in names
        for path in sorted((folder / "train" / name / "images").glob("*"))
    ]
    lines = [line.split("\t") for line in annotations.read_text(encoding="utf-8").splitlines()]
    if wrong := [line for line in lines if len(line) < 2 or line[1] not in number]:
        raise TrainerError(
            f"{annotations}: {wrong[0]}: expected a file name and one of the {len(names)} classes"
        )
    held_out = [(folder / "val" / "images" / line[0], number[line[1]]) for line in lines]
    return _pictures(train, names, folder, 64), _pictures(held_out, names, folder, 64)


def _gtsrb(folder: Path, signs: Signs) -> tuple[Images, Images]:
    files = _pair(folder, "*train*.npz", "*test*.npz")
    if files:
        tracks, single = _of_npz(files[0], SIGNS, ["clips"]), _of_npz(files[1], SIGNS)
    else:
        tracks, single = _gtsrb_pictures(folder, signs.size)
    numbers = np.unique(tracks.clips)
    held_out = np.random.default_rng(0).permutation(numbers)[round(signs.train_tracks * len(numbers)) :]
    if not len(held_out):
        raise TrainerError(
            f"{folder}: {len(numbers)} tracks, of which none is held out; train on a smaller share"
        )
    held = np.isin(tracks.clips, held_out)
    trained = _images(
        np.concatenate([single.frames, tracks.frames[~held]]),
        np.concatenate([single.labels, tracks.labels[~held]]),
        tracks.class_names,
        folder,
        np.concatenate([single.clips, tracks.clips[~held] + len(single.clips)]),
    )
    return trained, _images(
        tracks.frames[held], tracks.labels[held], tracks.class_names, folder, tracks.clips[held]
    )


def _gtsrb_pictures(folder: Path, size: int) -> tuple[Images, Images]:
    """The training images with their tracks, and the test images."""
    training, listing = folder / "Final_Training" / "Images", sorted(folder.rglob("GT-final_test.csv"))
    if not training.is_dir() or not listing:
        raise TrainerError(
            f"{folder}: no Final_Training/Images or GT-final_test.csv, expected the official training images, test images "
            "and the test images' classes (GT-final_test.csv, a download of its own), or *train*.npz and *test*.npz"
        )
    folders = sorted(item.name for item in training.iterdir() if item.is_dir())
    names = SIGNS if folders == [f"{number:05}" for number in range(len(SIGNS))] else tuple(folders)
    train, clips, tracks = [], [], {}  # type: ignore[var-annotated]
    for label, name in enumerate(folders):
        for path in sorted((training / name).glob("*.ppm")):
            track, _, frame = path.stem.partition("_")
            if not frame:
                raise TrainerError(f"{path}: expected TRACK_FRAME.ppm, such as 00003_00012.ppm")
            train.append((path, label))
            clips.append(tracks.setdefault((name, track), len(tracks)))
    with open(listing[0], encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter=";"))
    if not lines or not {"Filename", "ClassId"} <= set(lines[0]):
        raise TrainerError(f"{listing[0]}: expected a listing with the columns Filename;...;ClassId")
    images = folder / "Final_Test" / "Images"
    test = [(images / line["Filename"], int(line["ClassId"])) for line in lines]
    return _pictures(train, names, folder, size, clips), _pictures(test, names, folder, size)


def _pictures(
    files: Sequence[tuple[Path, int]],
    names: Sequence[str],
    folder: Path,
    size: int,
    clips: Iterable[int] = (),
) -> Images:
    from PIL import Image

    if not files:
        raise TrainerError(f"{folder}: no images where this layout has them")
    frames = np.empty((len(files), size, size, 3), np.uint8)
    for row, (path, _) in enumerate(files):
        picture = open_image(path, "RGB")
        if picture.shape != frames.shape[1:]:
            picture = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
        frames[row] = picture
    return _images(frames, [label for _, label in files], names, folder, list(clips) or None)


LAYOUTS: dict[str, Callable[[Path, Signs], tuple[Images, Images]]] = {
    "cifar10": _cifar("cifar10"),
    "cifar100": _cifar("cifar100"),
    "tiny-imagenet": _tiny_imagenet,
    "gtsrb": _gtsrb,
}
