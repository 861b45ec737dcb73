"""Atomic files: whole or absent, reproducible bytes, and a clear error for everything that was damaged."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration import CalibrationError
from rrise.calibration.storage.files import (
    atomic_file,
    present,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
)


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
    write_arrays(tmp_path / "u.npz", {"a": np.arange(3)}, {})
    with pytest.raises(
        CalibrationError, match="no table of rrise, expected scores; give the file of the results"
    ):
        read_arrays(tmp_path / "u.npz", "results", ["a"], table="scores")
    with pytest.raises(CalibrationError, match="has no b, c"):
        read_arrays(tmp_path / "t.npz", "scores", ["a", "c", "b"])


def test_writing_never_touches_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to the whole process: what another thread makes meanwhile would be writable for everyone."""

    def touched(mask: int) -> int:
        raise AssertionError(f"umask({mask})")

    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", touched)
        write_json(tmp_path / "new.json", {})
        (tmp_path / "open.json").write_text("{}")
        (tmp_path / "open.json").chmod(0o666)
        write_json(tmp_path / "open.json", {})
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "open.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a": Infinity}', "[NaN]", "[1e999]", f"[{'9' * 400}]", f"[{'9' * 9_000}]", "\ufeff{}"],
)
def test_no_json_raises_anything_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CalibrationError, match="cannot read the record"):
        read_json(tmp_path / "a.json", "record")


def test_large_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" + " " * 1000 + "]")
    with pytest.raises(CalibrationError, match="larger than 1,000 bytes"):
        read_json(tmp_path / "a.json", "record", limit=1000)


def test_a_table_that_unpacks_to_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arrays(tmp_path / "a.npz", {"a": np.zeros(2_000_000, np.uint8)}, {})
    monkeypatch.setattr("rrise.calibration.storage.files.UNPACKED_LEAST", 1_000_000)
    with pytest.raises(
        CalibrationError, match=r"would unpack to 2,\d\d\d,\d\d\d bytes, expected at most 1,9?\d+"
    ):
        read_arrays(tmp_path / "a.npz", "table", ["a"])


def test_what_cannot_be_seen_is_not_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Path.exists` says no to that since Python 3.14."""
    assert not present(tmp_path / "no") and not present(tmp_path / "no" / "such")
    (tmp_path / "link").symlink_to(tmp_path / "no")
    assert present(tmp_path / "link")

    def denied(path: object, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "lstat", denied)
    with pytest.raises(PermissionError):
        present(tmp_path / "link")
