"""ROS image messages without ROS, among them padded rows and contradictions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rrise.edge_sdk.frames.encodings import convert_encoding
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
    [("mono8", "mono8", (4, 6, 1)), ("bgra8", "bgra8", (4, 6, 4)), ("bgr8", "bgr8", (4, 6, 3)),
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


@pytest.mark.parametrize(
    "encoding", ["8UC1", "8UC3", "8UC4", "16UC1", "mono16", "32FC1", "bayer_rggb8", "rgb16", "", "RGB8"]
)
def test_what_does_not_say_what_it_is_is_no_picture(encoding):
    """8UC1 was taken for mono8, and 8UC3 for bgr8: blue for red, with a certificate."""
    captured = from_image(_message(encoding, 4, 4, 64, bytes(256)))
    assert captured.frame is None and captured.encoding is None and "expected one of" in captured.problem


def _compressed(form, data=b"\xff\xd8data"):
    header = _message("", 0, 0, 0, b"").header
    return from_image(SimpleNamespace(header=header, format=form, data=data))


@pytest.mark.parametrize(
    ("form", "encoding"),
    [("jpeg", "jpeg"), ("JPG ", "jpeg"), ("rgb8; jpeg compressed bgr8", "jpeg"), ("bgr8; jpeg compressed bgr8", "jpeg"),
     ("bgra8; jpeg compressed bgr8", "jpeg"), ("mono8; jpeg compressed ", "jpeg"), ("mono8; jpeg compressed mono8", "jpeg"),
     ("rgb8; jpeg compressed rgb8", "jpeg_swapped"), ("bgr8;jpeg compressed rgb8 ", "jpeg_swapped")],
)  # fmt: skip
def test_compressed_pictures(form, encoding):
    captured = _compressed(form)
    assert captured.frame == b"\xff\xd8data" and captured.encoding == encoding and not captured.problem


@pytest.mark.parametrize(
    "form",
    ["png", "", "jpeg compressed bgr8", "h264", "bayer_rggb8; jpeg compressed ", "bayer_rggb8; jpeg compressed bgr8",
     "16UC1; jpeg compressed ", "16UC1; compressedDepth png", "8UC3; jpeg compressed bgr8", "8UC1; jpeg compressed ",
     "rgb16; jpeg compressed bgr8", "mono16; jpeg compressed ", "rgb8; jpeg compressed ", "rgb8; png compressed bgr8",
     "rgb8; jpeg compressed bgr16", "mono8; jpeg compressed bgr8", "yuv422; jpeg compressed bgr8", "rgb8",
     "; jpeg compressed bgr8"],
)  # fmt: skip
def test_other_compressed_images_are_no_pictures(form):
    """A Bayer mosaic and a depth map in a JPEG were certified as grey pictures."""
    captured = _compressed(form)
    assert captured.frame is None and repr(form) in captured.problem


def test_red_and_blue_are_as_the_convention_says():
    """OpenCV's encoder takes bgr8. What image_transport calls "compressed rgb8" went into it as rgb8."""
    cv2 = pytest.importorskip("cv2")
    red = np.zeros((16, 16, 3), np.uint8)
    red[:, :, 0] = 200
    for form, given in (("rgb8; jpeg compressed bgr8", red[:, :, ::-1]), ("rgb8; jpeg compressed rgb8", red)):
        captured = _compressed(form, cv2.imencode(".jpg", np.ascontiguousarray(given))[1].tobytes())
        read = convert_encoding(captured.frame, captured.encoding, "rgb8")
        assert np.abs(read.astype(int) - red).max() < 8


def test_a_fourth_channel_is_dropped():
    pixels = RNG.integers(0, 256, (4, 6, 4), dtype=np.uint8)
    captured = from_image(_message("bgra8", 4, 6, 24, pixels.tobytes()))
    np.testing.assert_array_equal(
        convert_encoding(captured.frame, captured.encoding, "rgb8"), pixels[:, :, 2::-1]
    )
    captured = from_image(_message("rgba8", 4, 6, 24, pixels.tobytes()))
    np.testing.assert_array_equal(
        convert_encoding(captured.frame, captured.encoding, "rgb8"), pixels[:, :, :3]
    )
