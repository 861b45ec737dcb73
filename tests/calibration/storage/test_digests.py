"""Digests: what changes them, what does not, and known values of SHA-256."""

import hashlib

import numpy as np
import pytest

from rrise.calibration import combined_digest, file_digest, frame_digest, frame_digests, json_digest

FRAME = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def test_frame_digest_is_sha256_of_type_shape_and_bytes() -> None:
    assert frame_digest(FRAME) == hashlib.sha256(b"|u1(2, 4, 3)" + bytes(range(24))).hexdigest()


def test_layout_in_memory_does_not_matter() -> None:
    assert frame_digest(np.asfortranarray(FRAME)) == frame_digest(FRAME)
    assert frame_digest(FRAME[:, ::-1][:, ::-1]) == frame_digest(FRAME)
    floats = FRAME.astype("<f4")
    assert frame_digest(floats.astype(">f4")) == frame_digest(floats)


def test_type_shape_and_content_matter() -> None:
    changed = FRAME.copy()
    changed[1, 3, 2] ^= 1
    different = [FRAME, changed, FRAME.reshape(4, 2, 3), FRAME.astype(np.int8), FRAME.astype(np.uint16)]
    assert len({frame_digest(frame) for frame in different}) == 5  # type: ignore[arg-type]


def test_frame_digests_are_one_per_frame() -> None:
    both = frame_digests(np.stack([FRAME, FRAME + 1]))
    assert both.dtype == np.dtype("S64") and both[0] == frame_digest(FRAME).encode() and both[0] != both[1]


def test_file_digest(tmp_path) -> None:
    content = b"0123456789" * 300_000
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_json_digest_ignores_key_order_only() -> None:
    assert json_digest({"a": 1, "b": [1, 2]}) == json_digest({"b": [1, 2], "a": 1})
    assert json_digest({"a": 1, "b": [2, 1]}) != json_digest({"a": 1, "b": [1, 2]})
    with pytest.raises(ValueError):
        json_digest({"a": float("nan")})


def test_combined_digest_depends_on_order_and_borders() -> None:
    assert combined_digest(["ab", b"c"]) == combined_digest(["ab", "c"])
    assert len({combined_digest(words) for words in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"])}) == 4
