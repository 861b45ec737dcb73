"""Videos, bags and MCAP files as data: which frames, of which clip, in which split, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrise.trainer.data import open_data_source, workers
from rrise.trainer.data.readers.recorded import Indexes
from rrise.trainer.data.readers.recordings import Recording
from rrise.trainer.data.room import DataRoom
from rrise.trainer.data.settings import DataConfig, PreprocessConfig
from rrise.trainer.data.splits import make_splits
from rrise.trainer.errors import TrainerError
from tests.trainer.data.pictures import picture
from tests.trainer.data.recordings import SIZE, bag, still, video


def levels_of(source) -> list[int]:
    """The red level of every frame."""
    return [round(float(source.pictures.read(number)[..., 0].mean())) for number in range(len(source))]


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_class_folders_of_videos(tmp_path: Path, suffix: str) -> None:
    video(tmp_path / "left" / f"a{suffix}", range(20, 90, 10))
    video(tmp_path / "left" / "b" / f"c{suffix}", range(120, 180, 10))
    video(tmp_path / "right" / f"a{suffix.upper()}", range(200, 250, 10))
    source = open_data_source(tmp_path, every=3)
    assert source.class_names == ("left", "right") and source.file_order
    assert source.labels.tolist() == [0, 0, 0, 0, 0, 1, 1] and source.clips.tolist() == [0, 0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(levels_of(source), [20, 50, 80, 120, 150, 200, 230], atol=6)
    header, read = source.pictures.header(4), source.pictures.read(4)
    assert (header.height, header.width, header.grey) == (*SIZE, False) and read.shape == (*SIZE, 3)
    assert np.abs(read.astype(int) - still(150)).max() <= 8  # red is red, not blue
    assert source.pictures.where(4).endswith(f"c{suffix}, frame 3")


def test_frames_of_a_video_in_any_order_are_those_in_order(tmp_path: Path) -> None:
    video(tmp_path / "a" / "x.mp4", range(20, 220, 10))
    video(tmp_path / "b" / "x.mp4", range(25, 225, 10))
    source = open_data_source(tmp_path)
    frames = [source.pictures.read(number) for number in range(len(source))]
    for number in (30, 7, 7, 12, 39, 0, 25):
        np.testing.assert_array_equal(source.pictures.read(number), frames[number])


@pytest.mark.parametrize("name", ["x.mcap", "x.bag", "ros2"])
def test_class_folders_of_bags(tmp_path: Path, name: str) -> None:
    bag(tmp_path / "left" / name, range(20, 80, 10), encoding="bgr8")
    bag(tmp_path / "right" / name, range(100, 150, 10), topics=("/camera", "/rear"))
    with pytest.raises(TrainerError, match=r"topic: got None, expected one of .*/camera, /rear"):
        open_data_source(tmp_path)
    source = open_data_source(tmp_path, every=2, topic="/camera")
    assert levels_of(source) == [20, 40, 60, 100, 120, 140] and source.clips.tolist() == [0, 0, 0, 1, 1, 1]
    for number, level in ((4, 120), (1, 40), (5, 140), (3, 100)):
        np.testing.assert_array_equal(source.pictures.read(number), still(level))
    with pytest.raises(TrainerError, match=r"topic: got '/front', expected one of the image topics"):
        open_data_source(tmp_path, topic="/front")


def test_a_listing_cuts_recordings_into_labelled_parts(tmp_path: Path) -> None:
    video(tmp_path / "drive.avi", range(0, 200, 10))
    bag(tmp_path / "bags" / "night", range(0, 200, 10))
    text = (
        "path,start,end,label,split\n"
        "drive.avi,0.5,0.8,open,train\n"
        "drive.avi,1.2,,blocked,train\n"
        "bags/night,,0.3,blocked,test\nbags/night,1.0,1.15,open,test\n"
    )
    (tmp_path / "cuts.csv").write_text(text, encoding="utf-8")
    source = open_data_source(tmp_path / "cuts.csv")
    assert source.class_names == ("blocked", "open")
    wanted = [50, 60, 70, *range(120, 200, 10), 0, 10, 20, 100, 110]
    np.testing.assert_allclose(levels_of(source), wanted, atol=3)
    assert source.labels.tolist() == [1] * 3 + [0] * 8 + [0] * 3 + [1] * 2
    # Without a column `clip` all parts of one recording belong together.
    assert source.clips.tolist() == [0] * 11 + [1] * 5
    assert source.held_out is not None and source.held_out.tolist() == [False] * 11 + [True] * 5
    named = (
        text.replace("label,split", "label,split,clip")
        .replace("train", "train,{}")
        .replace("test", "test,{}")
    )
    (tmp_path / "named.csv").write_text(named.format(*"abcd"), encoding="utf-8")
    assert len(set(open_data_source(tmp_path / "named.csv").clips.tolist())) == 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("drive.avi,1,x,a", r"got 'x', expected seconds from the recording's first frame"),
        ("drive.avi,-1,2,a", r"got '-1', expected seconds"),
        ("drive.avi,nan,2,a", r"got 'nan', expected seconds"),
        ("drive.avi,1,1,a", r"the end is not after the start"),
        ("drive.avi,50,60,a", r"no frame from 50 to 60 s; .*drive.avi has 5 frames, the last at 0.40 s"),
        ("gone.avi,0,1,a", r"1 of 2 files are not there, the first .*gone.avi"),
        ("a.png,,,a", r"names images and recordings, expected one kind"),
    ],
)  # fmt: skip
def test_wrong_cuts_say_got_and_expected(tmp_path: Path, row: str, message: str) -> None:
    video(tmp_path / "drive.avi", range(0, 50, 10))
    picture(tmp_path / "a.png")
    (tmp_path / "cuts.csv").write_text(f"path,start,end,label\n{row}\ndrive.avi,0,1,b\n", encoding="utf-8")
    with pytest.raises(TrainerError, match=message):
        open_data_source(tmp_path / "cuts.csv")


def test_start_and_end_of_images_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "cuts.csv").write_text("path,start,label\na.png,1,a\n", encoding="utf-8")
    with pytest.raises(TrainerError, match="start and end belong to recordings"):
        open_data_source(tmp_path / "cuts.csv")


def room(folder: Path, source: Path, **settings) -> DataRoom:
    folder.mkdir(exist_ok=True)
    return DataRoom(folder, DataConfig(source=str(source), **settings), PreprocessConfig(), grid=False)


def test_frames_of_one_clip_stay_in_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the whole way of `init`: workers, catalogue, cache and splits."""
    monkeypatch.setattr(workers, "FEW", 10)
    for number in range(12):
        video(tmp_path / "data" / "ab"[number % 2] / f"{number}.avi", range(7 * number, 7 * number + 180, 45))
    for number in range(8):
        bag(tmp_path / "data" / "ab"[number % 2] / f"{number}.mcap", range(number, number + 60, 10))
    made = room(tmp_path / "w", tmp_path / "data", every=2)
    dataset = made.dataset
    assert len(dataset) == 12 * 2 + 8 * 3 and dataset.frames.shape[1:] == (*SIZE, 3)
    splits = make_splits(dataset, {"tuning": 0.15, "calibration": 0.2, "verification": 0.15, "test": 0.15}, 0)
    names = [made.source.pictures.where(int(row)).split(",")[0] for row in made.catalogue.rows]
    homes: dict[str, set[str]] = {}
    for split in ("train", "tuning", "calibration", "verification", "test"):
        for index in splits.indices(split):
            homes.setdefault(names[index], set()).add(split)
    assert len(homes) == 20 and {len(found) for found in homes.values()} == {1}
    # A later command finds the same, reads no bag through, and decodes the very same pixels in any order.
    again = room(tmp_path / "w", tmp_path / "data", every=2)
    assert again.catalogue.content == made.catalogue.content
    chosen = splits.calibration
    np.testing.assert_array_equal(
        np.asarray(again.dataset.take(chosen)), np.asarray(dataset.take(chosen[::-1]))[::-1]
    )
    assert room(tmp_path / "w", tmp_path / "data", every=4).catalogue.content != made.catalogue.content


