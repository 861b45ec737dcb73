"""The log of attempts: append-only, chained, and a repetition is not another attempt."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.storage.attempts import AttemptLog, largest_attempt
from rrise.calibration.storage.digests import json_digest


def test_numbers_count_different_attempts_whatever_the_frames_are(tmp_path: Path) -> None:
    """Other frames are another attempt: splits drawn again, or subsets of one pack, are a choice among offsets, too."""
    log = AttemptLog(tmp_path / "device" / "attempts.jsonl")
    assert log.lines() == []
    assert log.append("f1", {"map": "a"}) == 1
    assert log.append("f1", {"map": "b"}) == 2
    assert log.append("f1", {"map": "a"}) == 1
    assert log.append("f2", {"map": "b"}) == 3
    assert log.append("f1", {"map": "c"}) == 4
    assert log.append("f2", {"map": "b"}) == 3
    assert [line["frames"] for line in log.lines()] == ["f1", "f1", "f1", "f2", "f1", "f2"]


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

    def read(self: AttemptLog) -> "tuple[list[dict[str, object]], int]":
        with open(self.path) as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                tries.append("free")
            except BlockingIOError:
                tries.append("locked")
        return [], 0

    monkeypatch.setattr(AttemptLog, "_read", read)
    log.append("f", {"map": "a"})
    assert tries and set(tries) == {"locked"}
    monkeypatch.undo()
    assert log.append("f", {"map": "b"}) == 2


@pytest.mark.parametrize(
    "change", ["remove", "edit", "edit last", "reorder", "garbage", "number", "space", "end", "rest"]
)
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
        "end": [*lines[:3], lines[3] + "x"],
        "rest": [*lines, "xyz"],
        "number": [*lines, "3"],
    }[change]
    log.path.write_text("\n".join(changed) + ("" if change in ("end", "rest") else "\n"))
    with pytest.raises(CalibrationError, match="log of attempts"):
        log.append("f", {"map": "e"})


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AttemptLog(tmp_path / "attempts.jsonl")
    log.append("f", {"map": "a"})
    before = log.path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rrise.calibration.storage.attempts.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        log.append("f", {"map": "b"})
    monkeypatch.undo()
    assert log.path.read_bytes() == before
    assert log.append("f", {"map": "b"}) == 2


def test_half_a_line_was_never_answered_with_a_number(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path / "attempts.jsonl")
    log.append("f", {"map": "a"})
    whole = log.path.read_bytes()
    log.append("f", {"map": "b"})
    log.path.write_bytes(log.path.read_bytes()[:-20])  # the power went
    assert len(log.lines()) == 1
    assert log.append("f", {"map": "c"}) == 2
    assert log.path.read_bytes().startswith(whole) and len(log.lines()) == 2


def test_a_log_that_lost_attempts_is_noticed_by_the_records(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path / "attempts.jsonl")
    (tmp_path / "record.json").write_text('{"attempt": 3}')
    (tmp_path / "odd.json").write_text("[]")
    seen = largest_attempt([tmp_path / "record.json", tmp_path / "odd.json", tmp_path / "none.json"])
    assert seen == 3
    for known in range(3):
        with pytest.raises(
            CalibrationError, match=rf"shows {known} attempts, but there is a record of attempt 3"
        ):
            log.append("f", {"map": "x"}, seen=seen)
        log.append("f", {"map": str(known)})
    assert log.append("f", {"map": "x"}, seen=seen) == 4


def test_the_first_logs_without_digests_of_their_own_are_read(tmp_path: Path) -> None:
    log, previous = AttemptLog(tmp_path / "attempts.jsonl"), ""
    for name in "ab":
        line = {"attempt": {"map": name}, "frames": "f", "previous": previous, "time": "2026"}
        previous = json_digest(line)
        with open(log.path, "a") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
    assert log.append("f", {"map": "a"}) == 1
    assert log.append("f", {"map": "c"}) == 3
    log.path.write_text(log.path.read_text().replace('"b"', '"x"'))
    with pytest.raises(CalibrationError, match="was changed"):
        log.lines()


def test_the_best_of_ten_splits_keeps_the_promise() -> None:
    """A fixed rule, frames split anew ten times, the smallest offset kept: without spending, far more than delta fail.

    The true miscoverage of an offset q is known: scores are uniform, so P(S > q) = 1 - q. With delta = .05 and 500
    trials more than 45 violations have a probability below 1e-4 (binomial).
    """
    rng, guarantee, trials = np.random.default_rng(0), Guarantee.of(error="0.1", beta="0.1"), 500
    pool, size = 900, 300
    whole = [guarantee.rank(size) for _ in range(10)]
    spent = [guarantee.spent(attempt).rank(size) for attempt in range(1, 11)]
    violated = np.zeros(2, int)
    for _ in range(trials):
        scores = rng.uniform(size=pool)
        splits = np.sort([rng.permutation(scores)[:size] for _ in range(10)], axis=1)
        for place, ranks in enumerate((spent, whole)):
            offset = min(split[rank - 1] for split, rank in zip(splits, ranks))
            violated[place] += 1 - offset > guarantee.alpha
    assert violated[0] <= 45
    assert violated[1] > 75, "the test would not notice"


def test_all_shares_together_are_at_most_delta() -> None:
    for guarantee in (Guarantee.of(), Guarantee.of(kind="selective", confidence="0.9")):
        shares = [guarantee.spent(attempt).delta for attempt in range(1, 400)]
        assert sum(shares) == guarantee.delta * Fraction(399, 400)
        assert guarantee.spent(3).alpha == guarantee.alpha
    marginal = Guarantee.of(kind="marginal")
    assert sum(marginal.spent(attempt).error for attempt in range(1, 400)) == marginal.error * Fraction(
        399, 400
    )
    assert Guarantee.of().spent(0) == Guarantee.of()
    with pytest.raises(CalibrationError, match="got -1"):
        Guarantee.of().spent(-1)
