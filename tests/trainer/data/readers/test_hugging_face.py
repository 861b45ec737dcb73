from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rrise.trainer.data import load_dataset
from rrise.trainer.errors import TrainerError
from tests.trainer.data.pictures import picture


def test_a_saved_data_set_with_parts(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the package datasets: pip install datasets")
    paths = [str(picture(tmp_path / f"{n}.png", n)) for n in range(6)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["stop", "go"]),
            "clip": datasets.Value("string"),
        }
    )

    def part(numbers: list[int]) -> object:
        columns = {
            "image": [paths[n] for n in numbers],
            "label": [n % 2 for n in numbers],
            "clip": [f"c{n // 2}" for n in numbers],
        }
        return datasets.Dataset.from_dict(columns, features=features)

    whole = datasets.DatasetDict({"train": part([0, 1, 2, 3]), "test": part([4, 5])})
    whole.save_to_disk(str(tmp_path / "saved"))
    dataset = load_dataset(tmp_path / "saved")
    assert dataset.class_names == ("stop", "go") and dataset.labels.tolist() == [0, 1] * 3
    assert dataset.clips.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.held_out is not None and dataset.held_out.tolist() == [False] * 4 + [True] * 2
    assert np.asarray(dataset.frames)[:, 0, 0, 0].tolist() == list(range(6))


def test_without_the_package_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(TrainerError, match=r"python -m pip install 'datasets>=2.19'"):
        load_dataset(tmp_path)
