"""`rrise-edge demo`: pictures of any size, a video and a camera that is not there."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rrise.edge_sdk import Certifier
from rrise.edge_sdk.cli import main
from rrise.edge_sdk.commands.demo import LINES, frame_size, middle
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.frames.inputs import Roi
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec


def _demo(*words):
    return CliRunner().invoke(main, ["demo", *map(str, words)])


@pytest.fixture
def pictures(tmp_path):
    """Twenty frames of the bundle's size, each also four times as large in the middle of a wider colour picture."""
    for name in ("own", "larger"):
        (tmp_path / name).mkdir()
    for number, frame in enumerate(helpers.random_frames(Spec(), 20)):
        Image.fromarray(frame[:, :, 0]).save(tmp_path / "own" / f"{number:02}.png")
        wide = np.full((32, 50), 7, np.uint8)
        wide[:, 9:41] = np.kron(frame[:, :, 0], np.ones((4, 4), np.uint8))
        Image.fromarray(np.repeat(wide[:, :, None], 3, axis=2)).save(tmp_path / "larger" / f"{number:02}.png")
    return tmp_path


def test_the_middle_has_the_proportions_of_the_bundle():
    assert middle((480, 640, 3), (8, 8)) == Roi(80, 0, 480, 480)
    assert middle((640, 480), (24, 32)) == Roi(0, 140, 480, 360)
    assert middle((8, 8, 1), (8, 8)) is None


def test_pictures_of_another_size_are_answered_as_their_middle(hand_bundle, pictures):
    own, larger = (json.loads(_demo(hand_bundle, pictures / n, "--json").output) for n in ("own", "larger"))
    assert own["statuses"]["certified"] > 0 and own["resized"] == 0
    assert larger["resized"] == 20
    with Certifier.load(hand_bundle) as certifier:
        files = sorted((pictures / "larger").glob("*.png"))
        frames = [np.asarray(Image.open(file)) for file in files]
        by_hand = [certifier.certify(frame, encoding="rgb8", roi=Roi(9, 0, 32, 32)) for frame in frames]
    assert larger["statuses"]["certified"] == sum(map(bool, by_hand))
    assert larger["median_radius"] == np.median([found.radius for found in by_hand if found])
    told = _demo(hand_bundle, pictures / "larger").output
    assert "attention" in told and "8x8 for show" in told
    assert "attention" not in _demo(hand_bundle, pictures / "own").output


def test_answers_that_are_news_are_printed_and_all_are_counted(hand_bundle, pictures):
    told = _demo(hand_bundle, pictures / "own", "--count", 12)
    assert told.exit_code == 0 and "of 12" in told.output
    shown = [line for line in told.output.splitlines() if ".png  " in line]
    assert 1 <= len(shown) <= LINES and "radius" in told.output
    one = _demo(hand_bundle, pictures / "own" / "03.png")
    assert one.exit_code == 0 and "of 1\n" in one.output


def test_a_file_that_is_no_picture_is_no_certificate(hand_bundle, pictures):
    (pictures / "own" / "05.png").write_bytes(b"no picture")
    told = json.loads(_demo(hand_bundle, pictures / "own", "--json").output)
    assert told["statuses"]["invalid_input"] == 1


def test_a_video(hand_bundle, tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(6):
        writer.write(np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    told = json.loads(_demo(hand_bundle, path, "--json").output)
    assert sum(told["statuses"].values()) == 6 and told["resized"] == 6


def test_without_a_camera_without_opencv_and_without_pictures(hand_bundle, tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    missing = _demo(hand_bundle, "97")
    assert missing.exit_code == 2 and "camera 97" in missing.stderr and "folder of pictures" in missing.stderr
    nothing = _demo(hand_bundle, tmp_path / "nowhere")
    assert nothing.exit_code == 2 and "does not exist" in nothing.stderr
    (tmp_path / "empty").mkdir()
    empty = _demo(hand_bundle, tmp_path / "empty")
    assert empty.exit_code == 2 and "no images" in empty.stderr
    monkeypatch.setitem(sys.modules, "cv2", None)
    without = _demo(hand_bundle, "0")
    assert without.exit_code == 2 and "OpenCV is not installed" in without.stderr


def test_it_refuses_a_bundle_of_floats_and_no_frames(tmp_path, hand_bundle):
    signature = SimpleNamespace(dtype="float32", frame_shape=(1, 8, 8))
    with pytest.raises(EdgeError, match="uint8"):
        frame_size(SimpleNamespace(runtime=SimpleNamespace(graph=SimpleNamespace(signature=signature))))  # type: ignore[arg-type]
    assert _demo(hand_bundle, tmp_path, "--count", 0).exit_code == 2
