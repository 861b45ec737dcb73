"""`rrise-edge` as a user types it: what it prints and its exit status."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rrise.calibration.tables.references import References
from rrise.edge_sdk.cli import main
from rrise.edge_sdk.device.drift import STATE_FILE
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec


def _run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, frame in enumerate(helpers.random_frames(Spec(), 5)):
        Image.fromarray(frame[:, :, 0]).save(folder / f"{number}.png")
    return folder


def test_info_says_what_is_promised(hand_bundle):
    result = _run("info", hand_bundle)
    assert result.exit_code == 0
    for words in (
        "calibrated",
        "at most 10 % of new frames",
        "10,800 wrong certificates an hour",
        "distribution shift",
        "of the issued certificates may be wrong",
    ):
        assert words in result.output
    value = json.loads(_run("info", hand_bundle, "--json").output)
    assert value["state"] == "calibrated" and value["calibration"]["num_frames"] == 300
    assert value["execution"]["runtime"] == "onnxruntime"
    issued, frames = value["calibration"]["issued"]
    assert value["wrong_among_issued"]["bound"] == pytest.approx(0.1 * frames / issued)


def test_info_on_nothing_and_on_damage(copied, tmp_path):
    assert _run("info", tmp_path / "absent").exit_code == 2
    (copied / "surrogate.onnx").write_bytes(b"")
    result = _run("info", copied)
    assert result.exit_code == 2 and "surrogate.onnx was changed" in result.output


def test_certify_a_folder_gives_the_certifiers_answers(hand_bundle, pictures):
    from rrise.edge_sdk import Certifier

    result = _run("certify", hand_bundle, pictures, "--json")
    assert result.exit_code == 0
    answers = [json.loads(line) for line in result.output.splitlines()]
    with Certifier.load(hand_bundle) as certifier:
        expected = [certifier.certify(frame).radius for frame in helpers.random_frames(Spec(), 5)]
    assert [answer["radius"] for answer in answers] == expected
    assert [answer["frame_id"] for answer in answers] == sorted(str(path) for path in pictures.iterdir())
    assert "images     5" in _run("certify", hand_bundle, pictures).output


def test_certify_goes_on_after_a_bad_picture_and_says_so(hand_bundle, pictures):
    (pictures / "2.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(pictures / "3.png")
    result = _run("certify", hand_bundle, pictures)
    assert result.exit_code == 1 and "2 of 5 images" in result.output
    assert "cannot be read as an image" in result.output and "got 9 x 9 pixels" in result.output


def test_certify_without_pictures(hand_bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    for where in ("empty", "absent"):
        result = _run("certify", hand_bundle, tmp_path / where)
        assert result.exit_code == 2 and "expected" in result.output


def test_colour_order_follows_the_bundle(batch_bundle, tmp_path):
    from rrise.edge_sdk.frames.images import read_image

    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", "rgb8") == colours).all()
    assert (read_image(tmp_path / "a.png", "bgr8") == colours[:, :, ::-1]).all()
    assert read_image(tmp_path / "a.png", "mono8").shape == (6, 5, 1)
    assert _run("certify", batch_bundle, tmp_path / "a.png").exit_code == 0


def test_verify_makes_another_execution_usable(copied, pack):
    assert "unverified" in _run("info", copied, "--threads", 2).output
    assert _run("verify", copied, "--references", pack, "--threads", 2, "--dry-run").exit_code == 0
    assert json.loads(_run("info", copied, "--threads", 2, "--json").output)["state"] == "unverified"
    result = _run("verify", copied, "--references", pack, "--threads", 2)
    assert result.exit_code == 0 and "passed" in result.output
    assert json.loads(_run("info", copied, "--threads", 2, "--json").output)["state"] == "verified"


def test_verify_fails_with_1_and_breaks_with_2(copied, tmp_path):
    helpers.make_references(Spec(), "verification", 200, seed=5, optimism=0.7).save(tmp_path / "new.npz")
    result = _run(
        "verify", copied, "--references", tmp_path / "new.npz", "--json", "--junit", tmp_path / "r.xml"
    )
    assert result.exit_code == 1 and '"verdict": "statistics"' in result.output
    assert 'failures="1"' in (tmp_path / "r.xml").read_text()
    assert _run("verify", copied, "--references", tmp_path / "absent.npz").exit_code == 2
    pack = References.load(tmp_path / "new.npz")
    pack.frames[0, 0, 0, 0] ^= 1
    pack.save(tmp_path / "changed.npz")
    result = _run("verify", copied, "--references", tmp_path / "changed.npz")
    assert result.exit_code == 2 and "do not match their digest" in result.output


def test_bench_prints_percentiles_and_ratio(hand_bundle):
    result = _run("bench", hand_bundle, "--count", 20)
    assert result.exit_code == 0 and "null ratio" in result.output and "p99.9" in result.output
    assert json.loads(_run("bench", hand_bundle, "--count", 20, "--json").output)["certify"]["samples"] == 20


def test_typing_errors_are_answered_with_the_right_word(hand_bundle):
    assert "Did you mean 'verify'" in _run("verfy", hand_bundle).output
    result = _run("bench", hand_bundle, "--cuont", 3)
    assert result.exit_code == 2 and "--count" in result.output


def test_drift_and_reset(copied, tmp_path):
    helpers.make_references(Spec(), "calibration", 220, seed=5).save(tmp_path / "pack.npz")
    result = _run("drift", copied, "--references", tmp_path / "pack.npz", "--interval", 5, "--json")
    assert result.exit_code == 0 and json.loads(result.output)["interval"] == 5.0
    assert "there was none" in _run("reset", copied).output
    from rrise.edge_sdk.bundles.bundle import Bundle
    from rrise.edge_sdk.device.suspension import suspend

    suspend(Bundle.open(copied), "a test")
    assert json.loads(_run("reset", copied, "--json").output)["lifted"].startswith("a test")
    assert json.loads(_run("reset", copied, "--json").output)["lifted"] is None
    assert _run("drift", copied, "--references", tmp_path / "pack.npz", "--alpha", 2).exit_code == 2


def test_recalibrate(copied, tmp_path):
    helpers.make_references(Spec(), "calibration", 300, seed=5, optimism=0.4).save(tmp_path / "pack.npz")
    words = ("recalibrate", copied, "--references", tmp_path / "pack.npz", "--threads", 2)
    assert _run(*words, "--dry-run").exit_code == 0
    assert json.loads(_run("info", copied, "--threads", 2, "--json").output)["state"] == "unverified"
    margin = json.loads(_run(*words, "--json").output)["margin"]
    told = json.loads(_run("info", copied, "--threads", 2, "--json").output)
    assert told["state"] == "calibrated" and told["margin"] == margin > 0
    assert _run("recalibrate", copied, "--references", tmp_path / "absent.npz").exit_code == 2


def test_what_no_camera_delivers_is_no_sign_of_drift(copied, pictures, tmp_path):
    """Otherwise a benchmark in the field would suspend the robot's certificates."""
    helpers.make_references(Spec(), "calibration", 220, seed=5).save(tmp_path / "pack.npz")
    assert _run("drift", copied, "--references", tmp_path / "pack.npz", "--interval", 0).exit_code == 0

    def memory():
        (file,) = (copied / "device").rglob(STATE_FILE)
        return file.read_bytes(), file.stat().st_mtime_ns

    for words in (("info",), ("certify", pictures), ("bench", "--count", 5), ("watch", pictures, "--replay")):
        assert _run(words[0], copied, *words[1:]).exit_code == 0
        assert b'"seen": 0' in memory()[0], words
    assert _run("watch", copied, pictures).exit_code == 0
    once = memory()
    assert b'"seen": 5' in once[0]
    assert _run("info", copied).exit_code == 0 and memory() == once, "a second process wrote over it"
