"""Options that several commands of `rrise-calibrate` share: the guarantee, and lists of numbers."""

from __future__ import annotations

from typing import Any, Callable, List, Optional

import click

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.promise.kinds import KINDS, kind_named
from rrise.calibration.promise.objective import Objective


def guarantee_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that make up a guarantee, shared by `fit` and `study`."""
    for option in reversed(
        (
            click.option("--kind", type=click.Choice(KINDS), default="pac", show_default=True),
            click.option("--error", default="0.05", show_default=True, help="Error level eps."),
            click.option(
                "--confidence",
                help="Over the calibration set; not for marginal.  [default: 0.95]",
                default=None,
            ),
            click.option(
                "--beta", default="0.1", show_default=True, help="Miss probability of each Monte Carlo bound."
            ),
            click.option(
                "--rho", type=float, help="Guarded tier: L2 distance that an attacker may move a frame."
            ),
            click.option("--noise", type=float, help="Guarded tier: standard deviation of the fresh noise."),
        )
    ):
        function = option(function)
    return function


def guarantee_from(
    kind: str, error: str, confidence: Optional[str], beta: str, rho: Optional[float], noise: Optional[float]
) -> Guarantee:
    """The guarantee that these options describe; raises CalibrationError where they contradict each other."""
    if confidence is not None and not kind_named(kind).has_confidence:
        raise CalibrationError(
            f"--confidence: got it with --kind {kind}, which has none; leave it out or use pac"
        )
    if (rho is None) != (noise is None):
        raise CalibrationError(
            "--rho and --noise belong together; give both for the guarded tier, or neither"
        )
    guard = None if rho is None or noise is None else Guard(rho, noise)
    return Guarantee.of(kind, error, confidence or "0.95", beta, guard)


def radius_options(without: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--radius` and `--weights`; `without` says what decides where no radius is given."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.option(
            "--weights", help="What a certificate of each radius is worth, as in 1,1,1.6.  [default: 1]"
        )(function)
        return click.option(
            "--radius",
            help="As many certificates as possible of this radius, mostly the only one issued then; or of these, as in "
            f"0.25,0.5,0.75 (a staircase).  [default: {without}]",
        )(function)

    return decorate


def objective_from(radius: Optional[str], weights: Optional[str]) -> Objective:
    """What `radius_options` describe; raises CalibrationError where they make no sense."""
    return Objective.of(
        None if radius is None else parse_numbers(radius, "--radius"),
        () if weights is None else parse_numbers(weights, "--weights"),
    )


def parse_numbers(text: str, name: str) -> List[float]:
    """Numbers separated by commas; `name` is the option in the error."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise CalibrationError(f"{name}: got {text!r}, expected numbers such as 0,0.25,0.5") from None
