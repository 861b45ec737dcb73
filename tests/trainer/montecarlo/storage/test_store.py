"""CountStore: what it keeps, what it refuses, and that a refusal costs nothing."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from rrise.calibration.storage.digests import frame_digests
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import CountStore, sample_counts


def some_counts(rows: int = 64) -> np.ndarray:
    return np.tile(np.array([[4, 6, 10]], dtype=np.uint32), (rows, 1))


def test_counts_and_samples_are_plain_zarr_arrays(make_store):
    store = make_store()
    store.write(0, some_counts())
    group: Any = zarr.open_group(store.path, mode="r")["train"]
    assert group["counts"].dtype == np.uint32 and group["counts"].shape == (70, 3)
    assert group["samples"].dtype == np.uint32
    np.testing.assert_array_equal(group["samples"][:], [20] * 64 + [0] * 6)
    np.testing.assert_array_equal(store.samples(), group["samples"][:])
    assert group.attrs["sigma"] == 0.5 and group.attrs["seed"] == 11 and group.attrs["sample_block"] == 10
    assert bytes(group["digests"][3]) == store.digests[3]


def test_reopening_finds_the_counts(make_store):
    make_store().write(64, some_counts(6))
    again = make_store(sample_block=None)
    assert again.identity.sample_block == 10
    np.testing.assert_array_equal(again.counts()[64:], some_counts(6))
    assert again.missing(30) == 64 * 30 + 6 * 10


def test_plans_may_change_until_the_first_draw(make_store):
    """Who looks at the forecast, stops and edits the settings has seen no count."""
    store = make_store()
    store.plans.fix_looks(1, 20)
    store.plans.fix_refinement(20, 0)
    store.plans.fix_refinement(20, 60)
    store.plans.fix_refinement(10, 40)
    store.plans.fix_looks(2, 20)
    store.write(0, some_counts())
    store.plans.fix_looks(2, 20)
    store.plans.fix_refinement(10, 40)
    with pytest.raises(TrainerError, match="got refine = 60, expected 40, which was fixed before its counts"):
        make_store().plans.fix_refinement(10, 60)
    with pytest.raises(TrainerError, match=r"got 20 first draws with refine = 40, expected 10.*train = 10"):
        make_store().plans.fix_refinement(20, 40)
    with pytest.raises(TrainerError, match="got looks = 1, expected 2"):
        make_store().plans.fix_looks(1, 20)


@pytest.mark.parametrize("between", [False, True])
def test_an_n_that_was_given_up_is_not_gone_on_with_after_a_look(make_store, between):
    """Frames that stopped between two N were looked at there as well: to finish the larger N would be their third look."""
    store = make_store()
    store.plans.fix_looks(2, 20)
    store.write(0, some_counts())
    store.write(64, some_counts(6))
    store.plans.record_look(20)
    store.plans.fix_looks(2, 60)
    store.write(
        64, (3 if between else 6) * some_counts(6) // 2
    )  # killed, and given up: 20 samples are asked for again
    store.plans.fix_looks(2, 20)
    for size in np.unique(store.samples()):
        store.plans.record_look(int(size))
    store.plans.fix_looks(2, 20)
    if between:
        assert store.plans.looks() == (20, 30)
        with pytest.raises(
            TrainerError, match="60 samples would be look 3 at its counts, finished at 20, 30 before"
        ):
            make_store().plans.fix_looks(2, 60)
        store.plans.fix_looks(2, 30)  # those who have 30 keep them, the others get there: two looks each
    else:
        assert store.plans.looks() == (20, 60)
        store.plans.fix_looks(2, 60)
    store.write(0, 2 * some_counts())
    store.plans.record_look(40)
    with pytest.raises(TrainerError, match=f"would be look {4 if between else 3}"):
        make_store().plans.fix_looks(2, 60)


def test_the_first_stage_of_a_store_that_does_not_name_it_is_its_first_look(make_store):
    """Killed in its second stage, a store has frames at numbers of draws that were never planned; none may become the first."""
    store = make_store()
    store.plans.fix_refinement(20, 60)
    group = zarr.open_group(store.path, mode="r+")["train"]
    attributes = {name: value for name, value in group.attrs.items() if name != "planned_first"}
    group.attrs.put(attributes)
    store.write(0, some_counts())
    for size in (20, 40, 60):
        store.plans.record_look(size)
    make_store().plans.fix_refinement(20, 60)
    with pytest.raises(TrainerError, match="got 40 first draws with refine = 60, expected 20"):
        make_store().plans.fix_refinement(40, 60)


def test_streams_share_a_store_and_nothing_else(make_store):
    make_store().write(0, some_counts())
    other = make_store(stream="audit", sample_block=5)
    assert other.samples().sum() == 0 and other.identity.sample_block == 5
    assert make_store().samples().sum() == 64 * 20


@pytest.mark.parametrize(
    ("name", "value"),
    [("sigma", 0.25), ("seed", 12), ("base_digest", "c" * 64), ("num_classes", 4), ("dtype", "bfloat16"),
     ("sample_block", 20)],
)  # fmt: skip
def test_another_identity_is_refused_and_nothing_is_lost(make_store, name, value):
    make_store().write(0, some_counts())
    with pytest.raises(TrainerError, match=f"{name} of the store is .*, expected {value!r}"):
        make_store(**{name: value})
    np.testing.assert_array_equal(make_store().counts()[:64], some_counts())


def test_other_frames_are_refused(make_store, frames):
    make_store()
    with pytest.raises(TrainerError, match="frames_digest"):
        make_store(digests=frame_digests(frames[::-1]))
    with pytest.raises(TrainerError, match="num_frames of the store is 70, expected 69"):
        make_store(digests=frame_digests(frames[:69]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("sigma", 0.0), ("sigma", float("nan")), ("stream", "../train"), ("dtype", "int8"), ("num_classes", 1),
     ("sample_block", 0), ("seed", -1)],
)  # fmt: skip
def test_nonsense_is_refused_before_anything_is_made(make_store, tmp_path, name, value):
    with pytest.raises(TrainerError, match=f"{name}: got"):
        make_store(**{name: value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("got", "nearest"), [(15, "10 and 20"), (5, "10 and 20"), (0, "10 and 20"), (101, "100 and 110")]
)
def test_num_samples_must_fit_the_sample_block(make_store, got, nearest):
    with pytest.raises(
        TrainerError, match=f"num_samples: got {got}, expected a multiple .* nearest are {nearest}"
    ):
        make_store().check_num_samples(got)


def test_num_samples_must_fit_uint32(make_store):
    with pytest.raises(TrainerError, match="at most 4294967295"):
        make_store().check_num_samples(2**32 + 4)


def test_a_damaged_block_is_found_and_named(make_store):
    store = make_store()
    store.write(0, some_counts())
    store.write(64, some_counts(6))
    chunk = Path(store.path) / "train" / "counts" / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(TrainerError, match=r"damaged counts in frames 0 to 69.*counts/c/0/0"):
        store.counts()
    np.testing.assert_array_equal(store.read(64, 70), some_counts(6))
    chunk.unlink()
    assert store.samples().sum() == 6 * 20


@pytest.mark.parametrize("name", ["zarr.json", "counts/zarr.json", "samples/zarr.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"{}", None])
def test_damaged_metadata_is_refused_with_a_remedy(make_store, name, content):
    store = make_store()
    path = Path(store.path) / "train" / name
    text = path.read_bytes()
    path.write_bytes(
        text.replace(b'"dtype"', b'"dtipe"').replace(b"node_type", b"node_tipe")
        if content is None
        else content
    )
    with pytest.raises(TrainerError, match=r"(restore|give another path)"):
        make_store()
    path.write_bytes(text)
    make_store()


@pytest.mark.parametrize(
    ("name", "value"), [("base_digest", None), ("sigma", "high"), ("stream", 3), ("num_frames", [])]
)
def test_a_lost_or_foreign_attribute_is_refused(make_store, name, value):
    group: Any = zarr.open_group(make_store().path, mode="a")["train"]
    if value is None:
        del group.attrs[name]
    else:
        group.attrs[name] = value
    with pytest.raises(TrainerError, match="attributes of the stream are damaged"):
        make_store()


def test_samples_are_brought_up_to_the_counts_of_a_killed_writer(make_store):
    """`samples`, kept for other tools, is written after `counts`: a kill between the two leaves them apart."""
    store = make_store()
    store.write(0, some_counts())
    group: Any = zarr.open_group(store.path, mode="a")["train"]
    group["samples"][:64] = 0
    store.settle(0, some_counts())
    np.testing.assert_array_equal(group["samples"][:], store.samples())


def test_samples_reads_a_few_blocks_at_a_time(tmp_path, monkeypatch):
    digests = np.array([f"{number:064d}" for number in range(3000)], dtype="S64")
    store = CountStore.open(
        tmp_path / "many.zarr",
        stream="train",
        digests=digests,
        num_classes=2,
        sigma=0.5,
        seed=0,
        base_digest="b",
    )
    store.write(2944, np.full((56, 2), 50, dtype=np.uint32))
    rows: list[int] = []
    original = store.read
    monkeypatch.setattr(
        store, "read", lambda start, stop: (rows.append(stop - start), original(start, stop))[1]
    )
    assert store.missing(200) == 3000 * 200 - 5600 and max(rows) <= 1024 and sum(rows) == 3000


def test_counts_that_no_run_could_have_stored_are_refused(make_store):
    store = make_store()
    store.write(0, np.full((64, 3), 5, dtype=np.uint32))
    with pytest.raises(TrainerError, match="no multiple of 10"):
        store.counts()


def test_a_foreign_group_is_refused(make_store, tmp_path):
    zarr.open_group(tmp_path / "targets.zarr", mode="a").create_group("train")
    with pytest.raises(TrainerError, match=r"format None.*give another path"):
        make_store()


def test_a_second_writer_is_refused_and_the_first_goes_on(make_store):
    store, other = make_store(), make_store()
    with store.writer():
        with (
            pytest.raises(TrainerError, match="is writing this store; expected one writer at a time"),
            other.writer(),
        ):
            pass
        store.write(0, some_counts())
    with other.writer():
        other.write(64, some_counts(6))
    assert store.samples().sum() == 70 * 20


def test_writers_of_one_run_share_the_lock_and_keep_others_out(make_store):
    first, second, stranger = (make_store().lock() for _ in range(3))
    first.acquire()
    with pytest.raises(TrainerError, match="is writing"):
        second.acquire(shared=True)
    first.share()
    second.acquire(shared=True)
    first.release()
    with pytest.raises(TrainerError, match="is writing"):
        stranger.acquire()
    second.release()
    stranger.acquire()
    stranger.release()


def test_a_lock_lost_while_it_is_shared_is_refused_in_words(make_store, monkeypatch):
    """The system takes an exclusive lock away before it gives the shared one; another run may be faster."""
    lock = make_store().lock()
    lock.acquire()

    def faster(handle: int, kind: int) -> None:
        raise BlockingIOError

    monkeypatch.setattr("fcntl.flock", faster)
    with pytest.raises(TrainerError, match="is writing this store"):
        lock.share()


def test_leftovers_of_a_killed_writer_are_swept(make_store):
    store = make_store()
    leftover = Path(store.path) / "train" / "counts" / "c" / "0" / "0.abc.partial"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    with store.writer():
        assert not leftover.exists()


def test_a_half_made_stream_is_made_again(make_store, tmp_path):
    root = zarr.open_group(tmp_path / "targets.zarr", mode="a")
    root.create_group(".train.partial")
    assert make_store().samples().sum() == 0
    assert not (tmp_path / "targets.zarr" / ".train.partial").exists()


def rewritten(store: CountStore, inner: str, change) -> None:
    path = Path(store.path) / inner / "zarr.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("inner", "change", "message"),
    [
        ("train/counts", lambda m: m["codecs"].insert(0, {"name": "numcodecs.pickle"}), "numcodecs.pickle"),
        ("train/samples", lambda m: m["codecs"].append({"name": "gzip"}), "gzip"),
        ("train/digests", lambda m: m["codecs"].append({"name": "numcodecs.pickle"}), "numcodecs.pickle"),
        ("train/counts", lambda m: m.update(zarr_format=2), "zarr_format 2, expected 3"),
        ("train/counts", lambda m: m.update(data_type="object"), "data_type 'object', expected 'uint32'"),
        ("train/counts", lambda m: m.update(storage_transformers=[{"name": "x"}]), "storage_transformers"),
        ("train", lambda m: m.update(consolidated_metadata={"metadata": {}}), "consolidated_metadata"),
        ("", lambda m: m.update(consolidated_metadata={"metadata": {}}), "consolidated_metadata"),
    ],
)
def test_metadata_of_another_kind_is_refused_before_zarr_opens_it(
    make_store, monkeypatch, inner, change, message
):
    store = make_store()
    rewritten(store, inner, change)

    def never(*_, **__):
        raise AssertionError("zarr opened it")

    monkeypatch.setattr(zarr, "open_group", never)
    with pytest.raises(TrainerError, match=message):
        make_store()


@pytest.mark.parametrize("where", [".zgroup", "train/.zgroup", "train/counts/.zarray", "train/.zmetadata"])
def test_version_2_metadata_is_refused_even_beside_version_3(make_store, where):
    store = make_store()
    (Path(store.path) / where).write_text('{"zarr_format": 2, "filters": [{"id": "pickle"}]}')
    with pytest.raises(TrainerError, match="got Zarr version 2 metadata, expected version 3 only"):
        make_store()


def test_a_pickle_in_a_version_2_store_is_not_loaded(make_store, tmp_path):
    """The stream as Zarr 2 would write it, with a chunk that creates a file when it is unpickled."""
    store, trap = make_store(), tmp_path / "trap"

    class Payload:
        def __reduce__(self):
            return open, (str(trap), "w")

    folder = Path(store.path) / "train" / "counts"
    shape = {"shape": [70, 3], "chunks": [64, 3], "dtype": "|O", "fill_value": 0, "order": "C"}
    (folder / "zarr.json").unlink()
    (folder / ".zarray").write_text(
        json.dumps({"zarr_format": 2, **shape, "compressor": None, "filters": [{"id": "pickle"}]})
    )
    for chunk in ("0.0", "1.0"):
        (folder / chunk).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(TrainerError, match="version 2"):
        make_store().counts()
    assert not trap.exists()


def test_an_object_store(make_store, network, preprocess, frames, tmp_path):
    """The same counts as in a folder, on fsspec's in-memory file system."""
    local = make_store(tmp_path / "t.zarr")
    sample_counts(network, preprocess, frames, local, 20)
    address = f"memory://{tmp_path.name}/t.zarr"
    sample_counts(network, preprocess, frames, make_store(address), 10)
    again = make_store(address)
    assert (again.samples() == 10).all()
    sample_counts(network, preprocess, frames, again, 20)
    np.testing.assert_array_equal(make_store(address).counts(), local.counts())
    with pytest.raises(TrainerError, match="sigma of the store"):
        make_store(address, sigma=0.25)
