"""The log of attempts: append-only, chained, and a repetition is not another attempt."""

import json
from pathlib import Path

import pytest

from rrise.calibration import CalibrationError
from rrise.calibration.storage.attempts import AttemptLog


def test_numbers_count_different_attempts_on_the_same_frames(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path / "device" / "attempts.jsonl")
    assert log.lines() == []
    assert log.append("f1", {"map": "a"}) == 1
    assert log.append("f1", {"map": "b"}) == 2
    assert log.append("f1", {"map": "a"}) == 1
    assert log.append("f2", {"map": "b"}) == 1
    assert log.append("f1", {"map": "c"}) == 3
    assert [line["frames"] for line in log.lines()] == ["f1", "f1", "f1", "f2", "f1"]


def test_nothing_that_was_written_changes(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path / "attempts.jsonl")
    log.append("f", {"map": "a"})
    before = log.path.read_bytes()
    log.append("f", {"map": "b"})
    assert log.path.read_bytes().startswith(before)


def test_no_other_process_can_append_between_reading_and_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="this system has no file locks")
    log, tries = AttemptLog(tmp_path / "log"), []

    def lines(self: AttemptLog) -> "list[dict[str, object]]":
        with open(self.path) as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                tries.append("free")
            except BlockingIOError:
                tries.append("locked")
        return []

    monkeypatch.setattr(AttemptLog, "lines", lines)
    log.append("f", {"map": "a"})
    assert tries == ["locked"]
    monkeypatch.undo()
    assert log.append("f", {"map": "b"}) == 2


@pytest.mark.parametrize("change", ["remove", "edit", "edit last", "reorder", "garbage", "number", "space"])
def test_a_changed_log_is_noticed(tmp_path: Path, change: str) -> None:
    log = AttemptLog(tmp_path / "attempts.jsonl")
    for name in "abcd":
        log.append("f", {"map": name})
    lines = log.path.read_text().splitlines()
    changed = {
        "remove": [lines[0], *lines[2:]],
        "edit": [lines[0], json.dumps({**json.loads(lines[1]), "frames": "g"}), *lines[2:]],
        "edit last": [*lines[:3], lines[3].replace('"d"', '"x"')],
        "space": [*lines[:3], lines[3] + " "],
        "reorder": [lines[1], lines[0], *lines[2:]],
        "garbage": [*lines, "{"],
        "number": [*lines, "3"],
    }[change]
    log.path.write_text("\n".join(changed) + "\n")
    with pytest.raises(CalibrationError, match="log of attempts"):
        log.append("f", {"map": "e"})
