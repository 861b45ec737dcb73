"""The flight recorder: complete, bounded, readable when cut off, and never in the camera loop's way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rrise.edge_sdk import Certificate, EdgeError, Status
from rrise.edge_sdk.operate import recorder as module
from rrise.edge_sdk.operate.recorder import FlightRecorder, flights, read_flight

pytest.importorskip("mcap")


def _certificate(number):
    return Certificate(Status.CERTIFIED, 1, "a", 0.5, 0.25, 1000.0 + number, 0.001, number, "")


def _record(folder, count, first=0, **options):
    with FlightRecorder(folder, **options) as recorder:
        for number in range(first, first + count):
            while recorder._queue.full():
                pass
            recorder.add(_certificate(number))
    assert recorder.dropped == 0 and recorder.problem == ""


def test_what_was_recorded_is_read(tmp_path):
    _record(tmp_path, 300)
    (file,) = flights(tmp_path)
    assert list(read_flight(file)) == [_certificate(number).to_json() for number in range(300)]


def test_the_official_reader_opens_it_with_times(tmp_path):
    from mcap.reader import make_reader

    _record(tmp_path, 5)
    with open(flights(tmp_path)[0], "rb") as file:
        messages = list(make_reader(file).iter_messages())
    assert [message.publish_time for _, _, message in messages] == [(1000 + n) * 10**9 for n in range(5)]
    assert messages[0][1].topic == "/rrise/certificate" and messages[0][0].encoding == "jsonschema"


def test_files_are_bounded_in_size_and_number_and_restarts_go_on(tmp_path):
    _record(tmp_path, 400, file_bytes=4096, files=3)
    names = [file.name for file in flights(tmp_path)]
    assert len(names) == 3
    assert all(file.stat().st_size < 4096 + 2048 for file in flights(tmp_path))
    last = [record["frame_id"] for record in read_flight(flights(tmp_path)[-1])]
    assert last[-1] == 399
    _record(tmp_path, 1, first=400, file_bytes=4096, files=3)
    after = [file.name for file in flights(tmp_path)]
    assert len(after) == 3 and after[:2] == names[1:]
    _record(tmp_path, 1, first=401, file_bytes=4096, files=1)
    assert len(flights(tmp_path)) == 1


def test_a_file_cut_off_anywhere_opens_up_to_there(tmp_path):
    _record(tmp_path, 40)
    (file,) = flights(tmp_path)
    whole, cut = file.read_bytes(), tmp_path / "cut.mcap"
    lengths = []
    for length in range(400, len(whole), 97):
        cut.write_bytes(whole[:length])
        records = list(read_flight(cut))
        assert records == [_certificate(number).to_json() for number in range(len(records))]
        lengths.append(len(records))
    assert lengths == sorted(lengths) and lengths[0] < 5 and lengths[-1] == 40


def test_a_killed_writer_leaves_a_file_that_opens(tmp_path):
    """The records of the last flush are on disk although nobody finished the file."""
    import subprocess
    import sys

    code = (
        "import os, sys\n"
        "from tests.edge_sdk.operate.test_recorder import _certificate\n"
        "from rrise.edge_sdk.operate.recorder import _File, _mcap_writer\n"
        f"from pathlib import Path\nfile = _File(Path({str(tmp_path / 'flight-00000001.mcap')!r}), _mcap_writer())\n"
        "for n in range(50): file.add(_certificate(n))\n"
        "file.flush()\nos._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert len(list(read_flight(tmp_path / "flight-00000001.mcap"))) == 50


def test_a_slow_disk_drops_and_never_waits(tmp_path, monkeypatch):
    going, entered = threading.Event(), threading.Event()
    original = module._File.add

    def slow(self, certificate):
        entered.set()
        assert going.wait(20)
        original(self, certificate)

    monkeypatch.setattr(module._File, "add", slow)
    with FlightRecorder(tmp_path) as recorder:
        recorder.add(_certificate(0))
        assert entered.wait(20)
        for number in range(1, 2000):
            recorder.add(_certificate(number))
        assert recorder.dropped == 1999 - module._QUEUE
        going.set()
    assert len(list(read_flight(flights(tmp_path)[0]))) == 1 + module._QUEUE


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_full_disk_stops_the_recorder_and_not_the_robot(tmp_path, monkeypatch):
    def full(self, certificate):
        raise OSError("No space left on device")

    monkeypatch.setattr(module._File, "add", full)
    with FlightRecorder(tmp_path) as recorder:
        for number in range(10):
            recorder.add(_certificate(number))
    assert "No space left" in recorder.problem and recorder.dropped == 10


@pytest.mark.parametrize("place", ["flush", "finish"])
def test_a_disk_that_fills_up_while_nothing_is_added_is_told_and_ends(tmp_path, monkeypatch, place):
    """The writing thread died of it without a word, and `close` waited for ever at its full queue."""

    def full(self):
        failed.set()
        raise OSError("No space left on device")

    failed = threading.Event()
    monkeypatch.setattr(module, "_FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(module._File, place, full)
    with pytest.warns(RuntimeWarning, match="No space left.*go on unrecorded"):
        recorder = FlightRecorder(tmp_path)
        recorder.add(_certificate(0))
        if place == "flush":
            assert failed.wait(20)
            for number in range(3 * module._QUEUE):
                recorder.add(_certificate(number))
        recorder.close()
    assert "No space left" in recorder.problem and not recorder._thread.is_alive()


def test_a_disk_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    going, entered = threading.Event(), threading.Event()

    def hangs(self, certificate):
        entered.set()
        going.wait(20)

    monkeypatch.setattr(module, "_LONGEST_END", 0.3)
    monkeypatch.setattr(module, "_FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(module._File, "add", hangs)
    with pytest.warns(RuntimeWarning, match="did not answer"):
        recorder = FlightRecorder(tmp_path)
        recorder.add(_certificate(0))
        assert entered.wait(20)
        for number in range(2 * module._QUEUE):
            recorder.add(_certificate(number))
        recorder.close()
    going.set()
    recorder._thread.join(20)
    assert not recorder._thread.is_alive()


def test_two_recorders_do_not_share_a_folder(tmp_path, monkeypatch):
    """They wrote the same numbers over each other."""
    import subprocess
    import sys

    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = (
        "import sys\nfrom rrise.edge_sdk.operate.recorder import FlightRecorder\nFlightRecorder(sys.argv[1])"
    )
    with FlightRecorder("."):
        for other in (tmp_path, tmp_path / "link"):
            with pytest.raises(EdgeError, match="another recorder"):
                FlightRecorder(other)
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert "another recorder" in done.stderr
    with FlightRecorder(tmp_path) as recorder:
        recorder.add(_certificate(0))
    assert len(flights(tmp_path)) == 1


def test_unusual_times_are_recorded(tmp_path):
    with FlightRecorder(tmp_path) as recorder:
        for when in (-1.0, 1e30):
            recorder.add(Certificate(Status.STALE, None, None, 0.0, 0.0, when, 0.0, None, "old"))
    assert [record["capture_time"] for record in read_flight(flights(tmp_path)[0])] == [-1.0, 1e30]


def test_bad_requests_are_refused(tmp_path):
    for wrong in ({"file_bytes": 100}, {"files": 0}):
        with pytest.raises(EdgeError, match="expected"):
            FlightRecorder(tmp_path, **wrong)
    (tmp_path / "file").write_text("x")
    with pytest.raises(EdgeError, match="another folder"):
        FlightRecorder(tmp_path / "file")
    for content in (b"", b"no mcap at all, but long enough"):
        (tmp_path / "other.mcap").write_bytes(content)
        with pytest.raises(EdgeError, match="no MCAP file"):
            list(read_flight(tmp_path / "other.mcap"))
    with pytest.raises(EdgeError, match="cannot be read"):
        list(read_flight(tmp_path / "absent.mcap"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_certificate_that_cannot_be_written_does_not_hang_the_end(tmp_path, monkeypatch):
    with FlightRecorder(tmp_path) as recorder:
        monkeypatch.setattr(module.json, "dumps", lambda value: b"".join(value))  # type: ignore[attr-defined]
        for number in range(3):
            recorder.add(_certificate(number))
    assert recorder.dropped == 3 and "stopped writing" in recorder.problem


def test_any_frame_id_is_recorded(tmp_path):
    numpy = pytest.importorskip("numpy")
    with FlightRecorder(tmp_path) as recorder:
        recorder.add(
            Certificate(Status.ABSTAINED, 1, "a", 0.0, 0.0, numpy.float32(3.0), 0.1, numpy.int64(7), "")
        )
    (record,) = read_flight(flights(tmp_path)[0])
    assert (record["frame_id"], record["capture_time"]) == ("7", 3.0)


def _flight(path, data, metadata):
    from mcap.writer import Writer

    with open(path, "wb") as file:
        writer = Writer(file, use_chunking=False)
        writer.start()
        channel = writer.register_channel("/rrise/certificate", "json", 0, metadata)
        writer.add_message(channel, 1, data, 1)
        writer.finish()
    return path


def test_a_recording_is_read_as_the_page_says(tmp_path, capsys):
    with FlightRecorder(tmp_path / "flight") as recorder:
        recorder.add(_certificate(1))
        recorder.add(_certificate(2))
    page = (Path(__file__).parents[3] / "edge_sdk" / "README.md").read_text(encoding="utf-8")
    (block,) = (text for text in page.split("```python\n")[1:] if "read_flight" in text)
    exec(block.split("```")[0].replace('"flight"', repr(str(tmp_path / "flight"))), {})
    first, second = (_certificate(number).to_json() for number in (1, 2))
    lines = [f"{one['capture_time']} {one['status']} {one['radius']}" for one in (first, second)]
    assert capsys.readouterr().out.splitlines() == lines


def test_recordings_of_other_versions(tmp_path):
    old = _flight(tmp_path / "a.mcap", b'{"radius": 0.5}', {})  # release 0.1 named no format
    assert list(read_flight(old)) == [{"radius": 0.5}]
    new = _flight(tmp_path / "b.mcap", b'{"radii": []}', {"format": "rrise-flight/2"})
    with pytest.raises(EdgeError, match="written by a newer version of rrise"):
        list(read_flight(new))


def test_no_message_exhausts_the_reader(tmp_path):
    """Nested lists ended `read_flight` with a RecursionError."""
    assert list(read_flight(_flight(tmp_path / "a.mcap", b"[" * 100_000, {}))) == []
    assert list(read_flight(_flight(tmp_path / "b.mcap", b'"' + b"x" * (1 << 21) + b'"', {}))) == []
    number = 10**38  # a frame that is named by a UUID
    found = list(read_flight(_flight(tmp_path / "c.mcap", b'{"frame_id": %d}' % number, {})))
    assert found == [{"frame_id": number}]
