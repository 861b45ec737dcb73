"""`rrise-edge demo`: what a bundle says about any camera, video or pictures, for a first look."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Tuple

import click

from rrise.calibration.console import json_option, run_command, summary
from rrise.edge_sdk.commands.operate import stopped_by_signals
from rrise.edge_sdk.commands.options import bundle_argument, runtime_options, trust_of, trust_options
from rrise.edge_sdk.errors import EdgeError

if TYPE_CHECKING:
    from rrise.edge_sdk.certificate import Certificate
    from rrise.edge_sdk.certifier import Certifier
    from rrise.edge_sdk.frames.inputs import Roi
    from rrise.edge_sdk.stream.captured import FrameSource

LIVE_FRAMES = 300
LINES = 20
"""Frames of a camera before the command ends by itself, and lines that it prints at most."""


@click.command()
@bundle_argument
@click.argument("source")
@click.option("--count", type=int, help=f"Stop after so many frames. [default: {LIVE_FRAMES} of a camera]")
@click.option(
    "--allow-unverified", is_flag=True, help="Show radii that the guarantee does not cover on this machine."
)
@json_option
@runtime_options
@trust_options
@run_command
def demo(
    bundle: Path,
    source: str,
    count: Optional[int],
    allow_unverified: bool,
    json_flag: bool,
    **options: Any,
) -> None:
    """Show what BUNDLE says about SOURCE: a camera number, a video, a picture or a folder of pictures of any size.

    Frames of another size are cropped and resized to fit, which a robot must not do; `certify` and `watch` refuse them.
    """
    from rrise.edge_sdk.certifier import Certifier

    if count is not None and count < 1:
        raise EdgeError(f"--count: got {count}, expected a number of frames from 1 on")
    told, resized = Told(json_flag), 0
    with (
        Certifier.load(
            bundle, allow_unverified=allow_unverified, trust=trust_of(options), **options
        ) as loaded,
        loaded.clone() as certifier,  # which leaves the drift monitor alone: these frames are no evidence
        stopped_by_signals(),
    ):
        height, width = frame_size(certifier)
        for frame_id, certificate, fitted in _answers(certifier, source, (height, width), count):
            told.add(frame_id, certificate)
            resized += fitted
    rows, as_json = told.rows(), {**told.to_json(), "resized": resized}
    if resized:
        rows.append(
            (
                "attention",
                f"{resized} frames were cropped and resized to {width}x{height} for show; the promise is about frames like"
                " those of the calibration",
            )
        )
    if certifier.withheld and not told.certified:
        rows.append(("withheld", certifier.withheld))
    summary(f"{bundle} on {source}", rows, as_json, json_flag)


class Told:
    """Counts answers and prints some: those that differ from the one before, up to a number of lines."""

    def __init__(self, silent: bool) -> None:
        self._silent = silent
        self._before: Tuple[Any, ...] = ()
        self._lines = 0
        self.statuses: Dict[str, int] = Counter()
        self.classes: Dict[str, int] = Counter()
        self.radii: List[float] = []

    @property
    def certified(self) -> int:
        """How many frames have a certificate."""
        return len(self.radii)

    def add(self, frame_id: object, certificate: "Certificate") -> None:
        """Count one answer, and print it where it is news."""
        self.statuses[certificate.status.value] += 1
        if certificate:
            self.radii.append(certificate.radius)
            self.classes[str(certificate.name)] += 1
        now = (certificate.status, certificate.name)
        if not self._silent and now != self._before and self._lines <= LINES:
            self._lines += 1
            more = self._lines > LINES
            click.echo(
                "... further frames are counted only" if more else f"{frame_id}  {certificate.to_line()}"
            )
        self._before = now

    def rows(self) -> List[Tuple[str, str]]:
        """Name and value of each line of the summary."""
        total = sum(self.statuses.values())
        rows = [("frames", str(total)), ("certified", f"{self.certified} of {total}")]
        if self.radii:
            rows.append(("radius", f"median {median(self.radii):.3g}, largest {max(self.radii):.3g}"))
            names = sorted(self.classes.items(), key=lambda pair: -pair[1])
            rows.append(("labels", ", ".join(f"{name}: {number}" for name, number in names[:10])))
        rows += [(status, str(number)) for status, number in self.statuses.items() if status != "certified"]
        return rows

    def to_json(self) -> Dict[str, Any]:
        """The same for machines."""
        return {
            "statuses": dict(self.statuses),
            "classes": dict(self.classes),
            "median_radius": median(self.radii) if self.radii else None,
        }


def frame_size(certifier: "Certifier") -> Tuple[int, int]:
    """Height and width that the bundle takes. Raises: EdgeError: it takes no uint8 frames."""
    signature = certifier.runtime.graph.signature
    if signature.dtype != "uint8":
        raise EdgeError(
            f"demo: the bundle takes {signature.dtype} {list(signature.frame_shape)}, expected one that takes uint8 frames;"
            " call `Certifier.certify` with arrays of your own"
        )
    return signature.frame_shape[0], signature.frame_shape[1]


def middle(shape: Tuple[int, ...], size: Tuple[int, int]) -> "Optional[Roi]":
    """The largest rectangle in the middle of a picture that has the proportions of `size`; None where the size fits."""
    from rrise.edge_sdk.frames.inputs import Roi

    height, width = shape[0], shape[1]
    if (height, width) == size:
        return None
    scale = min(height / size[0], width / size[1])
    rows, columns = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    return Roi((width - columns) // 2, (height - rows) // 2, columns, rows)


def _answers(
    certifier: "Certifier", source: str, size: Tuple[int, int], count: Optional[int]
) -> "Iterator[Tuple[object, Certificate, bool]]":
    """Frame id, certificate and whether the frame was resized for it, frame by frame."""
    from rrise.edge_sdk.certificate import Status, withheld

    opened = _open(source, certifier.bundle.manifest.input.encoding)
    limit = count if count is not None else LIVE_FRAMES if opened.live else None
    number = 0
    try:
        while limit is None or number < limit:
            captured = opened.read()
            if captured is None:
                return
            number += 1
            seen, when = captured.frame_id, captured.capture_time
            if captured.problem:
                answer = withheld(Status.INVALID_INPUT, captured.problem, capture_time=when, frame_id=seen)
                yield seen, answer, False
                continue
            roi = middle(captured.frame.shape, size)
            answer = certifier.certify(captured.frame, encoding=captured.encoding, roi=roi, frame_id=seen)
            yield seen, answer, roi is not None
    finally:
        opened.close()


def _open(source: str, encoding: str) -> "FrameSource":
    """Raises: EdgeError: nothing there, or a library is missing; for a camera with what else could be tried."""
    from rrise.edge_sdk.stream.captured import SourceLost
    from rrise.edge_sdk.stream.sources import open_frame_source

    try:
        return open_frame_source(int(source) if source.isdigit() else source, encoding=encoding)
    except SourceLost as error:
        if not source.isdigit():
            raise
        raise EdgeError(
            f"{error}; got camera {source}, expected one that this machine has (`ls /dev/video*`). A video file or a folder"
            " of pictures will do as well"
        ) from error
