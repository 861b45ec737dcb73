"""A kind of guarantee is one object: nobody else asks for its name, and a new one is one file."""

import ast
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Optional

import numpy as np
import pytest

from rrise.calibration import CalibrationError, Guarantee, calibrate, check_rank
from rrise.calibration.promise import kinds
from rrise.calibration.promise.kinds import KINDS, RULES
from rrise.calibration.promise.kinds.kind import Kind
from rrise.calibration.promise.plan import choose_plan
from rrise.calibration.statistics.ranks import pac_rank
from rrise.trainer.settings.text import COMMENTS
from tests.calibration.helpers import draw_scores

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("calibration", "edge_sdk", "export", "trainer")


def test_no_module_compares_with_the_name_of_a_kind() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare):
                    named = {item.value for item in ast.walk(node) if isinstance(item, ast.Constant)} & set(
                        KINDS
                    )
                    assert not named, f"{path.relative_to(ROOT)}:{node.lineno} asks for kind {named}"


def test_names_are_the_keys() -> None:
    assert tuple(kind.name for kind in RULES.values()) == KINDS
    assert all(name in COMMENTS["guarantee.kind"] for name in KINDS)


@dataclass(frozen=True)
class Careful(Kind):
    """At half the level, in words of its own."""

    def rank(self, units: int, alpha: Fraction, delta: Optional[Fraction]) -> Optional[int]:
        return pac_rank(units, alpha / 2, delta or Fraction(0))

    def promise(self, error: str) -> str:
        return f"at most half of {error} of new frames receive a wrong certificate"


def test_a_new_kind_is_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.RULES, "careful", Careful("careful"))
    guarantee = Guarantee.of("careful", "0.2")
    assert (
        guarantee == Guarantee.from_json(guarantee.to_json())
        and "at most half of 20 %" in guarantee.sentence()
    )
    with pytest.raises(CalibrationError, match="expected 'pac' or 'marginal'"):
        replace(guarantee, guard=object())  # type: ignore[arg-type]
    tuning, scores = draw_scores(1, 300, split="tuning", start=1000), draw_scores(2, 300)
    plan = choose_plan(tuning, guarantee)
    record = calibrate(scores, guarantee, plan.map)
    assert record.head.offset > calibrate(scores, Guarantee.of("pac", "0.2"), plan.map).head.offset
    assert record.rank == Guarantee.of("pac", "0.1").rank(300)
    assert check_rank(scores, record.head.radius(scores.probit, scores.label), record)


def test_what_is_counted() -> None:
    wrong = np.array([True, False, True, True, False, False])
    clip = np.array([4, 4, 4, 2, 2, 9])
    arrays = {"clip": clip, "issued": np.array([True, True, True, False, False, True])}
    arrays["independent"] = np.array([0, 3, 5])
    label = np.array([0, 1, 0, 1, 1, 2])
    found = {name: kind.trials(wrong, label=label, classes=3, **arrays) for name, kind in RULES.items()}
    assert found["pac"] == found["marginal"] == [(2, 3)]
    assert found["selective"] == [(1, 2)]
    assert found["per-class"] == [(1, 1), (1, 1), (0, 1)]
    assert found["whole-clip"] == [(2, 3)]
    mask = np.isin(np.arange(6), arrays.pop("independent"))
    assert found == {
        name: kind.trials(wrong, label=label, classes=3, independent=mask, **arrays)
        for name, kind in RULES.items()
    }
