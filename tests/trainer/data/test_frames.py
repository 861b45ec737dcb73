from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rrise.trainer.data import Dataset, load_dataset
from rrise.trainer.errors import TrainerError


def npz(path: Path, **arrays: Any) -> Path:
    good: dict[str, Any] = {
        "images": np.zeros((4, 6, 5, 3), np.uint8),
        "labels": np.array([0, 1, 1, 0]),
        "class_names": np.array(["cat", "dog"]),
    }
    np.savez(path, **{key: value for key, value in {**good, **arrays}.items() if value is not None})
    return path


def folder(root: Path, **sizes: tuple[str, tuple[int, int]]) -> Path:
    """One image per class: mode and (width, height)."""
    for name, (mode, size) in sizes.items():
        (root / name).mkdir(parents=True)
        Image.new(mode, size, 200).save(root / name / "a.png")
    return root


def test_digits_are_scaled_exactly() -> None:
    from sklearn.datasets import load_digits

    dataset, levels = load_dataset("digits"), load_digits().images
    assert dataset.frames.shape == (1797, 8, 8, 1) and dataset.frames.dtype == np.uint8
    for level in range(17):
        values = np.unique(dataset.frames[..., 0][levels == level])
        assert len(values) == 1 and abs(float(values[0]) - level * 255 / 16) <= 0.5
    assert dataset.frames.min() == 0 and dataset.frames.max() == 255  # type: ignore[union-attr]


