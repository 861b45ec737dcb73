from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrise.trainer.data import Dataset
from rrise.trainer.data.splits import SPLIT_NAMES, Splits, join_groups, make_splits
from rrise.trainer.errors import TrainerError

SIZES = {"tuning": 0.1, "calibration": 0.2, "verification": 0.1, "test": 0.1}


def dataset(contents: list[int], clips: list[int]) -> Dataset:
    """Frames whose bytes are their `contents`."""
    values = np.array(contents, dtype="<u4").view(np.uint8).reshape(len(contents), 2, 2, 1)
    return Dataset(values, np.arange(len(contents)) % 2, ("a", "b"), np.array(clips, np.int64))


def connected(clips: list[int], contents: list[int]) -> list[set[int]]:
    """Components by plain graph search, the independent source."""
    left, found = set(range(len(clips))), []
    while left:
        component, frontier = set(), {min(left)}
        while frontier:
            one = frontier.pop()
            component.add(one)
            frontier |= {
                other
                for other in left - component
                if clips[other] == clips[one] or contents[other] == contents[one]
            }
        left -= component
        found.append(component)
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=20))
def test_groups_are_connected_components(pairs: list[tuple[int, int]]) -> None:
    clips, contents = [list(side) for side in zip(*pairs, strict=True)]
    groups = join_groups(np.array(clips), np.array([str(value).encode() for value in contents]))
    got = {frozenset(np.flatnonzero(groups == group).tolist()) for group in np.unique(groups)}
    assert got == {frozenset(component) for component in connected(clips, contents)}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 60)), min_size=150, max_size=250),
    st.integers(0, 5),
)
def test_nothing_straddles(pairs: list[tuple[int, int]], seed: int) -> None:
    contents, clips = [list(side) for side in zip(*pairs, strict=True)]
    data = dataset(contents, clips)
    try:
        splits = make_splits(data, SIZES, seed)
    except TrainerError as error:
        assert "is empty" in str(error)
        return
    seen_clips: set[int] = set()
    seen_contents: set[int] = set()
    for name in SPLIT_NAMES:
        index = splits.indices(name)
        here_clips, here_contents = {clips[i] for i in index}, [contents[i] for i in index]
        assert len(here_contents) == len(set(here_contents)), "a repeated frame is kept once"
        assert not here_clips & seen_clips and not set(here_contents) & seen_contents
        seen_clips |= here_clips
        seen_contents |= set(here_contents)
    assert seen_contents == set(contents), "every content is in some split"


def test_sizes_of_independent_frames_are_exact() -> None:
    data = dataset(list(range(500)), list(range(500)))
    splits = make_splits(data, {"tuning": 50, "calibration": 0.2, "verification": 60, "test": 40}, 3)
    assert [len(splits.indices(name)) for name in SPLIT_NAMES] == [250, 50, 100, 60, 40]


