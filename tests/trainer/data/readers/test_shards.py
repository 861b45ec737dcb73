from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from rrise.trainer.data import load_dataset
from rrise.trainer.errors import TrainerError
from tests.trainer.data.pictures import picture


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def png(tmp_path: Path, level: int) -> bytes:
    return picture(tmp_path / "one.png", level).read_bytes()


def test_shards_in_order_of_names(tmp_path: Path) -> None:
    first = {"0.png": png(tmp_path, 1), "0.cls": b"1", "sub/1.PNG": png(tmp_path, 2), "sub/1.cls": b"0\n"}
    second = {
        "0.png": png(tmp_path, 3),
        "0.json": json.dumps({"label": 1, "clip": "c"}).encode(),
        "0.txt": b"?",
    }
    shard(tmp_path / "s" / "train-000.tar", first)
    shard(tmp_path / "s" / "val-000.tar", second)
    (tmp_path / "s" / "classes.txt").write_text("stop\ngo\n")
    dataset = load_dataset(tmp_path / "s")
    assert dataset.class_names == ("stop", "go") and dataset.labels.tolist() == [1, 0, 1]
    assert dataset.held_out is not None and dataset.held_out.tolist() == [False, False, True]
    assert np.asarray(dataset.frames)[:, 0, 0, 0].tolist() == [1, 2, 3]


def test_a_sample_without_a_class_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "x.tar", {"7.png": png(tmp_path, 1)})
    with pytest.raises(TrainerError, match=r"key '7' has no class, got \['png'\]"):
        load_dataset(tmp_path / "x.tar")


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(TrainerError, match=r"x.tar: cannot be read as a shard"):
        load_dataset(tmp_path / "x.tar")
