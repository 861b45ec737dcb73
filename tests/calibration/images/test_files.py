"""The image reader: the right pixels of what it takes, and a refusal of all that would have to be guessed."""

import io
import os
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from rrise.calibration.errors import ImageError
from rrise.calibration.images.files import MAX_PIXELS, image_info, open_image

Image = pytest.importorskip("PIL.Image")
ImageFile = pytest.importorskip("PIL.ImageFile")

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (12, 20, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (12, 20)).astype(np.uint8)


def saved(array, form="PNG", **options):
    data = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(data, form, **options)
    return data.getvalue()


def png(width, height, depth, colour, rows):
    """A PNG written by hand: Pillow writes no colours of 16 bits."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_pictures_come_back_as_they_are(form, tmp_path):
    for array, mode in ((COLOUR, "RGB"), (GREY, "L")):
        path = tmp_path / "a.img"  # the name says nothing
        path.write_bytes(saved(array, form))
        read = open_image(path)
        np.testing.assert_array_equal(read, array if mode == "RGB" else array[:, :, None])
        np.testing.assert_array_equal(open_image(path.read_bytes(), mode), read)
        info = image_info(path)
        assert (info.height, info.width, info.grey) == (12, 20, mode == "L")
    np.testing.assert_array_equal(open_image(saved(GREY), "RGB"), np.repeat(GREY[:, :, None], 3, 2))


REFUSED = {
    "16-bit grey PNG": saved(GREY.astype(np.uint16) * 257),
    "16-bit colour PNG": png(2, 1, 16, 2, b"\0" + bytes(12)),
    "16-bit grey + alpha PNG": png(2, 1, 16, 4, b"\0" + b"\xff" * 8),
    "16-bit TIFF": saved(GREY.astype(np.uint16) * 257, "TIFF"),
    "float TIFF": saved((GREY / 255).astype(np.float32), "TIFF"),
    "32-bit integers": saved(GREY.astype(np.int32), "TIFF"),
    "16-bit PGM": b"P5 2 1 65535\n" + bytes(4),
    "16-bit PPM": b"P6 2 1 65535\n" + bytes(12),
    "10-bit plain PPM": b"P3 1 1 1023\n5 5 5\n",
    "float PFM": b"Pf 2 1 -1.0\n" + bytes(8),
    "CMYK JPEG": saved(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "CMYK TIFF": saved(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"),
    "Lab TIFF": saved(Image.fromarray(COLOUR).convert("LAB"), "TIFF"),
    "transparent PNG": saved(np.dstack([COLOUR, GREY])),
    "transparent grey PNG": saved(Image.merge("LA", [Image.fromarray(GREY)] * 2)),
    "transparent WebP": saved(np.dstack([COLOUR, GREY]), "WEBP", lossless=True),
    "one transparent colour": saved(COLOUR, transparency=tuple(int(value) for value in COLOUR[3, 3])),
    "two pages": saved(COLOUR, "TIFF", save_all=True, append_images=[Image.fromarray(COLOUR)]),
    "moving PNG": saved(COLOUR, save_all=True, append_images=[Image.fromarray(255 - COLOUR)]),
    "moving WebP": saved(COLOUR, "WEBP", save_all=True, append_images=[Image.fromarray(255 - COLOUR)]),
    "GIF": saved(GREY, "GIF"),
    "nothing": b"",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n",
    "a picture that claims too much": png(1 << 15, 1 << 14, 8, 0, b""),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_whatever_would_be_guessed(what, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(REFUSED[what])
    with pytest.raises(ImageError, match=r"x\.png: "):
        open_image(path)
    with pytest.raises(ImageError):
        open_image(REFUSED[what], "RGB")


def test_an_opaque_alpha_channel_hides_nothing():
    opaque = np.full_like(GREY, 255)
    np.testing.assert_array_equal(open_image(saved(np.dstack([COLOUR, opaque]))), COLOUR)
    both = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(opaque)])
    np.testing.assert_array_equal(open_image(saved(both)), GREY[:, :, None])
    assert image_info(saved(both)).grey
    palette = Image.fromarray(COLOUR).quantize(16)
    np.testing.assert_array_equal(open_image(saved(palette)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_the_orientation_tag_is_carried_out(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = np.kron(RNG.integers(0, 256, (2, 3)), np.ones((8, 8))).astype(np.uint8)
    options: dict[str, Any] = {"PNG": {}, "TIFF": {}, "JPEG": {"quality": 100}, "WEBP": {"lossless": True}}[
        form
    ]  # type: ignore[assignment]
    data = saved(smooth, form, exif=exif, **options)
    # Independent of Pillow's own turning: what each value of the tag means (Exif 2.3, 4.6.4 A).
    upright = {
        1: smooth,
        2: smooth[:, ::-1],
        3: smooth[::-1, ::-1],
        4: smooth[::-1],
        5: smooth.T,
        6: smooth.T[:, ::-1],
        7: smooth.T[::-1, ::-1],
        8: smooth.T[::-1],
    }[orientation]
    read, info = open_image(data, "L")[:, :, 0], image_info(data)
    assert read.shape == upright.shape == (info.height, info.width)
    assert np.abs(read.astype(int) - upright).max() <= 3
    open_image(data, "L", size=upright.shape)
    with pytest.raises(ImageError, match="expected 77 x 12"):
        open_image(data, "L", size=(12, 77))


def test_files_that_end_early_are_refused_whatever_pillow_was_told(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = saved(COLOUR)
    np.testing.assert_array_equal(open_image(whole), COLOUR)
    for form in ("PNG", "JPEG", "BMP", "PPM", "TIFF"):
        data = saved(np.repeat(COLOUR, 20, 0), form)
        with pytest.raises(ImageError):
            open_image(data[: len(data) * 2 // 3])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_size_is_looked_at_before_anything_is_unpacked(monkeypatch):
    data = saved(np.zeros((300, 400, 3), np.uint8))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(ImageError, match="400 x 300 pixels, expected 8 x 8"):
        open_image(data, size=(8, 8))
    with pytest.raises(ImageError, match="400 x 300 pixels, expected at most 1000"):
        open_image(data, max_pixels=1000)
    with pytest.raises(ImageError, match=f"{MAX_PIXELS}|exceeds limit"):
        image_info(REFUSED["a picture that claims too much"])


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    for path in (tmp_path / "pipe.png", tmp_path, tmp_path / "absent.png", "a\0b"):
        with pytest.raises(ImageError):
            open_image(path)


def test_a_preview_behind_a_photograph_is_left_alone_but_a_second_view_is_not():
    second = Image.fromarray(255 - COLOUR)
    data = saved(COLOUR, "MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(io.BytesIO(data)) as image:
        kind = image.mpinfo[0xB002][0]["Attribute"]["MPType"]
    assert kind == "Baseline MP Primary Image"
    np.testing.assert_array_equal(open_image(data), np.asarray(Image.open(io.BytesIO(data))))
    at = data.index(
        b"\x00\x00\x03\x00", data.index(b"\x02\xb0") + 12
    )  # behind the tag that lists the pictures
    stereo = data[:at] + b"\x02\x00\x02\x00" + data[at + 4 :]
    with pytest.raises(ImageError, match="2 pictures"):
        open_image(stereo)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_errors_of_any_kind_on_changed_bytes_are_image_errors():
    rng = np.random.default_rng(3)
    for form in ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP"):
        whole = np.frombuffer(saved(COLOUR, form), np.uint8)
        for _ in range(60):
            data = whole.copy()
            data[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
            for cut in (data, data[: rng.integers(0, len(data))]):
                with suppress(ImageError):
                    assert open_image(cut.tobytes()).dtype == np.uint8
