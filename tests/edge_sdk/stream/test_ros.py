"""ROS image messages without ROS, among them padded rows and contradictions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rrise.edge_sdk.stream.ros import from_image

RNG = np.random.default_rng(0)


def _message(encoding, height, width, step, data, **header):
    stamp = SimpleNamespace(sec=12, nanosec=500_000_000)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp, frame_id="front"), encoding=encoding, height=height, width=width, step=step,
        data=data,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [bytes, bytearray, lambda b: np.frombuffer(b, np.uint8), list])
def test_padded_rows_stamp_and_frame_id(kind):
    picture = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    rows = np.zeros((4, 20), np.uint8)
    rows[:, :15] = picture.reshape(4, 15)
    captured = from_image(_message("rgb8", 4, 5, 20, kind(rows.tobytes())))
    assert (captured.frame == picture).all() and captured.encoding == "rgb8"
    assert (captured.capture_time, captured.frame_id) == (12.5, "front")


@pytest.mark.parametrize(
    ("encoding", "ours", "shape"),
    [("mono8", "mono8", (4, 6, 1)), ("8UC1", "mono8", (4, 6, 1)), ("bgr8", "bgr8", (4, 6, 3)),
     ("uyvy", "yuv422", (4, 6, 2)), ("yuv422_yuy2", "yuv422_yuy2", (4, 6, 2)), ("nv12", "nv12", (6, 6))],
)  # fmt: skip
def test_encodings(encoding, ours, shape):
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    step = shape[1] * (shape[2] if len(shape) == 3 else 1)
    captured = from_image(_message(encoding, 4, 6, step, pixels.tobytes()))
    assert captured.encoding == ours and captured.frame.shape == shape and (captured.frame == pixels).all()


@pytest.mark.parametrize(
    ("encoding", "height", "width", "step", "size"),
    [("rgb8", 4, 5, 15, 59), ("rgb8", 4, 5, 14, 60), ("16UC1", 4, 5, 10, 40), ("rgb8", 0, 5, 15, 60),
     ("rgb8", 4, -5, 15, 60), ("rgb8", 4, 5, 2**31, 60)],
)  # fmt: skip
def test_contradictions_become_a_problem(encoding, height, width, step, size):
    captured = from_image(_message(encoding, height, width, step, bytes(size)))
    assert captured.frame is None and "expected one of" in captured.problem


def test_compressed_images():
    message = _message("", 0, 0, 0, b"\xff\xd8data")
    del message.encoding
    message.format = "rgb8; jpeg compressed bgr8"
    captured = from_image(message)
    assert captured.frame == b"\xff\xd8data" and captured.encoding == "jpeg"
    message.format = "png"
    assert from_image(message).frame is None
