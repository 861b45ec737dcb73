"""Atomic files: whole or absent, reproducible bytes, and a clear error for everything that was damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration import CalibrationError
from rrise.calibration.storage.files import atomic_file, read_arrays, read_json, write_arrays, write_json


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file.json"
    write_json(target, {"old": 1})
    with pytest.raises(RuntimeError), atomic_file(target) as file:
        file.write(b"half of")
        raise RuntimeError("power cut")
    assert read_json(target, "file") == {"old": 1}
    assert [path.name for path in target.parent.iterdir()] == ["file.json"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("inf")})
    assert not list(tmp_path.iterdir())


def test_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_arrays(
            tmp_path / name, {"b": np.arange(5), "a": np.zeros((2, 3), np.float32)}, {"z": 1, "y": [2]}
        )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    arrays, meta = read_arrays(tmp_path / "one", "table", ["a"])
    assert set(arrays) == {"a", "b"} and meta == {"z": 1, "y": [2]}


def test_missing_or_broken_json_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"cannot read the record .*none\.json"):
        read_json(tmp_path / "none.json", "record")
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(CalibrationError, match=r"cannot read the record .*bad\.json"):
        read_json(tmp_path / "bad.json", "record")


def test_any_damage_to_a_table_is_a_calibration_error(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    write_arrays(path, {"a": np.arange(50), "b": np.ones((3, 2))}, {"table": "scores"})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        if rng.random() < 0.3:
            damaged = damaged[: rng.integers(0, len(whole))]
        else:
            damaged[rng.integers(0, len(whole))] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(bytes(damaged))
        try:
            arrays, meta = read_arrays(path, "table", ["a", "b"], table="scores")
        except CalibrationError as error:
            assert str(path) in str(error)
        else:  # bits of the archive that carry no content, such as time stamps
            assert (
                (arrays["a"] == np.arange(50)).all()
                and (arrays["b"] == 1).all()
                and meta == {"table": "scores"}
            )


def test_pickles_are_never_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", a=np.array([{"x": 1}], object), meta=np.array(json.dumps({})))
    with pytest.raises(CalibrationError, match="cannot read the table"):
        read_arrays(tmp_path / "p.npz", "table", ["a"])


def test_another_table_and_a_missing_array_are_named(tmp_path: Path) -> None:
    write_arrays(tmp_path / "t.npz", {"a": np.arange(3)}, {"table": "references"})
    with pytest.raises(CalibrationError, match="got a table of 'references', expected scores"):
        read_arrays(tmp_path / "t.npz", "scores", ["a"], table="scores")
    with pytest.raises(CalibrationError, match="has no b, c"):
        read_arrays(tmp_path / "t.npz", "scores", ["a", "c", "b"])
