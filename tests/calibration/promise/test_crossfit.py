"""Cross-fitting foretells what a calibration then gives, for every kind of guarantee."""

from dataclasses import replace

import numpy as np
import pytest

from rrise.calibration import CalibrationError, Guarantee, Scores, calibrate
from rrise.calibration.promise.crossfit import (
    STEPS,
    cross_fitted_radii,
    fit_map,
    map_names,
    rank_share,
    signed_reference,
)
from rrise.calibration.promise.objective import MEAN_RADIUS, Objective
from rrise.calibration.promise.offsets import label_reference
from rrise.calibration.promise.selective import choose_threshold
from rrise.calibration.statistics.stages import FIRST_SHARE
from tests.calibration.helpers import draw_scores

TUNING = draw_scores(1, 1000, 5000, noise=0.3, split="tuning", start=10**6)
CALIBRATION = draw_scores(2, 1000, 5000, noise=0.3)
WANTED = Objective.of(0.3)
TEST = draw_scores(3, 5000, 5000, noise=0.3, split="test", start=10**7)


def _clips(scores: Scores, size: int) -> Scores:
    return replace(scores, clip=np.arange(len(scores)) // size)


@pytest.mark.parametrize("name", ["identity", "clopper-pearson", "quantile 1", "step"])
def test_it_foretells_what_calibration_gives(name: str) -> None:
    guarantee = Guarantee.of("pac", "0.1")
    foretold = cross_fitted_radii(TUNING, guarantee, name, objective=WANTED, num_calibration=1000)
    curve = fit_map(name, TUNING, guarantee, objective=WANTED)
    head = calibrate(CALIBRATION, guarantee, curve).head
    given = head.radius(TEST.probit, TEST.label)
    for radius in (0.001, 0.25, 0.3, 0.4):
        assert np.mean(foretold >= radius) == pytest.approx(np.mean(given >= radius), abs=0.07)


@pytest.mark.parametrize("kind", ["per-class", "selective", "whole-clip", "marginal"])
def test_every_kind(kind: str) -> None:
    guarantee = Guarantee.of(kind, "0.1")
    size = 4 if kind == "whole-clip" else 1
    tuning, calibration = _clips(TUNING, size), _clips(CALIBRATION, size)
    foretold = cross_fitted_radii(tuning, guarantee, "clopper-pearson")
    curve = fit_map("clopper-pearson", tuning, guarantee)
    threshold = choose_threshold(tuning, guarantee, curve) if kind == "selective" else None
    head = calibrate(calibration, guarantee, curve, threshold=threshold).head
    given = head.radius(TEST.probit, TEST.label)
    assert np.mean(foretold > 0) == pytest.approx(np.mean(given > 0), abs=0.08)
    assert foretold.shape[0] % len(STEPS) == 0 and foretold.shape[1] == 1000


def test_a_class_or_selection_with_too_few_frames_is_foretold_to_abstain() -> None:
    small = TUNING.take(np.arange(120))
    assert (cross_fitted_radii(small, Guarantee.of("per-class"), "identity") == 0).all()
    assert (cross_fitted_radii(small, Guarantee.of("selective", "0.02"), "identity") == 0).all()


def test_maps_are_fitted_to_the_references_that_the_offset_will_meet() -> None:
    """Beta was split: the bounds that a calibration compares with are smaller than those of the counts at all of beta."""
    guarantee = Guarantee.of("pac", "0.1")
    whole = signed_reference(TUNING, guarantee)
    stored = label_reference(TUNING, 0.1 * FIRST_SHARE)
    split = signed_reference(replace(TUNING, reference=stored, beta=0.1), guarantee)
    assert (split[whole > 0] == stored[whole > 0]).all() and (split <= whole + 1e-6).all()
    assert (split[whole <= 0] == whole[whole <= 0]).all() and (whole <= 0).any()


def test_clips_are_never_divided() -> None:
    """Two frames of one clip lie in the same half, so equal frames of a clip get equal radii."""
    twice = TUNING.take(np.repeat(np.arange(200), 2))
    paired = replace(twice, clip=np.repeat(np.arange(200), 2))
    found = cross_fitted_radii(paired, Guarantee.of("pac", "0.1"), "quantile 1")
    assert (found[:, ::2] == found[:, 1::2]).all()


def test_names_depend_on_what_there_is() -> None:
    guarantee = Guarantee.of()
    few = [name for name, _ in map_names(TUNING.take(np.arange(30)), guarantee, WANTED)]
    assert few == ["clopper-pearson", "identity", "step"]
    assert not any(name == "step" for name, _ in map_names(TUNING, guarantee, MEAN_RADIUS))
    assert "staircase" in dict(map_names(TUNING, guarantee, Objective.of([0.2, 0.3])))
    with_head = replace(TUNING, difficulty=np.ones(1000, np.float32))
    assert ("identity", True) in list(map_names(with_head, guarantee, MEAN_RADIUS))


def test_rank_share_and_a_step_without_radius() -> None:
    assert rank_share(Guarantee.of(), 1000) == Guarantee.of().rank(1000) / 1000
    assert rank_share(Guarantee.of(), 10) == pytest.approx(0.955)
    with pytest.raises(CalibrationError, match="needs the radius"):
        fit_map("step", TUNING, Guarantee.of())
