"""The benchmark's arithmetic; how fast this machine is, is not asserted."""

from __future__ import annotations

import numpy as np
import pytest

from edge_sdk import Certifier, EdgeError
from edge_sdk.bench import Latency, bench


def test_percentiles_are_samples_and_keep_the_outlier():
    seconds = np.random.default_rng(0).permutation(np.arange(1, 1001).astype(float))
    seconds[seconds == 1000] = 5e6
    latency = Latency.of(seconds)
    assert (latency.p50, latency.p90, latency.p99, latency.p999) == (500, 900, 990, 999)
    assert (latency.largest, latency.samples) == (5e6, 1000)
    assert Latency.of(np.array([3.0])) == Latency(3, 3, 3, 3, 3, 1)


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