def test_what_is_known_of_a_bag_is_kept_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(bag(tmp_path / "x.mcap", range(0, 50, 10)))
    first = Indexes(tmp_path / "kept.npz").of(recording)
    monkeypatch.setattr(Recording, "index", lambda self: pytest.fail("read again"))
    kept = Indexes(tmp_path / "kept.npz").of(recording)
    np.testing.assert_array_equal(kept.times, first.times)
    assert kept.header == first.header and kept.times.tolist() == [0, 10**8, 2 * 10**8, 3 * 10**8, 4 * 10**8]
    bag(tmp_path / "x.mcap", range(0, 60, 10))
    with pytest.raises(pytest.fail.Exception, match="read again"):
        Indexes(tmp_path / "kept.npz").of(recording)


def test_grey_bags_are_grey(tmp_path: Path) -> None:
    bag(tmp_path / "data" / "a" / "x.mcap", (10, 20), encoding="mono8")
    bag(tmp_path / "data" / "b" / "x.mcap", (30,), encoding="mono8")
    assert room(tmp_path / "w", tmp_path / "data").preprocess.encoding == "mono8"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    video(tmp_path / "a" / "good.avi", (10, 20, 30))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(TrainerError, match=r"bad.mp4: cannot be opened as a video"):
        open_data_source(tmp_path)
    (tmp_path / "b" / "bad.mp4").unlink()
    (tmp_path / "b" / "bad.mcap").write_bytes(b"no bag")
    with pytest.raises(TrainerError, match=r"MCAP file .*bad.mcap: cannot be read"):
        open_data_source(tmp_path)


