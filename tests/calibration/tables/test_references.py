"""Reference packs: radii computed once, every frame checked against its digest."""

from pathlib import Path

import numpy as np
import pytest

from rrise.calibration import CalibrationError, References, frame_digests
from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.storage.files import read_arrays, write_arrays


def _pack(num_frames: int = 6) -> References:
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
    )


def test_round_trip_and_radius(tmp_path: Path) -> None:
    pack = _pack()
    pack.save(tmp_path / "pack.npz")
    again = References.load(tmp_path / "pack.npz")
    for name, value in vars(pack).items():
        assert np.array_equal(getattr(again, name), value)
    assert (again.radius == reference_radius(pack.counts, pack.num_samples, 0.25, 0.1)).all()
    assert (again.digest == frame_digests(pack.frames)).all() and len(again) == 6


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
