"""The data of a workspace: read once, exact, bound to what they were made from."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rrise.calibration.storage.digests import frame_digests
from rrise.trainer.data import load_dataset
from rrise.trainer.data.catalogue import Catalogue
from rrise.trainer.data.readers import pictures
from rrise.trainer.data.room import DataRoom
from rrise.trainer.data.settings import DataConfig, PreprocessConfig
from rrise.trainer.errors import TrainerError
from tests.trainer.data.pictures import class_folders, picture

HALF = PreprocessConfig(size=(3, 4))


def room(root: Path, preprocess: PreprocessConfig = HALF, **data: object) -> DataRoom:
    (root / "w").mkdir(exist_ok=True)
    return DataRoom(root / "w", DataConfig(source="../data", **data), preprocess, grid=False)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    class_folders(tmp_path / "data", count=5)
    return tmp_path


@pytest.mark.parametrize(
    "preprocess", [HALF, PreprocessConfig(crop=(1, 2, 4, 5))], ids=["resized", "cropped"]
)
def test_inputs_are_exactly_the_preprocessed_frames(root: Path, preprocess: PreprocessConfig) -> None:
    made, index = room(root, preprocess), np.array([7, 0, 7])
    frames = load_dataset(root / "data").frames
    got = made.inputs(index)[torch.arange(3)]
    expected = torch.cat([made.preprocess(torch.from_numpy(frames[[n]])) for n in index])
    assert torch.equal(got, expected) and got.dtype == torch.float32
    assert made.dataset.digests.tolist() == frame_digests(frames).tolist()  # type: ignore[arg-type]


def test_no_image_is_read_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = room(root)
    before = first.inputs(np.arange(10))[torch.arange(10)]
    monkeypatch.setattr(pictures, "open_image", None)
    monkeypatch.setattr(pictures, "image_info", None)
    again = room(root)
    assert again.catalogue.content == first.catalogue.content
    assert torch.equal(again.inputs(np.arange(10))[torch.arange(10)], before)


def test_without_the_images_later_commands_go_on(root: Path) -> None:
    content = room(root).catalogue.content
    room(root).inputs(np.arange(2))
    (root / "data").rename(root / "elsewhere")
    gone = room(root)
    assert gone.catalogue.content == content and len(gone.dataset) == 10
    assert gone.inputs(np.arange(10))[torch.arange(10)].shape == (10, 3, 3, 4)
    with pytest.raises(TrainerError, match="are gone, and this command needs frame 4"):
        gone.dataset.take(np.array([4]))[:]


@pytest.mark.parametrize(
    ("name", "value"), [("source", "../dta"), ("clips", "{clip}_{frame}"), ("camera", (9, 9))]
)
def test_a_misspelt_source_is_not_the_one_that_was_read(root: Path, name: str, value: object) -> None:
    assert room(root).catalogue.content
    (root / "data").rename(root / "elsewhere")
    asked = DataConfig(**{"source": "../data", name: value})  # type: ignore[arg-type]
    with pytest.raises(
        TrainerError, match=rf"\[data\] {name}: got .*with which the frames of this workspace were read"
    ):
        _ = DataRoom(root / "w", asked, HALF, grid=False).catalogue
    with pytest.raises(TrainerError, match=r"\[preprocess\] encoding"):
        _ = room(root, PreprocessConfig(size=(3, 4), encoding="bgr8")).catalogue


def test_a_catalogue_without_its_settings_still_holds(root: Path) -> None:
    """As older versions wrote it."""
    path = root / "w" / "cache" / "catalogue.npz"
    content = room(root).catalogue.content
    known = Catalogue.load(path)
    assert known is not None and known.asked["source"] == "../data"
    replace(known, asked={}).save(path)
    (root / "data").rename(root / "elsewhere")
    assert room(root).catalogue.content == content


def test_another_size_is_preprocessed_anew(root: Path) -> None:
    room(root).inputs(np.arange(10))
    other = room(root, PreprocessConfig(size=(2, 2)))
    assert other.inputs(np.arange(10))[torch.arange(10)].shape == (10, 3, 2, 2)


def test_a_changed_image_changes_the_content(root: Path) -> None:
    made = room(root)
    content, frames = made.catalogue.content, made.dataset.frames
    picture(root / "data" / "a" / "0.png", 77)
    os.utime(root / "data" / "a" / "0.png", ns=(1, 1))
    with pytest.raises(TrainerError, match="its pixels are not those that were there"):
        frames[0]
    assert room(root).catalogue.content != content


def test_damaged_rows_are_found(root: Path) -> None:
    room(root).inputs(np.arange(10))
    path = root / "w" / "cache" / "inputs.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    inputs = room(root).inputs(np.arange(10))
    inputs[torch.arange(9)]
    with pytest.raises(TrainerError, match="row 9 is damaged; remove this file"):
        inputs[torch.tensor([9])]


def test_broken_images_are_named_or_left_out(root: Path) -> None:
    (root / "data" / "a" / "1.png").write_bytes(b"no image")
    data = (root / "data" / "b" / "2.png").read_bytes()
    (root / "data" / "b" / "2.png").write_bytes(data[:50])
    with pytest.raises(TrainerError, match=r"a/1.png: unreadable image .*--skip-broken"):
        _ = room(root).catalogue
    made = room(root, skip_broken=True)
    assert [Path(name).name for name in made.catalogue.skipped] == ["1.png", "2.png"]
    assert made.catalogue.labels.tolist() == [0] * 4 + [1] * 4
    assert room(root, skip_broken=True).catalogue.skipped == made.catalogue.skipped
    frames = np.asarray(made.dataset.frames)
    assert frame_digests(frames).tolist() == made.dataset.digests.tolist()
    assert made.inputs(np.arange(8))[torch.tensor([7])].shape == (1, 3, 3, 4)


def test_pictures_of_several_sizes_go_through_the_camera(root: Path) -> None:
    Image.fromarray(np.full((30, 40, 3), 50, np.uint8)).save(root / "data" / "a" / "big.png")
    with pytest.raises(TrainerError, match=r"mixed image sizes \(2 of them\).* --camera 640x480"):
        _ = room(root).geometry
    made = room(root, camera=(6, 8))
    assert made.dataset.frames.shape == (11, 6, 8, 3)
    assert (made.dataset.frames[5] == 50).all()
    assert (made.dataset.frames[0] == load_dataset(root / "data", camera=(6, 8)).frames[0]).all()


def test_a_picture_of_another_shape_is_cut_at_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 200
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(wide // (1 + (name == "b"))).save(tmp_path / "data" / name / "x.png")
    frames = room(tmp_path, PreprocessConfig(), camera=(10, 10)).dataset.frames
    assert frames.shape == (2, 10, 10, 3)
    assert (frames[0] == 200).all() and (frames[1] == 100).all()


def test_bgr_cameras_get_bgr_frames_and_the_network_rgb(root: Path) -> None:
    Image.new("RGB", (8, 6), (10, 20, 30)).save(root / "data" / "a" / "0.png")
    made = room(root, PreprocessConfig(encoding="bgr8"))
    assert made.dataset.frames[0][0, 0].tolist() == [30, 20, 10]
    assert (made.inputs(np.array([0]))[torch.tensor([0])][0, :, 0, 0] * 255).round().tolist() == [10, 20, 30]


def test_many_images_are_read_by_workers(tmp_path: Path) -> None:
    class_folders(tmp_path / "data", ("a", "b", "c"), count=90)
    (tmp_path / "data" / "b" / "0.png").write_bytes(b"broken")
    made = room(tmp_path, skip_broken=True)
    frames = np.asarray(made.dataset.frames)
    assert len(frames) == 269 and made.catalogue.skipped[0].endswith("b/0.png")
    expected = torch.cat([made.preprocess(torch.from_numpy(frames[[n]])) for n in (0, 268)])
    assert torch.equal(made.inputs(np.array([0, 268]))[torch.arange(2)], expected)


def test_held_out_data_are_joined(root: Path) -> None:
    class_folders(root / "new", ("a", "b"), count=2, first=100)
    made = room(root, held_out="../new")
    assert (
        made.catalogue.held_out is not None and made.catalogue.held_out.tolist() == [False] * 10 + [True] * 4
    )
    assert made.catalogue.labels[-4:].tolist() == [0, 0, 1, 1] and len(np.unique(made.catalogue.clips)) == 14
    class_folders(root / "odd", ("a", "z"))
    with pytest.raises(TrainerError, match=r"classes \['z'\] of the held-out data"):
        _ = room(root, held_out="../odd").catalogue


def test_a_full_disk_is_told_before_anything_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(TrainerError, match="GiB are free; make room"):
        _ = room(root).catalogue
