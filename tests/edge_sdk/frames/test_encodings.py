"""Camera encodings against OpenCV, Pillow and the definition of BT.601."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from rrise.edge_sdk.errors import FrameError
from rrise.edge_sdk.frames.encodings import convert_encoding, grey, known_encodings

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
PACKED = RNG.integers(0, 256, (64, 64, 2), dtype=np.uint8)
NV12 = RNG.integers(0, 256, (96, 64), dtype=np.uint8)


def test_colour_order_and_grey():
    assert (convert_encoding(PICTURE, "rgb8", "bgr8") == PICTURE[:, :, ::-1]).all()
    assert (convert_encoding(convert_encoding(PICTURE, "bgr8", "rgb8"), "rgb8", "bgr8") == PICTURE).all()
    one = PICTURE[:, :, :1]
    assert (convert_encoding(one, "mono8", "rgb8") == np.concatenate([one] * 3, axis=2)).all()
    assert (convert_encoding(one[:, :, 0], "mono8", "mono8") == one).all()


def test_grey_is_pillows():
    every = RNG.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(every).convert("L"))
    assert (grey(every)[:, :, 0] == expected).all()
    assert (convert_encoding(every[:, :, ::-1], "bgr8", "mono8")[:, :, 0] == expected).all()


def test_yuv_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    for encoding, code in (("yuv422", cv2.COLOR_YUV2RGB_UYVY), ("yuv422_yuy2", cv2.COLOR_YUV2RGB_YUY2)):
        assert (convert_encoding(PACKED, encoding, "rgb8") == cv2.cvtColor(PACKED, code)).all()
    assert (convert_encoding(NV12, "nv12", "rgb8") == cv2.cvtColor(NV12, cv2.COLOR_YUV2RGB_NV12)).all()
    assert (convert_encoding(NV12, "nv12", "bgr8") == cv2.cvtColor(NV12, cv2.COLOR_YUV2BGR_NV12)).all()


def test_yuv_is_bt601():
    """The definition in floating point, limited range, agrees to one grey level."""
    y, u, v = (
        PACKED[:, 0::2, 1].astype(float),
        PACKED[:, 0::2, 0].astype(float),
        PACKED[:, 1::2, 0].astype(float),
    )
    luma = 255 / 219 * np.maximum(y - 16, 0)
    red = luma + 255 / 224 * 1.402 * (v - 128)
    blue = luma + 255 / 224 * 1.772 * (u - 128)
    green = luma - 255 / 224 * (0.344136 * (u - 128) + 0.714136 * (v - 128))
    expected = np.clip(np.stack([red, green, blue], axis=2), 0, 255)
    assert np.abs(convert_encoding(PACKED, "yuv422", "rgb8")[:, 0::2].astype(float) - expected).max() < 1.5


def test_jpeg_is_decoded_and_broken_ones_are_refused():
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for form in (data, bytearray(data), np.frombuffer(data, np.uint8)):
        assert (convert_encoding(form, "jpeg", "rgb8") == expected).all()
    assert (
        convert_encoding(data, "jpeg", "mono8")[:, :, 0] == np.asarray(Image.fromarray(expected).convert("L"))
    ).all()
    for broken in (b"", b"\xff\xd8", data[: len(data) // 2], b"\x89PNG" + data, PICTURE):
        with pytest.raises(FrameError, match="jpeg"):
            convert_encoding(broken, "jpeg", "rgb8")


@pytest.mark.parametrize("encoding", known_encodings())
@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8),
               np.zeros((5, 5, 2), np.uint8), np.zeros(3, np.uint8), b"bytes"],
)  # fmt: skip
def test_pixels_of_another_kind_are_refused(encoding, pixels):
    with pytest.raises(FrameError, match="got"):
        convert_encoding(pixels, encoding, "rgb8")


def test_unknown_encodings_are_refused():
    with pytest.raises(FrameError, match=r"bayer.*expected one of rgb8"):
        convert_encoding(PICTURE, "bayer_rggb8", "rgb8")
    with pytest.raises(FrameError, match="float32"):
        convert_encoding(PICTURE, "rgb8", "float32")


def test_opencv_decodes_as_pillow_does_and_fills_up_nothing(monkeypatch):
    """Without Pillow: a truncated picture is refused, and an EXIF tag turns a frame as it does with Pillow."""
    pytest.importorskip("cv2")
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(PICTURE[:, :2], 8, axis=0)).save(buffer, "JPEG", exif=exif)
    data = buffer.getvalue()
    expected = convert_encoding(data, "jpeg", "rgb8")
    monkeypatch.setitem(sys.modules, "PIL", None)
    turned = convert_encoding(data + b"\0\0", "jpeg", "rgb8")
    assert turned.shape == expected.shape == (2, 8 * len(PICTURE), 3)
    np.testing.assert_array_equal(turned, expected)
    for broken in (data[:-2], data[: len(data) // 2], data[: len(data) * 2 // 3] + b"\xff\xd9"):
        with pytest.raises(FrameError, match="jpeg"):
            convert_encoding(broken, "jpeg", "rgb8")
