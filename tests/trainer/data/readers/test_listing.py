from __future__ import annotations

import json
from pathlib import Path

import pytest

from rrise.trainer.data import load_dataset, open_data_source
from rrise.trainer.errors import TrainerError
from tests.trainer.data.pictures import picture


def listing(root: Path, text: str, name: str = "frames.csv") -> Path:
    for number in range(4):
        picture(root / "images" / f"{number}.png", number)
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def test_csv_with_clips_and_splits(tmp_path: Path) -> None:
    rows = ["path,label,clip,split"]
    rows += [
        f"images/{n}.png,{'cat' if n % 2 else 'dog'},clip{n // 2},{'train' if n < 2 else 'test'}"
        for n in range(4)
    ]
    source = open_data_source(listing(tmp_path, "\ufeff" + "\n".join(rows)))
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [1, 0, 1, 0]
    assert source.clips.tolist() == [0, 0, 1, 1]
    assert source.held_out is not None and source.held_out.tolist() == [False, False, True, True]


def test_json_lines_with_numbers_as_labels(tmp_path: Path) -> None:
    rows = [json.dumps({"path": f"images/{n}.png", "label": 10 if n else 9}) for n in range(4)]
    dataset = load_dataset(listing(tmp_path, "\n".join(rows) + "\n\n", "frames.jsonl"))
    assert dataset.class_names == ("9", "10") and dataset.labels.tolist() == [0, 1, 1, 1]
    assert dataset.frames.shape == (4, 6, 8, 3) and dataset.held_out is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\nimages/0.png,a", r"column 'class', expected path, label, clip, split"),
        ("path,lable\nimages/0.png,a", r"column 'lable'.* Did you mean 'label'"),
        ("path\nimages/0.png", r"\['label'\] missing"),
        ("path,label\n", "no rows"),
        ("path,label\nimages/9.png,a", r"1 of 1 files are not there, the first .*images/9.png"),
        ("path,label\nimages/0.png,", "line 2: got no label"),
        ("path,label\nimages/0.png,a,b", "more fields than the header"),
        ("path,label,split\nimages/0.png,a,train\nimages/1.png,b,", "1 of 2 rows have no split"),
        ("path,label,split\nimages/0.png,a,train\nimages/1.png,b,tuning", "split 'tuning', expected train"),
    ],
)
def test_wrong_listings_say_got_and_expected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        open_data_source(listing(tmp_path, text))


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="line 2: not JSON"):
        open_data_source(listing(tmp_path, '{"path": "images/0.png", "label": "a"}\n{"path"', "x.jsonl"))