@pytest.mark.parametrize("moved", [False, True])
def test_digits_are_those_of_scikit_learn_which_is_not_imported(
    moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is read; only where that is no longer in its place is the library asked, which takes seconds to import."""
    from sklearn.datasets import load_digits

    expected = load_digits()
    if moved:
        nowhere = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
        monkeypatch.setattr("rrise.trainer.data.readers.digits.importlib", nowhere)
    else:
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits = load_dataset("digits")
    assert np.array_equal(digits.labels, expected.target)
    assert digits.class_names == tuple(map(str, expected.target_names))
    levels = np.round(np.asarray(digits.frames)[..., 0].astype(float) * 16 / 255)
    assert np.array_equal(levels, expected.images)


def test_npz_of_grey_images_gets_a_channel(tmp_path: Path) -> None:
    frames = np.arange(4 * 30, dtype=np.uint8).reshape(4, 6, 5)
    dataset = load_dataset(npz(tmp_path / "x.npz", images=frames, clips=np.array([7, 7, 8, 9])))
    assert np.array_equal(dataset.frames[..., 0], frames)
    assert dataset.clips.tolist() == [7, 7, 8, 9]
    assert dataset.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((4, 6, 5, 3), np.float32)}, r"float32 \[4, 6, 5, 3\], expected uint8"),
        ({"images": np.zeros((4, 6, 5, 2), np.uint8)}, r"\[4, 6, 5, 2\], expected uint8 \[n, H, W, 3\]"),
        ({"images": np.zeros((4, 6), np.uint8)}, r"uint8 \[4, 6\]; expected arrays 'images'"),
        ({"images": np.array(7)}, r"int64 \[\]; expected arrays 'images'"),
        ({"images": None}, r"got arrays \['class_names', 'labels'\], missing \['images'\]"),
        ({"images": np.zeros((0, 6, 5, 3), np.uint8), "labels": np.zeros(0, int)}, "no frame"),
        ({"labels": np.array([0, 1, 2, 0])}, r"label 2 of frame 2: expected 0\.\.1"),
        ({"labels": np.array([0, -1, 1, 0])}, "label -1 of frame 1"),
        ({"labels": np.array([0, 1])}, r"expected \[4\]"),
        ({"labels": np.array([0.0, 1.0, 0.0, 1.0])}, "float64, expected integers"),
        ({"labels": None}, r"missing \['labels'\]"),
        ({"class_names": np.array(["cat", "cat"])}, "two different names"),
        ({"class_names": np.array(["cat", "dog"], dtype=object)}, "without pickled objects"),
        ({"clips": np.array([1, 2])}, "one clip number per frame"),
    ],
)
def test_bad_npz_says_got_and_expected(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        load_dataset(npz(tmp_path / "x.npz", **arrays))


def test_npz_may_call_its_images_frames(tmp_path: Path) -> None:
    frames = np.full((4, 6, 5, 3), 9, np.uint8)
    assert np.array_equal(load_dataset(npz(tmp_path / "x.npz", images=None, frames=frames)).frames, frames)


def test_damaged_npz(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainerError, match=r"not an .npz file, or a damaged one; expected arrays 'images'"):
        load_dataset(path)
    data = bytearray(npz(path).read_bytes())
    data[60] ^= 1  # in the header of the first array
    path.write_bytes(data)
    with pytest.raises(TrainerError, match=r"not a readable .npz"):
        load_dataset(path)


def test_another_file_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 6, 5, 3), np.uint8))
    with pytest.raises(TrainerError, match=r"x.npy: not an .npz file"):
        load_dataset(tmp_path / "x.npy")


def test_class_names_may_be_bytes(tmp_path: Path) -> None:
    names = np.array(["Café".encode(), b"dog"])
    assert load_dataset(npz(tmp_path / "x.npz", class_names=names)).class_names == ("Café", "dog")


def test_folder_classes_in_order_and_rgb(tmp_path: Path) -> None:
    root = folder(tmp_path, b=("RGB", (5, 6)), a=("RGB", (5, 6)))
    Image.new("RGB", (5, 6), (10, 20, 30)).save(root / "a" / "a.png")
    dataset = load_dataset(root)
    assert dataset.class_names == ("a", "b") and dataset.labels.tolist() == [0, 1]
    assert dataset.frames.shape == (2, 6, 5, 3)
    assert dataset.frames[0, 0, 0].tolist() == [10, 20, 30]
    assert load_dataset(root, reverse_colours=True).frames[0, 0, 0].tolist() == [30, 20, 10]


def test_folder_of_grey_images_keeps_one_channel(tmp_path: Path) -> None:
    assert load_dataset(folder(tmp_path, a=("L", (5, 6)), b=("L", (5, 6)))).frames.shape == (2, 6, 5, 1)


def test_folder_that_mixes_grey_and_colour_becomes_colour(tmp_path: Path) -> None:
    dataset = load_dataset(folder(tmp_path, a=("L", (5, 6)), b=("RGB", (5, 6))))
    assert dataset.frames.shape == (2, 6, 5, 3)
    assert dataset.frames[0, 0, 0].tolist() == [200, 200, 200]


def test_mixed_sizes_name_both_files(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"a/a.png is 6x5, .*b/a.png is 8x5"):
        load_dataset(folder(tmp_path, a=("RGB", (5, 6)), b=("RGB", (5, 8))))


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path, a=("RGB", (5, 6)), b=("RGB", (5, 6)))
    (root / "b" / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(TrainerError, match=r"broken.jpg: unreadable image"):
        load_dataset(root)


def test_truncated_image_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path, a=("RGB", (5, 6)), b=("RGB", (50, 60)))
    data = (root / "b" / "a.png").read_bytes()
    (root / "b" / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(TrainerError, match=r"b/a.png"):
        load_dataset(root)


def test_sixteen_bit_images_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, a=("RGB", (5, 6)), b=("I;16", (5, 6)))
    with pytest.raises(TrainerError, match="expected 8 bits of grey or RGB"):
        load_dataset(root)


def test_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="no sub-folders"):
        load_dataset(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(TrainerError, match=r"a: got no images"):
        load_dataset(tmp_path)


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="no such file or folder"):
        load_dataset(tmp_path / "nowhere")


def test_dataset_checks_itself() -> None:
    with pytest.raises(TrainerError, match="expected int64"):
        Dataset(np.zeros((2, 3, 3, 1), np.uint8), np.array([0, 1]), ("a", "b"), np.zeros(2, np.int32))
