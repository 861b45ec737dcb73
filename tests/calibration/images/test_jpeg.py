"""JPEG files that lost data: found where the module says so, and no whole file refused."""

import io
import re
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration.errors import ImageError
from rrise.calibration.images import jpeg as module
from rrise.calibration.images.files import open_image
from rrise.calibration.images.jpeg import COUNTED_BYTES, MAX_SCANS, read_jpeg

Image = pytest.importorskip("PIL.Image")

PHOTOGRAPHS = [
    folder / "shared" / "data" / "tinyimagenet_val.npz"
    for folder in Path(__file__).parents
    if (folder / "shared" / "data" / "tinyimagenet_val.npz").is_file()
]


def picture(height, width, seed=0):
    """Something with edges, areas and texture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3))
    area = np.kron(coarse, np.ones((16, 16, 1)))[:height, :width]
    return np.clip(area + rng.normal(0, 12, area.shape), 0, 255).astype(np.uint8)


def jpeg(array, **options):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "JPEG", **options)
    return data.getvalue()


KINDS = {
    "grey": lambda seed: jpeg(picture(30, 41, seed)[:, :, 0], quality=90),
    "4:2:0": lambda seed: jpeg(picture(50, 75, seed), quality=90),
    "4:2:2": lambda seed: jpeg(picture(50, 75, seed), quality=90, subsampling=1),
    "4:4:4": lambda seed: jpeg(picture(50, 75, seed), quality=90, subsampling=0),
    "optimised": lambda seed: jpeg(picture(50, 75, seed), quality=70, optimize=True),
    "restarts": lambda seed: jpeg(picture(50, 75, seed), quality=80, restart_marker_blocks=3),
    "progressive": lambda seed: jpeg(picture(50, 75, seed), quality=80, progressive=True),
    "large": lambda seed: jpeg(picture(200, 300, seed), quality=90),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_read(kind):
    for seed in range(5):
        data = KINDS[kind](seed)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image).reshape(image.height, image.width, -1)
        np.testing.assert_array_equal(open_image(data), expected)
        np.testing.assert_array_equal(open_image(data + bytes(9)), expected)  # cameras pad


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"progressive"}))
def test_lost_packets_are_found_although_the_end_marker_is_there(kind):
    rng = np.random.default_rng(1)
    for seed in range(8):
        data = KINDS[kind](seed)
        scan = read_jpeg(data).scans[-1]
        size = sum(map(len, scan.segments))
        start = data.index(scan.segments[0])
        assert (size > COUNTED_BYTES) == (kind == "large")
        lost = int(rng.integers(size // 10, size // 2))
        first = start + int(rng.integers(0, size - lost))
        for damaged in (data[:first] + data[first + lost :], data[:first] + b"\xff\xd9"):
            with Image.open(io.BytesIO(damaged)) as image:
                image.load()  # Pillow fills up with grey and says nothing
            with pytest.raises(ImageError, match="lost or changed"):
                open_image(damaged)


def test_data_left_over_is_found():
    data = KINDS["4:2:0"](0)
    with pytest.raises(ImageError, match="left when the picture is full"):
        open_image(data[:-2] + bytes(range(1, 20)) + data[-2:])


def test_missing_scans_of_a_progressive_file_are_found():
    data = KINDS["progressive"](0)
    scans = read_jpeg(data).scans
    assert len(scans) > 5
    last = data.index(scans[-1].segments[0])
    start = data.rindex(b"\xff\xda", 0, last)
    with pytest.raises(ImageError, match="scans are missing"):
        open_image(data[:start] + b"\xff\xd9")


def test_restart_markers_are_counted():
    data = KINDS["restarts"](0)
    second = data.index(b"\xff\xd1")
    third = data.index(b"\xff\xd2")
    with pytest.raises(ImageError, match="not in order"):
        open_image(data[:second] + data[third:])
    with pytest.raises(ImageError, match="pieces between restart markers"):
        open_image(data[: data.rindex(b"\xff\xd0")] + b"\xff\xd9")


def test_an_even_grey_picture_is_whole():
    for shape in ((16, 16), (400, 500, 3)):
        assert np.ptp(open_image(jpeg(np.full(shape, 128, np.uint8)))) == 0
    half = picture(400, 500)
    half[200:] = 128  # long enough not to be counted, were it not grey at its end
    data = jpeg(half, quality=95)
    assert len(data) > COUNTED_BYTES * 8
    assert open_image(data).shape == (400, 500, 3)


def test_thousands_of_scans_are_refused_before_any_is_decoded(monkeypatch):
    data = KINDS["progressive"](0)
    last = read_jpeg(data).scans[-1]
    start = data.rindex(b"\xff\xda", 0, data.index(last.segments[0]))
    bomb = data[:-2] + data[start:-2] * MAX_SCANS + data[-2:]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(ImageError, match=f"more than {MAX_SCANS} scans"):
        open_image(bomb)


def test_motion_jpeg_without_tables_has_those_of_the_standard():
    data = KINDS["4:2:0"](0)
    at, parts = 2, [data[:2]]
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts += [] if data[at + 1] == 0xC4 else [data[at:end]]
        at = end
    bare = b"".join([*parts, data[at:]])
    assert len(bare) < len(data) - 400
    np.testing.assert_array_equal(open_image(bare), open_image(data))


def test_headers_that_contradict_themselves_are_refused():
    data = KINDS["4:2:0"](0)
    frame = data.index(b"\xff\xc0")
    size = int.from_bytes(data[frame + 2 : frame + 4], "big") + 2
    for damaged in (
        data[:frame] + data[frame : frame + size] * 2 + data[frame + size :],
        data[:frame] + data[frame + size :],
        data[: frame + 5] + bytes(2) + data[frame + 7 :],
        data[:frame] + b"\xff\xc9" + data[frame + 2 :],
        data[:-2],
        data[: frame + 6],
        b"\xff\xd8\xff\xd9",
    ):
        with pytest.raises(ImageError):
            open_image(damaged)


@pytest.mark.skipif(not PHOTOGRAPHS, reason="no photographs: ../shared/data is absent")
def test_a_published_set_of_photographs_is_read_whole():
    """No false alarm on 300 files of another encoder than Pillow's; half of each cut off is found in all."""
    with np.load(PHOTOGRAPHS[0]) as pack:
        offsets, blob, which = pack["off"], pack["blob"], pack["hid"]
        headers = {int(number): pack[f"hdr{number}"].tobytes() for number in np.unique(which[:300])}
    for number in range(300):
        data = headers[int(which[number])] + blob[offsets[number] : offsets[number + 1]].tobytes()
        assert open_image(data, "RGB").shape == (64, 64, 3)
        if number < 50:
            with pytest.raises(ImageError):
                open_image(data[: -len(data) // 4] + b"\xff\xd9", "RGB")


def test_markers_are_those_that_a_regular_expression_finds(monkeypatch):
    """The definition in two lines, against the search that is a hundred times as fast; parts of any size, fill bytes too."""
    rng = np.random.default_rng(0)
    letters = np.array([0x00, 0x01, 0x41, 0xFF, 0xFF, 0xD0, 0xD3, 0xD7, 0xD9, 0xDA], np.uint8)
    found = 0
    for length in range(400):
        monkeypatch.setattr(module, "_SEARCHED", 2 + length % 7)
        data = rng.choice(letters, 1 + length % 50).tobytes()
        start = length % 5
        marker = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])").search(data, start)
        reading = module._Reading(b"\xff\xd8" + data, position=2 + start)
        if marker is None:
            with pytest.raises(ImageError, match="ends before its end marker"):
                reading._pieces()
            continue
        pieces = re.split(rb"\xff+([\xd0-\xd7])", data[start : marker.start()])
        assert reading._pieces() == (pieces[::2], [piece[0] for piece in pieces[1::2]])
        assert reading.position == 2 + marker.start()
        found += 1
    assert found > 200
