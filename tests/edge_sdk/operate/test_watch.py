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
    assert view.reasons == {"the frame is 0.31 to 0.57 s old": 2}
    line = view.line(_certificate(0.5, 0.001), 5, 10.0)
    assert line.startswith(
        "a certified, radius 0.5 | 101 frames, 98 % certified, 10.1/s, 5 dropped, p50 51.00 ms"
    )
    assert "101 frames" in terminal.getvalue() and terminal.getvalue().count("\r") == 101
    view.finish()
    assert dict(view.rows())["certified"] == "99"
    assert StatusLine(io.StringIO()).percentiles() == (0.0, 0.0)


@pytest.mark.parametrize("width", [79, 99, 119])
def test_the_line_fits_the_terminal_with_the_radius_first(width):
    view = StatusLine(io.StringIO())
    for _ in range(123_456 // 1000):
        view.add(_certificate(0.25, 0.0123))
    name = "a class with quite a long name, as some are"
    certified = Certificate(Status.CERTIFIED, 0, name, 0.2512, 0.0, 0.0, 0.01, None, "")
    line = view.line(certified, 12_345, 1000.0, width)
    assert len(line) <= width and "radius 0.2512 | 123 frames" in line
    short = view.line(_certificate(0.25, 0.01), 3, 10.0, width)
    assert len(short) <= width and short.startswith("a certified, radius 0.25 | 123 frames, 100 % certified")
    withheld = view.line(_certificate(0.0, 0.1, "the frame is old " * 20), 3, 10.0, width)
    assert len(withheld) <= width and "... | 123 frames, 100 % certified" in withheld


def test_equal_reasons_are_told_with_the_range_of_their_numbers():
    view = StatusLine(io.StringIO())
    for age in ("0.31", "0.57", "12"):
        view.add(_certificate(0.0, 0.1, f"the frame is {age} s old, expected at most 0.2 s"))
    view.add(_certificate(0.0, 0.1, "size 8x8, expected 8x9"))
    assert view.reasons == {
        "the frame is 0.31 to 12 s old, expected at most 0.2 s": 3,
        "size 8x8, expected 8x9": 1,
    }
    assert ("reason", "3 times: the frame is 0.31 to 12 s old, expected at most 0.2 s") in view.rows()


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
