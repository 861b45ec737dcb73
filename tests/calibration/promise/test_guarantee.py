"""Guarantees in numbers and in words."""

from fractions import Fraction
from typing import Any

import pytest

from rrise.calibration import CalibrationError, Guarantee
from rrise.calibration.promise.guarantee import KINDS, percent


@pytest.mark.parametrize("kind", KINDS)
def test_json_round_trip(kind: str) -> None:
    guarantee = Guarantee.of(kind, "0.045", "0.99", "1/7")
    assert Guarantee.from_json(guarantee.to_json()) == guarantee


def test_the_default_is_pac_at_five_per_cent_with_confidence_95() -> None:
    guarantee = Guarantee.of()
    assert (guarantee.kind, guarantee.error, guarantee.confidence) == (
        "pac",
        Fraction(1, 20),
        Fraction(19, 20),
    )
    assert guarantee.alpha == Fraction(9, 200)  # eps (1 - beta), exactly


def test_numbers_of_the_default() -> None:
    guarantee = Guarantee.of()
    assert guarantee.frames_needed() == 66  # .955^65 = .0501, .955^66 = .0479
    assert guarantee.rank(65) is None and guarantee.rank(66) == 66
    assert guarantee.wrong_per_hour(30) == pytest.approx(0.05 * 30 * 3600)
    assert guarantee.ten_times_smaller().frames_needed() == 665
    assert guarantee.cost_of_ten_times_less() == "error 0.5 % needs at least 665 calibration frames"


def test_numbers_of_the_marginal_kind() -> None:
    guarantee = Guarantee.of("marginal", "0.05", beta="0.1")
    assert guarantee.confidence is None
    assert guarantee.frames_needed() == 22 and guarantee.rank(21) is None and guarantee.rank(22) == 22
    with pytest.raises(CalibrationError, match="no confidence"):
        _ = guarantee.delta


@pytest.mark.parametrize("kind", KINDS)
def test_words_name_level_unit_and_conditions(kind: str) -> None:
    guarantee = Guarantee.of(kind, "0.02", "0.9")
    assert "2 %" in guarantee.sentence() and "provided that" in guarantee.sentence()
    assert ("90 %" in guarantee.sentence()) == (kind != "marginal")
    assert guarantee.unit in guarantee.cost_of_ten_times_less()
    assert len(guarantee.conditions()) >= 5 and all(text.endswith(".") for text in guarantee.conditions())
    assert "distribution shift" in guarantee.limits() and "attacker" in guarantee.limits()


def test_each_kind_says_something_else() -> None:
    assert len({Guarantee.of(kind).sentence() for kind in KINDS}) == len(KINDS)
    assert "that receive a certificate" in Guarantee.of("selective").sentence()
    assert "clips" in Guarantee.of("whole-clip").sentence()
    assert "among the frames that do receive" not in Guarantee.of("selective").limits()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "exact"}, "kind 'exact', expected one of"),
        ({"error": "0"}, "error: got 0"),
        ({"error": "1.5"}, "error: got 1.5"),
        ({"confidence": "95"}, "confidence: got 95"),
        ({"beta": "-0.1"}, "beta: got -0.1"),
        ({"beta": "0.9"}, "beta: got 0.9, expected at most 0.5"),
        ({"confidence": "0.05"}, "perhaps 0.95 is meant"),
        ({"error": "0.95"}, "perhaps 0.05 is meant"),
    ],
)
def test_levels_out_of_range_or_contradictory(arguments: "dict[str, Any]", message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Guarantee.of(**arguments)


def test_confidence_belongs_to_every_kind_but_marginal() -> None:
    with pytest.raises(CalibrationError, match="every other kind needs one"):
        Guarantee(Fraction(1, 20), None)
    with pytest.raises(CalibrationError, match="marginal has none"):
        Guarantee(Fraction(1, 20), Fraction(19, 20), kind="marginal")


def test_percent() -> None:
    assert [percent(Fraction(text)) for text in ("0.05", "0.001", "1/3")] == ["5 %", "0.1 %", "33.3333 %"]
    assert percent(Fraction("0.999999")) == "99.9999 %"
    assert percent(Fraction("0.99999999")) == "just under 100 %"


def test_the_bound_among_issued_certificates_and_its_warning() -> None:
    """eps / share issued: .05 over 40 % is an eighth, over 20 % a quarter, which is more than a fifth."""
    plenty, few = Guarantee.of().among_issued(400, 1000), Guarantee.of().among_issued(200, 1000)
    assert plenty.bound == pytest.approx(0.125) and not plenty.warns and "WARNING" not in plenty.sentence()
    assert few.bound == pytest.approx(0.25) and few.warns and "WARNING: more than a fifth" in few.sentence()
    assert Guarantee.of().among_issued(250, 1000).warns is False, "exactly a fifth is not more"
    assert Guarantee.of("selective").among_issued(10, 1000).bound == 0.05
    assert Guarantee.of().among_issued(10, 1000).bound == 1.0
    nothing = Guarantee.of().among_issued(0, 1000)
    assert nothing.bound == 1.0 and "no certificate was issued" in nothing.sentence()


def test_what_devices_spend_at_all_bundles_of_a_product_is_at_most_delta_together() -> None:
    pac, marginal = Guarantee.of(), Guarantee.of("marginal")
    pairs = [(bundle, here) for bundle in range(1, 60) for here in range(1, 60)]
    assert sum(pac.spent_here(*pair).delta for pair in pairs) < pac.delta
    assert sum(marginal.spent_here(*pair).error for pair in pairs) < marginal.error
    assert pac.spent_here(1, 1) == pac.spent(1) and pac.spent_here(0, 3) == pac.spent(3)
    assert pac.spent_here(7, 1).delta == pac.delta / 392 < pac.spent(7).delta
    for impossible in ((1, 0), (-1, 1), (0, -1)):
        with pytest.raises(CalibrationError, match="attempt"):
            pac.spent_here(*impossible)
