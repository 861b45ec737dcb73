"""A benchmark as lines of a summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional, Tuple

if TYPE_CHECKING:
    from rrise.edge_sdk.operate.bench import Benchmark, Pacing

MONTE_CARLO_SAMPLES = 10_000
"""Base passes that a certificate is compared with."""


def bench_rows(result: Benchmark, base_pass: Optional[float] = None) -> List[Tuple[str, str]]:
    """Name and value of each line of the summary; `base_pass` is the seconds of one base forward pass."""
    rows = [
        ("machine", result.machine),
        ("execution", result.execution),
        ("arrivals", _arrivals(result.pacing)),
    ]
    for name, latency in (("certify", result.certify), ("bare", result.bare), ("bare again", result.again)):
        values = (latency.p50, latency.p90, latency.p99, latency.p999, latency.largest)
        figures = " / ".join(f"{value * 1e6:,.1f}" for value in values)
        rows.append((name, f"{figures} us (p50 / p90 / p99 / p99.9 / max of {latency.samples})"))
    low, high = (f"{value * 1e6:,.1f}" for value in result.certify.p999_interval)
    memory = "unknown" if result.resident_growth is None else f"{result.resident_growth / 1024:,.0f} KiB"
    rows += [
        (
            "ratio",
            f"{result.ratio:.3f} at p50, {result.ratio_p99:.3f} at p99, {result.ratio_p999:.3f} at p99.9",
        ),
        (
            "null ratio",
            f"{result.null_ratio:.3f} at p50, {result.null_ratio_p999:.3f} at p99.9 (bare against bare)",
        ),
        ("p99.9", f"between {low} and {high} us with 95 % confidence"),
        ("overhead", f"{result.overhead * 1e6:.1f} us at p50"),
        (
            "memory",
            f"{result.new_blocks} heap blocks left by {result.certify.samples} rounds, resident memory grew by {memory}",
        ),
    ]
    if result.deadline_misses is not None:
        rows.append(
            (
                "deadline",
                f"{result.deadline_misses} of {result.certify.samples} missed {result.pacing.deadline:g} s",
            )
        )
    if base_pass is not None:
        monte_carlo = base_pass * MONTE_CARLO_SAMPLES
        times = monte_carlo / result.certify.p50
        rows.append(
            (
                "Monte Carlo",
                f"{monte_carlo:,.2f} s for N = {MONTE_CARLO_SAMPLES:,} base passes, {times:,.0f} times one certificate",
            )
        )
    return rows


def _arrivals(pacing: Pacing) -> str:
    if pacing.rate is None:
        return "back to back"
    return f"{'randomly spaced, on average' if pacing.random else 'fixed,'} {pacing.rate:g} a second"
