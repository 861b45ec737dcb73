from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rrise.trainer.data import open_data_source
from rrise.trainer.errors import TrainerError
from tests.trainer.data.pictures import class_folders, picture


def test_numbered_classes_sort_as_numbers(tmp_path: Path) -> None:
    source = open_data_source(class_folders(tmp_path, ("10", "9", "0", "2")))
    assert source.class_names == ("0", "2", "9", "10")
    assert [Path(source.pictures.where(i)).parent.name for i in np.flatnonzero(source.labels == 3)] == [  # type: ignore[arg-type]
        "10"
    ] * 3
    assert open_data_source(class_folders(tmp_path / "x", ("b10", "b9"))).class_names == ("b10", "b9")


def test_official_parts(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", count=4)
    class_folders(tmp_path / "Val", count=2, first=50)
    class_folders(tmp_path / "test", count=1, first=90)
    source = open_data_source(tmp_path)
    assert source.class_names == ("a", "b") and source.held_out is not None
    for number in range(len(source)):
        part = Path(source.pictures.where(number)).parts[-3]
        assert source.held_out[number] == (part != "train")
    assert source.held_out.sum() == 6


def test_a_part_without_a_class_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", ("a", "b"))
    class_folders(tmp_path / "test", ("a",))
    with pytest.raises(TrainerError, match=r"part 'test' has no class \['b'\]"):
        open_data_source(tmp_path)


def test_folders_called_train_and_bus_are_classes(tmp_path: Path) -> None:
    source = open_data_source(class_folders(tmp_path, ("train", "bus")))
    assert source.class_names == ("bus", "train") and source.held_out is None


def test_clips_by_folder_and_by_pattern(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "walk" / "1.png", 1)
    picture(tmp_path / "a" / "walk" / "2.PNG", 2)
    picture(tmp_path / "a" / "00001_00017.png", 3)
    picture(tmp_path / "a" / "00001_00018.png", 4)
    picture(tmp_path / "b" / "00001_00017.png", 5)
    picture(tmp_path / "b" / "odd.png", 6)

    def groups(clips: str) -> list[set[str]]:
        source = open_data_source(tmp_path, clips=clips)
        names = [str(Path(source.pictures.where(i)).relative_to(tmp_path)) for i in range(len(source))]
        return [
            {n for n, c in zip(names, source.clips, strict=True) if c == clip}
            for clip in range(max(source.clips) + 1)
        ]

    walk = {"a/walk/1.png", "a/walk/2.PNG"}
    assert walk in groups("") and len(groups("")) == 5
    joined = groups("{clip}_{frame}")
    # A clip is one of its own class: tracks are numbered anew in each.
    assert {"a/00001_00017.png", "a/00001_00018.png"} in joined and {"b/00001_00017.png"} in joined
    assert {"b/odd.png"} in joined


def test_a_pattern_without_clip_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path)
    with pytest.raises(TrainerError, match=r"\[data\] clips: got '\{track\}_\{frame\}'"):
        open_data_source(tmp_path, clips="{track}_{frame}")
