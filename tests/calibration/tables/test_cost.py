"""The cost formula: forward passes of the base classifier, a training step being three."""

from pathlib import Path

import pytest

from rrise.calibration import CalibrationError, CostEntry, CostLedger, break_even


def test_total_and_replacement(tmp_path: Path) -> None:
    ledger = (
        CostLedger().with_entry(CostEntry("targets", passes=1000)).with_entry(CostEntry("train", 50, 100))
    )
    assert ledger.total() == 1000 + 50 + 300
    ledger = ledger.with_entry(CostEntry("targets", passes=10))
    assert ledger.total() == 360 and ledger.total(without=("train",)) == 10
    ledger.save(tmp_path / "cost.json")
    again = CostLedger.load(tmp_path / "cost.json")
    assert again.total() == 360 and set(again.entries) == set(ledger.entries)


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"a": {"passes": "x", "trained": 0}}', "{"])
def test_a_damaged_ledger_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cost.json").write_text(text)
    with pytest.raises(CalibrationError, match="cost ledger"):
        CostLedger.load(tmp_path / "cost.json")


def test_break_even_counts_the_surrogates_own_pass() -> None:
    assert break_even(9990, 1000) == 10
    assert break_even(9991, 1000) == 11
    assert break_even(0, 1000) == 0
