from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrise.trainer.data import load_dataset, open_data_source
from rrise.trainer.data.readers import arrays
from rrise.trainer.errors import TrainerError

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
BESIDE: dict[str, Any] = {"labels": np.arange(6) % 2, "class_names": np.array(["a", "b"])}


def test_large_images_stay_in_their_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "RESIDENT", 100)
    np.savez(tmp_path / "x.npz", labels=BESIDE["labels"], images=FRAMES, class_names=BESIDE["class_names"])
    source = open_data_source(tmp_path / "x.npz")
    assert not source.pictures.in_memory  # type: ignore[attr-defined]
    assert all(np.array_equal(source.pictures.read(n), FRAMES[n]) for n in (5, 0, 3))
    np.savez_compressed(tmp_path / "y.npz", images=FRAMES, **BESIDE)
    with pytest.raises(TrainerError, match="instead of savez_compressed"):
        open_data_source(tmp_path / "y.npz")


def test_a_file_that_got_shorter_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", FRAMES)
    rows = arrays.FileArray.of_npy(tmp_path / "x.npy")
    assert np.array_equal(rows[5], FRAMES[5])
    with open(tmp_path / "x.npy", "r+b") as file:
        file.truncate(200)
    with pytest.raises(TrainerError, match="ends before row 5"):
        rows[5]


def test_held_out_of_an_npz(tmp_path: Path) -> None:
    flags = np.arange(6) > 3
    np.savez(tmp_path / "x.npz", images=FRAMES, held_out=flags, **BESIDE)
    assert np.array_equal(load_dataset(tmp_path / "x.npz").held_out, flags)
    np.savez(tmp_path / "x.npz", images=FRAMES, held_out=flags.astype(int), **BESIDE)
    with pytest.raises(TrainerError, match=r"held_out: got int64 \[6\], expected bool \[6\]"):
        load_dataset(tmp_path / "x.npz")


def test_zarr_group(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w")
    group.create_array("images", data=FRAMES, chunks=(2, 5, 4, 3))
    group.create_array("labels", data=BESIDE["labels"])
    group.attrs["class_names"] = ["a", "b"]
    dataset = load_dataset(tmp_path / "x.zarr")
    assert np.array_equal(dataset.frames, FRAMES) and dataset.class_names == ("a", "b")
    del group.attrs["class_names"]
    with pytest.raises(TrainerError, match=r"missing \['class_names'\]; expected a group"):
        load_dataset(tmp_path / "x.zarr")


def test_zarr_of_version_2_is_not_opened(tmp_path: Path) -> None:
    """Its metadata may name pickle as a codec."""
    import zarr

    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w", zarr_format=2)
    group.create_array("images", data=FRAMES)
    (tmp_path / "x.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(TrainerError, match="cannot be read as a Zarr group"):
        load_dataset(tmp_path / "x.zarr")


def test_file_urls_are_paths_and_others_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a b.npz", images=FRAMES, **BESIDE)
    assert len(load_dataset((tmp_path / "a b.npz").as_uri())) == 6
    with pytest.raises(TrainerError, match="not on this machine; copy it into a folder"):
        load_dataset("s3://bucket/x.npz")
