"""Reference packs: radii computed once, every frame checked against its digest."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration import CalibrationError, References, frame_digests
from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.storage.files import read_arrays, write_arrays


def _pack(num_frames: int = 6, level: np.ndarray | None = None) -> References:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(100, [0.7, 0.2, 0.1], num_frames).astype(np.uint32)
    return References.from_counts(
        rng.integers(0, 256, (num_frames, 4, 4, 1), dtype=np.uint8),
        np.arange(num_frames),
        np.full(num_frames, -1),
        counts,
        np.full(num_frames, 100, np.uint32),
        split="verification",
        sigma=0.25,
        class_names=("a", "b", "c"),
        base_digest="b" * 64,
        beta=0.1,
        level=level,
    )


def test_round_trip_and_radius(tmp_path: Path) -> None:
    pack = _pack()
    pack.save(tmp_path / "pack.npz")
    again = References.load(tmp_path / "pack.npz")
    for name, value in vars(pack).items():
        assert np.array_equal(getattr(again, name), value)
    assert (again.radius == reference_radius(pack.counts, pack.num_samples, 0.25, 0.1)).all()
    assert (again.digest == frame_digests(pack.frames)).all() and len(again) == 6


def test_a_share_of_beta_stays_with_its_frame(tmp_path: Path) -> None:
    share = np.array([0.01, 0.09, 0.01, 0.09, 0.01, 0.1])
    pack, whole = _pack(level=share), _pack()
    pack.save(tmp_path / "pack.npz")
    again = References.load(tmp_path / "pack.npz")
    assert again.level is not None and np.array_equal(again.level, share)
    assert (pack.radius == reference_radius(pack.counts, pack.num_samples, 0.25, share)).all()
    assert pack.content_digest == again.content_digest
    assert pack.content_digest != replace(pack, level=None).content_digest != whole.content_digest
    # Radii of all of beta are not proved at a share of it, but for the frame whose share is all.
    bold, rows = replace(whole, level=share), np.arange(6)
    assert bold.unproved(rows, np.zeros(6, int)).tolist() == [True] * 5 + [False]
    assert (
        not pack.unproved(rows, np.zeros(6, int)).any() and not whole.unproved(rows, np.zeros(6, int)).any()
    )


def test_a_pack_without_shares_keeps_its_file_and_its_digest(tmp_path: Path) -> None:
    """Bundles name the digests of packs that were made before shares were kept."""
    pack = _pack()
    total = hashlib.sha256(b"0.25 0.1 " + b"b" * 64)
    order = np.argsort(pack.digest)
    for name in ("digest", "clip", "counts", "num_samples", "radius"):
        rows = getattr(pack, name)[order]
        total.update(f"{name} {rows.dtype.str} {rows.shape}".encode() + rows.tobytes())
    assert pack.content_digest == total.hexdigest()
    pack.save(tmp_path / "pack.npz")
    assert "level" not in read_arrays(tmp_path / "pack.npz", "pack", [])[0]


@pytest.mark.parametrize(
    "level",
    [np.full(5, 0.05), np.full(6, 0.11), np.zeros(6), np.full(6, np.nan), np.full(6, 0.05, np.float32)],
)
def test_an_impossible_share_is_refused(tmp_path: Path, level: np.ndarray) -> None:
    _pack().save(tmp_path / "pack.npz")
    arrays, meta = read_arrays(tmp_path / "pack.npz", "pack", [])
    write_arrays(tmp_path / "pack.npz", {**arrays, "level": level}, meta)
    with pytest.raises(CalibrationError, match="level must be float64"):
        References.load(tmp_path / "pack.npz")


def test_a_changed_frame_is_found(tmp_path: Path) -> None:
    _pack().save(tmp_path / "pack.npz")
    arrays, meta = read_arrays(tmp_path / "pack.npz", "pack", [])
    arrays["frames"][4, 0, 0, 0] ^= 1
    write_arrays(tmp_path / "pack.npz", arrays, meta)
    with pytest.raises(CalibrationError, match="1 frames do not match their digest, first number 4"):
        References.load(tmp_path / "pack.npz")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("frames", np.zeros((6, 4, 4, 1), np.float32), "expected uint8"),
        ("frames", np.zeros((6, 4, 4), np.uint8), "expected uint8"),
        ("frames", np.zeros((5, 4, 4, 1), np.uint8), "expected uint8"),
        ("radius", np.full((6, 3), np.nan, np.float32), "radius must be finite"),
        ("radius", np.full((6, 3), -0.1, np.float32), "radius must be finite"),
        ("radius", np.zeros((6, 2), np.float32), "radius must be finite"),
        ("clip", np.zeros(5, np.int64), "clip has shape"),
        ("counts", np.zeros((6, 3), np.uint32), "sum to 0"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, name: str, value: np.ndarray, message: str) -> None:
    _pack().save(tmp_path / "pack.npz")
    arrays, meta = read_arrays(tmp_path / "pack.npz", "pack", [])
    write_arrays(tmp_path / "pack.npz", {**arrays, name: value}, meta)
    with pytest.raises(CalibrationError, match=message):
        References.load(tmp_path / "pack.npz")


@pytest.mark.parametrize(
    ("field", "value"), [("sigma", -1.0), ("sigma", "x"), ("beta", 0.0), ("class_names", 3)]
)
def test_malformed_meta_is_refused(tmp_path: Path, field: str, value: object) -> None:
    _pack().save(tmp_path / "pack.npz")
    arrays, meta = read_arrays(tmp_path / "pack.npz", "pack", [])
    write_arrays(tmp_path / "pack.npz", arrays, {**meta, field: value})
    with pytest.raises(CalibrationError, match=r"pack\.npz"):
        References.load(tmp_path / "pack.npz")
    del meta[field]
    write_arrays(tmp_path / "pack.npz", arrays, meta)
    with pytest.raises(CalibrationError, match="missing or malformed"):
        References.load(tmp_path / "pack.npz")
