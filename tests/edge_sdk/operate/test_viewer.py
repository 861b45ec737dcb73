"""The Rerun viewer, with a module that stands in for rerun-sdk; and with the real one where it is installed."""

from __future__ import annotations

import builtins
import sys
import threading
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rrise.edge_sdk import Certificate, EdgeError, Status
from rrise.edge_sdk.cli import main
from rrise.edge_sdk.operate.viewer import RerunViewer
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

FRAME = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


def _certificate(number=0, radius=0.25):
    status = Status.CERTIFIED if radius else Status.ABSTAINED
    return Certificate(status, 1, "left", radius, 0.0, float(number), 0.002, None, "")


class _Recording:
    made: ClassVar[list["_Recording"]] = []

    def __init__(self, application):
        self.logged, self.times, self.calls, self.gate = [], [], [], None
        self.fails = ""
        _Recording.made.append(self)

    def spawn(self):
        self.calls.append("spawn")

    def save(self, path):
        self.calls.append(path)
        if path == "no/such/file.rrd":
            raise RuntimeError("cannot open")

    def set_time(self, timeline, *, timestamp):
        assert threading.current_thread().name == "rrise-viewer"  # outside the camera loop
        if self.gate is not None:
            self.gate.wait(30)
        if self.fails:
            raise RuntimeError(self.fails)
        self.times.append((timeline, timestamp))

    def log(self, path, what):
        self.logged.append((path, what))

    def flush(self):
        self.calls.append("flush")

    def disconnect(self):
        self.calls.append("disconnect")


@pytest.fixture
def fake(monkeypatch):
    _Recording.made.clear()
    module = SimpleNamespace(
        RecordingStream=_Recording,
        Image=lambda pixels, color_model: ("image", pixels, color_model),
        Scalars=lambda value: ("scalar", value),
        TextLog=lambda text, level: ("text", text, level),
    )
    monkeypatch.setitem(sys.modules, "rerun", module)
    return module


def test_frames_and_certificates_are_shown_in_another_thread(fake):
    with RerunViewer("bgr8", rate=1e9) as viewer:
        viewer.add(FRAME, _certificate(7))
    recording = _Recording.made[0]
    shown = dict(recording.logged)
    assert recording.times == [("capture", 7.0)] and recording.calls == ["spawn", "flush", "disconnect"]
    assert np.array_equal(shown["camera"][1], FRAME) and shown["camera"][2] == "BGR"
    assert shown["certificate/radius"] == ("scalar", 0.25)
    assert shown["certificate"] == ("text", _certificate(7).to_line(), "INFO")


def test_grey_float_and_absent_frames(fake):
    with RerunViewer("mono8", rate=1e9) as viewer:
        viewer.add(FRAME[:, :, :1], _certificate(radius=0.0))
    with RerunViewer("float32", rate=1e9) as viewer:
        viewer.add(FRAME.transpose(2, 0, 1).astype(np.float32) / np.float32(255), _certificate())
    with RerunViewer("rgb8", rate=1e9) as viewer:
        viewer.add(None, _certificate())
    grey, floats, absent = (dict(recording.logged) for recording in _Recording.made)
    assert np.array_equal(grey["camera"][1], FRAME[:, :, 0]) and grey["camera"][2] == "L"
    assert grey["certificate"][2] == "WARN"
    assert np.array_equal(floats["camera"][1], FRAME) and floats["camera"][2] == "RGB"
    assert "camera" not in absent and "certificate" in absent


def test_the_rate_is_kept_and_the_frame_is_copied(fake):
    now, frame = [0.0], FRAME.copy()
    with RerunViewer("rgb8", rate=2.0, clock=lambda: now[0]) as viewer:
        for number in range(5):
            viewer.add(frame, _certificate(number))
            now[0] += 0.25
        frame[:] = 0
    assert [time for _, time in _Recording.made[0].times] == [0.0, 2.0, 4.0]
    assert np.array_equal(dict(_Recording.made[0].logged)["camera"][1], FRAME)


def test_a_slow_viewer_drops_and_does_not_wait(fake):
    viewer = RerunViewer("rgb8", rate=1e12)
    gate = _Recording.made[0].gate = threading.Event()
    for number in range(50):
        viewer.add(FRAME, _certificate(number))
    gate.set()
    viewer.close()
    assert viewer.dropped >= 40 and len(_Recording.made[0].times) + viewer.dropped <= 50


def test_a_viewer_that_fails_is_reported(fake):
    with RerunViewer("rgb8", rate=1e9) as viewer:
        _Recording.made[0].fails = "window closed"
        viewer.add(FRAME, _certificate())
    assert viewer.problem == "viewer: stopped (window closed)"
    viewer.add(FRAME, _certificate())
    viewer.close()
    with pytest.raises(EdgeError, match="cannot open"):
        RerunViewer("rgb8", file="no/such/file.rrd")
    with pytest.raises(EdgeError, match="rate"):
        RerunViewer("rgb8", rate=0)


def test_a_missing_or_old_package_is_an_error_with_a_remedy(fake, monkeypatch):
    del fake.Scalars
    with pytest.raises(EdgeError, match="too old"):
        RerunViewer("rgb8")
    monkeypatch.delitem(sys.modules, "rerun")
    real = builtins.__import__

    def absent(name, *rest, **more):
        if name == "rerun":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(EdgeError, match=r"python -m pip install 'rerun-sdk>=0.23'"):
        RerunViewer("rgb8")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(helpers.random_frames(Spec(), 1)[0][:, :, 0]).save(path)
    return path


def test_watch_with_a_viewer(fake, hand_bundle, picture):
    words = ["watch", str(hand_bundle), str(picture)]
    assert CliRunner().invoke(main, words).exit_code == 0 and not _Recording.made
    result = CliRunner().invoke(main, [*words, "--viewer"])
    assert result.exit_code == 0, result.output
    assert _Recording.made[0].calls[0] == "spawn" and "camera" in dict(_Recording.made[0].logged)
    assert "0 frames not shown" in result.output


def test_the_real_viewer_writes_a_file(hand_bundle, picture, tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    words = ["watch", str(hand_bundle), str(picture), "--viewer-file", str(tmp_path / "out.rrd")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0 and "0 frames not shown" in result.output, result.output
    data = (tmp_path / "out.rrd").read_bytes()
    assert data[:4] == b"RRF2" and b"certificate/radius" in data
