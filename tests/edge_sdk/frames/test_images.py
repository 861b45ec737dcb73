"""Image files for a bundle: the pixels of the file or `invalid_input`, never something in between."""

from pathlib import Path

import numpy as np
import pytest

from rrise.calibration.images.files import open_image
from rrise.calibration.tables.references import References
from rrise.edge_sdk import Certifier, Status
from rrise.edge_sdk.errors import EdgeError, FrameError
from rrise.edge_sdk.frames.images import find_images, read_certified, read_image

Image = pytest.importorskip("PIL.Image")


def test_deep_pictures_are_no_frames(hand_bundle: Path, pack: Path, tmp_path: Path):
    """A 16-bit picture was clipped to black and white, and then certified."""
    path = tmp_path / "deep.png"
    with Certifier.load(hand_bundle) as certifier:
        certified = 0
        for frame in References.load(pack).frames[:20]:
            Image.fromarray(frame[:, :, 0]).save(path)
            certified += bool(read_certified(certifier, path))
            Image.fromarray(frame[:, :, 0].astype(np.uint16) * 257).save(path)
            answer = read_certified(certifier, path)
            assert answer.status is Status.INVALID_INPUT and "16 bits" in answer.reason
        assert certified > 0


def test_a_picture_of_another_size_is_not_unpacked(hand_bundle: Path, tmp_path: Path, monkeypatch):
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((900, 900), np.uint8)).save(path)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("it was unpacked"))
    with Certifier.load(hand_bundle) as certifier:
        answer = read_certified(certifier, path)
    assert answer.status is Status.INVALID_INPUT and "900 x 900 pixels, expected 8 x 8" in answer.reason


def test_encodings_of_a_bundle(tmp_path: Path):
    colour = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    path = tmp_path / "A.PNG"
    Image.fromarray(colour).save(path)
    np.testing.assert_array_equal(read_image(path, "rgb8"), colour)
    np.testing.assert_array_equal(read_image(path, "bgr8"), colour[:, :, ::-1])
    np.testing.assert_array_equal(read_image(path, "mono8"), open_image(path, "L"))
    assert find_images([tmp_path]) == [path]
    with pytest.raises(EdgeError, match="float32"):
        read_image(path, "float32")
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(FrameError, match=r"A\.PNG: cannot be read as an image"):
        read_image(path, "rgb8")