def test_a_depth_image_is_refused_with_its_encoding(tmp_path: Path) -> None:
    bag(tmp_path / "a" / "x.mcap", (10, 20), encoding="16UC1")
    bag(tmp_path / "b" / "x.mcap", (10, 20))
    with pytest.raises(TrainerError, match=r"x.mcap, message 0 of /camera: image message: got 16UC1"):
        open_data_source(tmp_path)


def test_a_size_that_changes_is_refused_or_left_out(tmp_path: Path) -> None:
    data = tmp_path / "data"
    bag(data / "a" / "x.mcap", (10, 20, 30), sizes=(32, 32, 16))
    bag(data / "b" / "x.mcap", (40, 50, 60))
    with pytest.raises(TrainerError, match=r"message 2: 16x48 of 3 channels, and the first is 32x48 of 3"):
        _ = room(tmp_path / "w", data).catalogue
    known = room(tmp_path / "v", data, skip_broken=True).catalogue
    assert len(known) == 5 and known.skipped == (f"{data / 'a' / 'x.mcap'}, frame 2",)


def test_a_video_that_ends_early_is_refused_or_its_rest_left_out(tmp_path: Path) -> None:
    """The index of an AVI file survives at its end when the data before it are cut out."""
    path = video(tmp_path / "a" / "x.avi", range(0, 200, 10))
    video(tmp_path / "b" / "x.avi", range(5, 205, 10))
    source = open_data_source(tmp_path)
    pictures: Any = source.pictures
    pictures._indexes[0] = type(pictures._indexes[0])(np.arange(25) * 10**8, pictures.header(0))
    pictures._frame[19] = 24
    with pytest.raises(
        TrainerError, match=rf"{path}: its header promises frame 24, but decoding ends after 20"
    ):
        source.pictures.read(19)
    assert source.pictures.read(5).shape == (*SIZE, 3)  # and what is there can still be read


def test_one_kind_of_data(tmp_path: Path) -> None:
    video(tmp_path / "a" / "x.avi", (1, 2))
    picture(tmp_path / "b" / "x.png")
    with pytest.raises(TrainerError, match=r"got 1 images .* and 1 recordings .* expected one kind"):
        open_data_source(tmp_path)
    with pytest.raises(TrainerError, match="one recording without labels"):
        open_data_source(tmp_path / "a" / "x.avi")
    with pytest.raises(TrainerError, match=r"\[data\] every: got 0, expected 1"):
        (tmp_path / "b" / "x.png").unlink()
        video(tmp_path / "b" / "x.avi", (1, 2))
        open_data_source(tmp_path, every=0)


@pytest.mark.parametrize(
    ("library", "name"), [("cv2", "x.avi"), ("rosbags.highlevel", "x.bag"), ("mcap.reader", "x.mcap")]
)
def test_a_missing_library_is_named_with_the_command(
    tmp_path: Path, library: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TrainerError, match=r"(is|are) not installed: `python -m pip install"):
        open_data_source(tmp_path)