def test_seed_decides() -> None:
    data = dataset(list(range(300)), list(range(300)))
    one, same, other = (make_splits(data, SIZES, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.calibration, same.calibration)
    assert not np.array_equal(one.calibration, other.calibration)
    assert one.digest("test") == same.digest("test") != other.digest("test")


def test_labels_do_not_move_the_draw() -> None:
    data = dataset(list(range(300)), list(range(300)))
    flipped = Dataset(data.frames, 1 - data.labels, data.class_names, data.clips)
    assert np.array_equal(make_splits(data, SIZES, 0).test, make_splits(flipped, SIZES, 0).test)


def test_too_few_frames() -> None:
    with pytest.raises(TrainerError, match=r"need 895 frames and leave none of 500"):
        make_splits(
            dataset(list(range(500)), list(range(500))),
            {"tuning": 180, "calibration": 300, "verification": 215, "test": 200},
            0,
        )
    with pytest.raises(TrainerError, match="is empty"):
        make_splits(dataset(list(range(100)), [0] * 100), SIZES, 0)


def test_save_and_load_refuse_other_origin(tmp_path: Path) -> None:
    splits = make_splits(dataset(list(range(300)), list(range(300))), SIZES, 0)
    splits.save(tmp_path / "splits.npz", {"data": "abc"})
    back = Splits.load(tmp_path / "splits.npz", {"data": "abc"})
    assert all(np.array_equal(back.indices(name), splits.indices(name)) for name in SPLIT_NAMES)
    with pytest.raises(TrainerError, match=r"other data: got \['abc'\], expected \['xyz'\]"):
        Splits.load(tmp_path / "splits.npz", {"data": "xyz"})


def test_unknown_split_name() -> None:
    splits = make_splits(dataset(list(range(300)), list(range(300))), SIZES, 0)
    with pytest.raises(TrainerError, match="expected one of train, tuning"):
        splits.indices("validation")


def parts(held_out: list[bool], pixels: list[int], clips: list[int] | None = None) -> Dataset:
    """One-pixel frames of two parts."""
    frames = np.array(pixels, np.uint8).reshape(-1, 1, 1, 1)
    own = np.arange(len(frames), dtype=np.int64) if clips is None else np.array(clips, np.int64)
    return Dataset(frames, np.arange(len(frames)) % 2, ("a", "b"), own, np.array(held_out))


def test_held_out_frames_alone_are_drawn_from() -> None:
    data = parts([False] * 100 + [True] * 100, list(range(200)))
    sizes = {"tuning": 20, "calibration": 0.3, "verification": 0.2, "test": 30}
    splits = make_splits(data, sizes, 0)
    assert splits.train.tolist() == list(range(100))
    drawn = [splits.indices(name) for name in SPLIT_NAMES[1:]]
    assert [len(index) for index in drawn] == [20, 30, 20, 30]
    assert sorted(np.concatenate(drawn).tolist()) == list(range(100, 200))
    fewer = make_splits(data, {**sizes, "test": 5}, 0)
    assert len(fewer.test) == 5 and len(fewer.train) == 100
    with pytest.raises(TrainerError, match="need 101 frames, and 100 are held out"):
        make_splits(data, {**sizes, "test": 31}, 0)


def test_a_held_out_frame_that_was_trained_on_is_in_no_split() -> None:
    """Also where only a clip of the train part has frames of it, and where the held-out copy comes first."""
    pixels = [1, *range(50, 90), 1, *range(100, 140)]
    held_out = [True] * 41 + [False] * 41
    clips = list(range(82))
    clips[5] = clips[60]
    splits = make_splits(
        parts(held_out, pixels, clips), {"tuning": 9, "calibration": 10, "verification": 10, "test": 10}, 0
    )
    drawn = np.concatenate([splits.indices(name) for name in SPLIT_NAMES[1:]])
    assert splits.train.tolist() == list(range(41, 82))
    assert not {0, 5} & set(drawn.tolist()) and set(drawn.tolist()) <= set(range(1, 41))


def test_rare_classes_reach_train_and_tuning_and_the_other_splits_ignore_labels() -> None:
    frames = np.arange(300, dtype=np.int64)
    pixels = np.stack([frames % 256, frames // 256], axis=1).astype(np.uint8).reshape(-1, 2, 1, 1)
    labels = np.zeros(300, np.int64)
    labels[290:] = 1
    for seed in range(30):
        plain = make_splits(Dataset(pixels, np.arange(300) % 2, ("a", "b"), frames), SIZES, seed)
        rare = make_splits(Dataset(pixels, labels, ("a", "b"), frames), SIZES, seed)
        for name in ("calibration", "verification", "test"):
            assert np.array_equal(plain.indices(name), rare.indices(name))
        assert len(rare.tuning) == len(plain.tuning)
        left = (labels[rare.train] == 1).sum(), (labels[rare.tuning] == 1).sum()
        assert left[0] > 0 and (left[1] > 0 or sum(left) == 1)
