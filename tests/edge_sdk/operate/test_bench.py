"""The benchmark's arithmetic; how fast this machine is, is not asserted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rrise.edge_sdk import Certifier, EdgeError
from rrise.edge_sdk.operate.bench import Pacing, Percentiles, bench, bench_rows, quantile_interval, time_base


def test_percentiles_are_samples_and_keep_the_outlier():
    seconds = np.random.default_rng(0).permutation(np.arange(1, 1001).astype(float))
    seconds[seconds == 1000] = 5e6
    latency = Percentiles.of(seconds)
    assert (latency.p50, latency.p90, latency.p99, latency.p999) == (500, 900, 990, 999)
    assert (latency.largest, latency.samples) == (5e6, 1000)
    alone = Percentiles.of(np.array([3.0]))
    assert (alone.p50, alone.p999, alone.samples, alone.p999_interval) == (3, 3, 1, (3.0, np.inf))


def test_bench_times_all_three_and_reports_ratios(hand_bundle):
    with Certifier.load(hand_bundle) as certifier:
        result = bench(certifier, count=50, warm_up=5)
    assert result.certify.samples == result.bare.samples == result.again.samples == 50
    assert result.ratio == result.certify.p50 / result.bare.p50
    assert result.overhead == pytest.approx(result.certify.p50 - result.bare.p50)
    value = result.to_json()
    assert value["null_ratio"] == result.again.p50 / result.bare.p50
    assert 0 < value["bare"]["p50"] <= value["bare"]["largest"]


def test_bad_requests_are_refused(hand_bundle, batch_bundle):
    with Certifier.load(hand_bundle) as certifier, pytest.raises(EdgeError, match="at least 1"):
        bench(certifier, count=0)
    with Certifier.load(batch_bundle) as certifier, pytest.raises(EdgeError, match="batch size"):
        bench(certifier)


@pytest.mark.parametrize("count", [1000, 5000, 20000])
def test_interval_ranks_are_scipys_binomial_quantiles(count):
    ordered = np.arange(1, count + 1, dtype=float)
    low, high = quantile_interval(ordered, 0.999)
    ranks = stats.binom(count, 0.999)
    assert ranks.cdf(low - 1) <= 0.025 < ranks.cdf(low)
    if np.isfinite(high):
        assert ranks.cdf(high - 1) >= 0.975 > ranks.cdf(high - 2)
    else:
        assert ranks.cdf(count - 1) < 0.975


def test_the_interval_covers_the_quantile():
    """2,000 sets of 400 uniform samples, p90: at least 94 % covered but for 3 standard deviations (1.5 %)."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        low, high = quantile_interval(np.sort(rng.random(400)), 0.9)
        covered += low <= 0.9 <= high
    assert covered / 2000 > 0.95 - 0.015


def test_paced_calls_wait_for_their_arrival(hand_bundle):
    waited: list[float] = []
    with Certifier.load(hand_bundle) as certifier:
        fixed = Pacing(rate=50.0, deadline=1e-9)
        result = bench(certifier, count=20, warm_up=2, pacing=fixed, wait=waited.append)
        assert waited == [0.02] * 66 and result.deadline_misses == 20
        waited.clear()
        bench(certifier, count=200, warm_up=0, pacing=Pacing(rate=50.0, random=True), wait=waited.append)
    gaps = np.array(waited)
    assert len(set(waited)) == 600 and abs(gaps.mean() - 0.02) < 0.003 and abs(gaps.std() - 0.02) < 0.004
    assert dict(bench_rows(result))["deadline"] == "20 of 20 missed 1e-09 s"


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"deadline": -1}, {"random": True}, {"rate": float("nan")}])
def test_impossible_pacing_is_refused(wrong):
    with pytest.raises(EdgeError):
        Pacing(**wrong)


def test_time_of_a_base_classifier(tmp_path, hand_bundle):
    from onnx import parser

    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 3, 4, 4] x) => (float[N, 3] y) { y = ReduceSum(x, axes) }'
    model = parser.parse_model(text)
    import onnx

    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3]), "axes"))
    del model.graph.output[0].type.tensor_type.shape.dim[1]
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("keepdims", 0))
    onnx.save(model, tmp_path / "base.onnx")
    assert time_base(str(tmp_path / "base.onnx"), seconds=0.01) > 0
    with Certifier.load(hand_bundle) as certifier:
        result = bench(certifier, count=20, warm_up=2)
    told = dict(bench_rows(result, base_pass=result.certify.p50))["Monte Carlo"]
    assert "10,000 times one certificate" in told
    (tmp_path / "none.onnx").write_bytes(b"")
    with pytest.raises(EdgeError):
        time_base(str(tmp_path / "none.onnx"))
