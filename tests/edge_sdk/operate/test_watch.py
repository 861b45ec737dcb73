"""`rrise-edge watch`: the view's arithmetic, and the command with recorder and metrics."""

from __future__ import annotations

import io
import json
import signal

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rrise.edge_sdk import Certificate, Status
from rrise.edge_sdk.cli import main
from rrise.edge_sdk.operate.recorder import flights, read_flight
from rrise.edge_sdk.operate.watch import StatusLine
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec


def _certificate(radius, latency, reason=""):
    status = Status.CERTIFIED if radius else Status.STALE
    return Certificate(status, 0, "a", radius, 0.0, 0.0, latency, None, reason)


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_view_counts_and_draws():
    terminal = _Terminal()
    view = StatusLine(terminal, interval=0.0)
    for number in range(99):
        view.add(_certificate(0.5, 0.001 * (number + 1)))
    view.add(_certificate(0.0, 0.1, "the frame is 0.31 s old"), dropped=4)
    view.add(_certificate(0.0, 0.1, "the frame is 0.57 s old"), dropped=5)
    assert view.statuses == {"certified": 99, "stale": 2}
    assert view.reasons == {"the frame is #.## s old": 2}
    line = view.line(_certificate(0.5, 0.001), 5, 10.0)
    assert line.startswith("101 frames, 10.1/s, 98 % certified, 5 dropped, p50 51.00 ms")
    assert "101 frames" in terminal.getvalue() and terminal.getvalue().count("\r") == 101
    view.finish()
    assert dict(view.rows())["certified"] == "99"
    assert StatusLine(io.StringIO()).percentiles() == (0.0, 0.0)


def test_nothing_is_drawn_without_a_terminal():
    stream = io.StringIO()
    view = StatusLine(stream, interval=0.0)
    view.add(_certificate(0.5, 0.001))
    view.finish()
    assert stream.getvalue() == ""


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, frame in enumerate(helpers.random_frames(Spec(), 6)):
        Image.fromarray(frame[:, :, 0]).save(folder / f"{number}.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "9.png")
    return folder


def _run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_watch_a_folder(hand_bundle, pictures, tmp_path):
    pytest.importorskip("mcap")
    words = ("watch", hand_bundle, pictures, "--json", "--record", tmp_path / "flight", "--metrics-port", 0)
    result = _run(*words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert sum(told["statuses"].values()) == 7 and told["statuses"]["invalid_input"] == 1
    assert len(list(read_flight(flights(tmp_path / "flight")[0]))) == 7
    assert (
        "invalid_input"
        not in json.loads(_run("watch", hand_bundle, pictures, "--json", "--replay").output)["statuses"]
    )
    assert (
        sum(
            json.loads(_run("watch", hand_bundle, pictures, "--json", "--count", 2).output)[
                "statuses"
            ].values()
        )
        == 2
    )
    assert (
        "0 certificates not recorded"
        in _run("watch", hand_bundle, pictures, "--record", tmp_path / "flight").output
    )


def test_watch_what_is_not_there(hand_bundle, tmp_path):
    result = _run("watch", hand_bundle, tmp_path / "absent.mp4")
    assert result.exit_code == 2 and "does not exist" in result.output
    result = _run("watch", hand_bundle, tmp_path, "--deadline", -1)
    assert result.exit_code == 2 and "deadline" in result.output


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_watch_that_is_stopped_tells_what_it_saw(hand_bundle, monkeypatch, name):
    """Ctrl-C is the only end that watching a camera has, SIGTERM that of a service."""
    from rrise.edge_sdk.stream import sources

    def frames():
        yield from helpers.random_frames(Spec(), 3)
        signal.raise_signal(getattr(signal, name))
        raise AssertionError("still running")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        sources, "open_frame_source", lambda *words, **named: sources.IterableSource(frames())
    )
    # A shell that starts these tests in the background has them ignore Ctrl-C.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = _run("watch", hand_bundle, "0", "--json")
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert result.exit_code == 0, result.output
    assert sum(json.loads(result.output)["statuses"].values()) == 3
    assert signal.getsignal(signal.SIGTERM) is before
