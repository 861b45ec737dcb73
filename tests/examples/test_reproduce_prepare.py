"""Official layouts, made up on the spot, and what is refused of them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from examples.reproduce.__main__ import main
from examples.reproduce.prepare import CIFAR10, Signs, prepare
from rrise.trainer.data.readers.arrays import open_npz
from rrise.trainer.errors import TrainerError
from rrise.trainer.settings.config import parse_config
from rrise.trainer.workspace import Workspace

RANDOM = np.random.default_rng(0)
TRAIN, TEST = (RANDOM.integers(0, 256, (count, 32, 32, 3), np.uint8) for count in (5, 6))
TRAIN_LABELS, TEST_LABELS = np.array([0, 9, 3, 3, 1]), np.array([2, 0, 9, 2, 0, 9])


def rows_of(frames: np.ndarray) -> np.ndarray:
    """As the official versions store them: red, green and blue planes one after another."""
    return frames.transpose(0, 3, 1, 2).reshape(len(frames), 3072)


def binary(folder: Path, coarse: bool = False) -> None:
    names = ("train.bin", "test.bin") if coarse else ("data_batch_1.bin", "test_batch.bin")
    for name, frames, labels in zip(names, (TRAIN, TEST), (TRAIN_LABELS, TEST_LABELS)):
        records = [
            bytes([0] * coarse + [label]) + row.tobytes() for label, row in zip(labels, rows_of(frames))
        ]
        (folder / name).write_bytes(b"".join(records))


def python_version(folder: Path, coarse: bool = False) -> None:
    key = b"fine_labels" if coarse else b"labels"
    names = ("train", "test") if coarse else ("data_batch_1", "test_batch")
    for name, frames, labels in zip(names, (TRAIN, TEST), (TRAIN_LABELS, TEST_LABELS)):
        batch = {b"data": rows_of(frames), key: labels.tolist(), b"batch_label": b"made up"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    if not coarse:
        meta = {b"label_names": [name.encode() for name in CIFAR10], b"num_vis": 3072}
        (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def arrays(folder: Path) -> None:
    for name, frames, labels in zip(("train", "test"), (TRAIN, TEST), (TRAIN_LABELS, TEST_LABELS)):
        np.savez(folder / f"cifar_{name}.npz", images=frames, labels=labels)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("write", [binary, python_version, arrays])
def test_cifar_is_read_from_every_layout(tmp_path: Path, write: object, dataset: str) -> None:
    write(tmp_path, **({} if write is arrays else {"coarse": dataset == "cifar100"}))  # type: ignore[operator]
    target = tmp_path / "out" / "cifar.npz"
    done = CliRunner().invoke(main, ["prepare", dataset, str(tmp_path), str(target)])
    assert done.exit_code == 0 and "unknown copy" in done.output, done.output
    source = open_npz(target)
    assert (np.array([source.pictures.read(row) for row in range(11)]) == np.concatenate([TRAIN, TEST])).all()
    assert source.labels.tolist() == [*TRAIN_LABELS, *TEST_LABELS]
    assert source.held_out.tolist() == [False] * 5 + [True] * 6 and len(set(source.clips.tolist())) == 11
    assert len(source.class_names) == int(dataset[5:]) and source.class_names[3] in ("cat", "3")


def test_what_the_trainer_makes_of_it(tmp_path: Path) -> None:
    binary(tmp_path)
    prepare("cifar10", tmp_path, tmp_path / "cifar.npz")
    splits = {"tuning": 1, "calibration": 2, "verification": 1, "test": 2}
    config = parse_config({"data": {"source": str(tmp_path / "cifar.npz")}, "splits": splits})
    drawn = Workspace.create(tmp_path / "w", config).foretold_splits()
    assert sorted(drawn.train) == [0, 1, 2, 3, 4] and min(drawn.calibration.min(), drawn.test.min()) >= 5
    assert len(drawn.calibration) == 2


class Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('pwned', 'w')",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    python_version(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Dangerous()}))
    with pytest.raises(TrainerError, match=r"test_batch: .*builtins\.eval"):
        prepare("cifar10", tmp_path, tmp_path / "cifar.npz")
    assert not (tmp_path / "pwned").exists() and not (tmp_path / "cifar.npz").exists()


def test_what_does_not_fit_cifar_is_refused_by_name(tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    with pytest.raises(TrainerError, match="no such folder"):
        prepare("cifar10", tmp_path / "nowhere", target)
    with pytest.raises(TrainerError, match="no train images of cifar10"):
        prepare("cifar10", tmp_path, target)
    binary(tmp_path)
    content = (tmp_path / "test_batch.bin").read_bytes()
    for changed, why in (
        (content[:-1], "not whole records"),
        (bytes([10]) + content[1:], "labels from 0 to 10, expected 0 to 9"),
        (b"", "not whole records"),
    ):
        (tmp_path / "test_batch.bin").write_bytes(changed)
        with pytest.raises(TrainerError, match=why):
            prepare("cifar10", tmp_path, target)
    (tmp_path / "test_batch.bin").unlink()
    np.savez(tmp_path / "test.npz", images=np.array([{"a": 1}], object), labels=np.zeros(1, int))
    with pytest.raises(TrainerError, match="pickle"):
        prepare("cifar10", tmp_path, target)
    (tmp_path / "test.npz").unlink()
    (tmp_path / "test_batch").write_bytes(b"\x80\x02garbage")
    with pytest.raises(TrainerError, match="not a batch of the python version"):
        prepare("cifar10", tmp_path, target)
    assert not target.exists()


def tiny_imagenet(folder: Path) -> None:
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for number, name in enumerate(("n01", "n02")):
        images = folder / "train" / name / "images"
        images.mkdir(parents=True)
        picture = Image.fromarray(np.full((64, 64, 3), 100 * number, np.uint8))
        picture.save(images / f"{name}_0.JPEG")
        picture.save(folder / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t62\t62")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines[::-1]))


def test_tiny_imagenet_is_read_in_its_own_layout(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="Tiny ImageNet's own layout"):
        prepare("tiny-imagenet", tmp_path, tmp_path / "out.npz")
    tiny_imagenet(tmp_path)
    found = prepare("tiny-imagenet", tmp_path, tmp_path / "out.npz")
    assert found["train"].labels.tolist() == [0, 1] and found["test"].labels.tolist() == [1, 0]
    assert found["train"].frames.shape == (2, 64, 64, 3) and found["test"].class_names == ("n01", "n02")
    assert found["test"].frames[0].mean() == pytest.approx(100, abs=2)
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn03\t0\t0\t0\t0")
    with pytest.raises(TrainerError, match="n03"):
        prepare("tiny-imagenet", tmp_path, tmp_path / "out.npz")
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t0\t0\t0")
    picture = tmp_path / "val" / "images" / "val_0.JPEG"
    picture.write_bytes(picture.read_bytes()[:-40])
    done = CliRunner().invoke(main, ["prepare", "tiny-imagenet", str(tmp_path), str(tmp_path / "out.npz")])
    assert done.exit_code == 2 and "val_0.JPEG" in done.output


def gtsrb(folder: Path) -> None:
    for sign in ("00000", "00001"):
        images = folder / "Final_Training" / "Images" / sign
        images.mkdir(parents=True)
        for number, (track, frame) in enumerate([(0, 0), (0, 1), (1, 0)]):
            picture = np.full((20 + number, 24, 3), 50 * int(sign) + 10 * number, np.uint8)
            Image.fromarray(picture).save(images / f"{track:05}_{frame:05}.ppm")
    (folder / "Final_Test" / "Images").mkdir(parents=True)
    for number in range(2):
        Image.fromarray(np.full((9, 30, 3), 200, np.uint8)).save(
            folder / "Final_Test" / "Images" / f"{number:05}.ppm"
        )
    text = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    text += "00000.ppm;30;9;0;0;29;8;1\n00001.ppm;30;9;0;0;29;8;0\n"
    (folder / "GT-final_test.csv").write_text(text)


def test_traffic_signs_keep_their_tracks(tmp_path: Path) -> None:
    """The official test images, whose tracks nobody knows, are trained on; no track is on both sides."""
    gtsrb(tmp_path)
    options = ["--size", "16", "--train-tracks", "0.5"]
    done = CliRunner().invoke(main, ["prepare", "gtsrb", str(tmp_path), str(tmp_path / "out.npz"), *options])
    assert done.exit_code == 0 and "held out" in done.output, done.output
    with np.load(tmp_path / "out.npz") as found:
        held = found["held_out"]
        assert found["images"].shape == (8, 16, 16, 3)
        assert found["labels"][:2].tolist() == [1, 0] and (found["images"][:2] == 200).all()
        assert not held[:2].any() and len(np.unique(found["clips"][held])) == 2
        assert not set(found["clips"][held]) & set(found["clips"][~held])
        for clip in np.unique(
            found["clips"][2:]
        ):  # the two frames of a track have numbers 0 and 1, so values 0 and 10
            mine = found["images"][found["clips"] == clip].mean((1, 2, 3)) % 50
            assert sorted(mine.tolist()) in ([0, 10], [20])
    (tmp_path / "GT-final_test.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TrainerError, match="Filename"):
        prepare("gtsrb", tmp_path, tmp_path / "out.npz")
    (tmp_path / "GT-final_test.csv").unlink()
    with pytest.raises(TrainerError, match=r"GT-final_test\.csv"):
        prepare("gtsrb", tmp_path, tmp_path / "out.npz")
    for option, value in (("--size", "2"), ("--train-tracks", "1")):
        done = CliRunner().invoke(main, ["prepare", "gtsrb", str(tmp_path), "x.npz", option, value])
        assert done.exit_code == 2 and option in done.output


def test_traffic_signs_and_tiny_imagenet_are_read_from_arrays(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 8, 8, 3), np.uint8)
    labels, clips = np.arange(40) // 4 % 43, np.arange(40) // 4
    (tmp_path / "signs").mkdir()
    np.savez(tmp_path / "signs" / "g_test.npz", images=images[:3], labels=[42, 0, 1])
    np.savez(tmp_path / "signs" / "g_train.npz", images=images, labels=labels)
    with pytest.raises(TrainerError, match=r"missing.*clips"):
        prepare("gtsrb", tmp_path / "signs", tmp_path / "out.npz")
    np.savez(tmp_path / "signs" / "g_train.npz", images=images, labels=labels, clips=clips)
    found = prepare("gtsrb", tmp_path / "signs", tmp_path / "out.npz", Signs(train_tracks=0.3))
    assert len(found["train"].labels) == 3 + 3 * 4 and len(np.unique(found["test"].clips)) == 7
    assert found["test"].class_names[14] == "stop" and len(found["test"].class_names) == 43
    again = prepare("gtsrb", tmp_path / "signs", tmp_path / "again.npz", Signs(train_tracks=0.3))
    assert (again["test"].frames == found["test"].frames).all()
    (tmp_path / "tiny").mkdir()
    for name, part in (("train", slice(0, 30)), ("val", slice(30, 40))):
        names = np.array([f"n{number}" for number in range(10)])
        np.savez(
            tmp_path / "tiny" / f"{name}.npz", images=images[part], labels=labels[part], class_names=names
        )
    found = prepare("tiny-imagenet", tmp_path / "tiny", tmp_path / "out.npz")
    assert (found["test"].frames == images[30:]).all() and found["train"].class_names[9] == "n9"
