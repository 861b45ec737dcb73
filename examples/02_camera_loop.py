"""A camera loop over a recorded stream: certify every frame, act on certified ones, report what was seen.

python examples/02_camera_loop.py demo/bundle demo/references/test.npz
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from rrise.calibration.console import run_command, summary
from rrise.calibration.tables.latency import percentiles
from rrise.edge_sdk import Certificate, Certifier


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("recording", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--count", default=1000, show_default=True, help="Frames to play; a short recording is repeated."
)
@run_command
def main(bundle: Path, recording: Path, count: int) -> None:
    """Play RECORDING, an .npz with uint8 `frames` [n, H, W, C], through BUNDLE."""
    statuses: Counter[str] = Counter()
    latencies = []
    acted = 0
    with Certifier.load(bundle) as certifier:
        for frame in play(recording, count):
            certificate = certifier.certify(frame)
            if certificate:
                acted += act(certificate)
            statuses[certificate.status.value] += 1
            latencies.append(certificate.latency * 1e6)
        promise = certifier.guarantee
    times = percentiles(np.array(latencies))
    rows = [
        *((status, str(number)) for status, number in statuses.most_common()),
        ("acted on", str(acted)),
        ("latency", f"p50 {times['p50']:.0f} us, p99 {times['p99']:.0f} us, max {times['max']:.0f} us"),
        ("promise", promise.sentence() if promise else "none"),
    ]
    summary("Camera loop", rows, {}, False)


def play(recording: Path, count: int) -> Iterator[np.ndarray]:
    """Frames of the recording in order, again from the start when they run out."""
    with np.load(recording, allow_pickle=False) as archive:
        frames = archive["frames"]
    for number in range(count):
        yield frames[number % len(frames)]


def act(certificate: Certificate) -> bool:
    """What a robot does with a certified answer; this one demands a margin of a tenth of a pixel range."""
    return certificate.radius > 0.1


if __name__ == "__main__":
    main()
