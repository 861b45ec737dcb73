"""What n replayed frames prove about an execution that was not calibrated but verified.

On the replayed frames no certificate exceeds the recorded one by more than the margin. For independent frames, the share of
new frames on which one does is then at most t = 1 - d^(1/n) with confidence 1 - d: with a larger share, n frames without one
had a probability below d. Each of them may be wrong, so t adds to the error level, and d to delta.
"""

from __future__ import annotations

from fractions import Fraction
from statistics import NormalDist

import numpy as np

from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.tables.references import References
from rrise.edge_sdk.device.belonging import independent_rows

DELTA = Fraction(1, 20)
"""d of a marginal guarantee, which has no confidence of its own."""


def independent_units(references: References, guarantee: Guarantee, paired: np.ndarray) -> int:
    """Of the replayed frames, bool [n], how many count: one of each clip, or for whole clips the clips."""
    if guarantee.rules.whole_clips:
        return guarantee.rules.num_draws(references.clip[paired])
    return int(paired[independent_rows(references)].sum())


def unseen_share(guarantee: Guarantee, units: int) -> float:
    """t: the largest share of new frames (clips) beyond the margin that `units` replayed ones do not exclude."""
    return 1.0 - float(_delta(guarantee)) ** (1.0 / units) if units else 1.0


def replay_sentence(guarantee: Guarantee, units: int) -> str:
    """What is promised on an execution that was verified on so many independent frames (clips), in words.

    **Guarantee**: with confidence 1 - d - delta, over the replayed and the calibration frames.
    """
    if not units:
        return "How many independent frames were replayed is not known, so nothing is proved: verify again."
    share, delta = unseen_share(guarantee, units), _delta(guarantee)
    both = 1 - delta - (0 if guarantee.confidence is None else guarantee.delta)
    unit = guarantee.rules.draws
    replayed = (
        f"{units} independent replayed {unit} prove, with confidence {_percent(float(1 - delta))}, that at most {_percent(share)}"
        f" of new {unit} get a larger certificate here than was calibrated and the margin covers"
    )
    return f"{replayed}. {_consequence(guarantee, share)} (confidence {_percent(float(both))})."


def _consequence(guarantee: Guarantee, share: float) -> str:
    if guarantee.guard is not None:
        # An attacker moves what differs here as he moves what is wrong: the level before the shift takes the sum.
        normal, guard = NormalDist(), guarantee.guard
        level = min(float(guard.level(guarantee.error)) + share, 1 - 1e-12)
        error = normal.cdf(normal.inv_cdf(level) + guard.rho / guard.noise)
        return f"So at most {_percent(error)} of new frames receive a wrong certificate, moved ones included"
    return guarantee.rules.elsewhere(float(guarantee.error), share)


def _delta(guarantee: Guarantee) -> Fraction:
    return DELTA if guarantee.confidence is None else guarantee.delta


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
