"""Piecewise-linear maps against numpy's interpolation, and the Clopper-Pearson map against the bound itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrise.calibration import IDENTITY, CalibrationError, RadiusMap, clopper_pearson_map
from rrise.calibration.promise.maps import step_map
from rrise.calibration.statistics.bounds import lower_radius

knots = st.lists(
    st.tuples(st.floats(0.0078125, 1, width=32), st.floats(0, 1, width=32, allow_subnormal=False)),
    min_size=2,
    max_size=30,
)


def _map(steps: "list[tuple[float, float]]") -> RadiusMap:
    x, y = np.cumsum(np.array(steps, np.float32), axis=0).T
    return RadiusMap("drawn", tuple(x - 5), tuple(y - 5))


@given(knots, st.lists(st.floats(-20, 40, width=32, allow_subnormal=False), min_size=1, max_size=20))
def test_map_is_linear_interpolation_and_never_falls(
    steps: "list[tuple[float, float]]", values: "list[float]"
) -> None:
    curve = _map(steps)
    plugin = np.sort(np.array(values, np.float32))
    found = curve(plugin)
    assert found.dtype == np.float32
    scale = max(abs(curve.y[0]), abs(curve.y[-1]), 1.0)
    assert found == pytest.approx(np.interp(plugin, curve.x, curve.y), abs=1e-5 * scale)
    assert (np.diff(found) >= -1e-5 * scale).all()


@given(knots)
def test_map_passes_through_its_knots(steps: "list[tuple[float, float]]") -> None:
    curve = _map(steps)
    assert (curve(np.array(curve.x[:-1], np.float32)) == np.array(curve.y[:-1], np.float32)).all()


def test_nan_stays_nan_and_the_ends_are_flat() -> None:
    curve = RadiusMap("line", (0.0, 1.0, 2.0), (0.0, 0.5, 0.75))
    found = curve(np.array([np.nan, -5, 5, np.inf, -np.inf], np.float32))
    assert np.isnan(found[0]) and found[1:].tolist() == [0.0, 0.75, 0.75, 0.0]


def test_identity_changes_nothing() -> None:
    values = np.array([-1, 0.1, 3], np.float32)
    assert IDENTITY(values) is values or (IDENTITY(values) == values).all()


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((0.0,), (1.0,)),
        ((0.0, 1.0), (1.0,)),
        ((0.0, 0.0), (0.0, 1.0)),
        ((0.0, 1e-60), (0.0, 1.0)),
        ((0.0, 1.0), (1.0, 0.5)),
        ((0.0, float("nan")), (0.0, 1.0)),
        ((0.0, 1.0), (0.0, float("inf"))),
        ((0.0, 1e300), (0.0, 1.0)),
    ],
)
def test_tables_that_are_no_monotone_map_are_refused(x: "tuple[float, ...]", y: "tuple[float, ...]") -> None:
    with pytest.raises(CalibrationError, match="map bad"):
        RadiusMap("bad", x, y)


def test_json_round_trip_is_exact() -> None:
    curve = clopper_pearson_map(0.25, 2000, 0.1)
    again = RadiusMap.from_json(curve.to_json())
    assert again == curve and (again.slope == curve.slope).all()


@pytest.mark.parametrize("num_samples", [100, 2000, 100_000])
def test_clopper_pearson_map_follows_the_bound_at_whole_counts(num_samples: int) -> None:
    from scipy.stats import norm

    curve = clopper_pearson_map(0.25, num_samples, 0.1)
    hits = np.unique(np.linspace(0.55 * num_samples, num_samples - 1, 200).astype(int))
    plugin = (0.25 * norm.ppf(hits / num_samples)).astype(np.float32)
    # Between knots a chord of a curve: within two per cent of sigma.
    assert curve(plugin) == pytest.approx(lower_radius(hits, num_samples, 0.25, 0.1), abs=0.005)
    assert curve(np.array([50.0], np.float32))[0] == pytest.approx(
        0.25 * norm.ppf(0.1 ** (1 / num_samples)), abs=0.002
    )


@pytest.mark.parametrize(
    ("sigma", "num_samples", "beta"), [(0.0, 100, 0.1), (0.25, 0, 0.1), (0.25, 100, 0.0), (0.25, 100, 1.0)]
)
def test_clopper_pearson_map_refuses_impossible_arguments(
    sigma: float, num_samples: int, beta: float
) -> None:
    with pytest.raises(CalibrationError, match="clopper_pearson_map: got"):
        clopper_pearson_map(sigma, num_samples, beta)


@given(st.floats(1e-30, 1e30))
def test_a_step_is_the_least_float32_that_answers_the_request(radius: float) -> None:
    curve = step_map(radius)
    assert curve.is_identity and curve.is_step
    step = np.float32(curve.radii[0])
    assert float(step) == curve.radii[0] >= radius > float(np.nextafter(step, np.float32(0)))
    assert RadiusMap.from_json(curve.to_json()) == curve


def test_a_map_without_a_step_is_stored_as_before() -> None:
    assert set(IDENTITY.to_json()) == {"name", "x", "y"}
    assert RadiusMap.from_json({"name": "identity", "x": [], "y": []}).radii == ()


@pytest.mark.parametrize("radius", [0.0, -0.1, float("nan"), float("inf"), 1e39])
def test_a_step_is_a_positive_radius(radius: float) -> None:
    with pytest.raises(CalibrationError, match="expected a positive radius"):
        step_map(radius)
