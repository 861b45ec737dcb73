"""One question about one input: is the base classifier's probability of this label above Phi(radius / sigma)?

**Theorem.** Fix an input x, a label, a radius and alpha. Let the true radius be R* = sigma Phi^-1(p), where p is the
probability of the label under N(0, sigma^2 I) noise on x. Whatever decides when to look and when to stop (a clock, a
waiting frame, the counts, a person), over the noise:

1. if radius > R*, `confirmed` is ever true with probability at most alpha;
2. if radius <= R*, `refuted` is ever true with probability at most alpha;
3. `proved` is ever above R* with probability at most alpha.

*Proof.* The noise of x is one sequence e_1, e_2, ... of independent draws, and the answers to it are independent hits
with probability p. The sequence is independent of x, label, radius and alpha, which were fixed before its first draw.
(1) The wealth W_k of `SequentialTest` after k evaluations is a function of that sequence alone and, for p <= Phi(radius /
sigma), a non-negative supermartingale with W_0 = 1. Ville: P(sup_k W_k >= 1 / alpha) <= alpha. The supremum is over *all*
k, so it does not matter at which k one looked or why one looked no more: whenever `confirmed` is true, the supremum has
reached 1 / alpha. The rule that stops needs not be a stopping time: it may know how long each batch took, and even how the
evaluations that were never made would have gone. (2) The same for the wealth of the bettor of
`lower_confidence_sequence` on misses at the true probability of a miss. (3) The eighths r_1 < r_2 < ... of the radius
are fixed with it; `proved` = r_k only where the test of every r_j, j <= k, 0 included, has reached 1 / alpha *at this
k*. Let r_m be the smallest of them above R*. `proved` > R* needs the test of r_m, which is one test: (1). QED

Three things must hold, and are seen to: evaluations are counted in whole batches, each of which is counted once it has begun
(a batch that is thrown away because of what it said, or of how long it took, would choose among the draws); a batch that the
classifier fails on ends the question, which stays open for ever; and there is one question for each input (`Memory`), since
of two tests of one input the better one is wrong with a probability of up to 2 alpha.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from rrise.calibration.statistics.sequential import SequentialTest, exceeds
from rrise.edge_sdk.errors import EdgeError

STEPS = 8
"""Parts of the radius that may be proved where the whole is not."""


class Question:
    """Counts of one input's evaluations and what they say. See the theorem above.

    Args:
        label: the proposed class. radius: > 0, [0, 1] pixel units. Both chosen without the evaluations recorded here.
        sigma: noise standard deviation. alpha: level, of either answer.
        tolerance: t >= 0: both answers hold for every probability within t of the evaluated classifier's (another
            engine's; trainer/README.md): p > Phi(radius / sigma) + t confirms, p < Phi(radius / sigma) - t refutes.

    Attributes:
        hits, samples: evaluations so far. void: the classifier failed on this input, so that nothing is proved any more.
    """

    def __init__(
        self, label: int, radius: float, *, sigma: float, alpha: float, tolerance: float = 0.0
    ) -> None:
        if not (0.0 < radius < math.inf and 0.0 <= tolerance < 1.0):
            raise EdgeError(
                f"test: got radius {radius} and tolerance {tolerance}, expected a radius above 0 and a tolerance in [0, 1)"
            )
        self.label, self.radius, self.alpha = int(label), float(radius), float(alpha)
        self.hits = self.samples = 0
        self.void = False
        self._needed = -math.log(self.alpha)
        # p >= Phi(radius / sigma) is the same as p_miss <= Phi(-radius / sigma); each rounded on the side of its null.
        tail = 0.5 * math.erfc(radius / sigma / math.sqrt(2.0))
        self._refuted_above = tail * (1.0 + 1e-9) + tolerance
        steps = radius * np.arange(STEPS + 1) / STEPS
        if tolerance:
            steps = np.array([_harder(step, sigma, tolerance) for step in steps])
        # A radius that no probability could prove is never proved.
        self._provable = bool(np.isfinite(steps).all())
        self._bets = SequentialTest(sigma, alpha).bets(steps if self._provable else np.zeros(1))

    def add(self, labels: np.ndarray) -> None:
        """Count a batch of answers, int [B]."""
        self.hits += int((labels == self.label).sum())
        self.samples += len(labels)

    @property
    def refuted(self) -> bool:
        """Whether the radius is shown to exceed the true one."""
        return not self.void and exceeds(
            self.samples - self.hits, self.samples, self._refuted_above, self.alpha
        )

    @property
    def confirmed(self) -> bool:
        """Whether the whole radius, and every part of it, is proved."""
        return self._proved_steps() == STEPS

    @property
    def proved(self) -> float:
        """The largest eighth of the radius that is proved; `radius` itself where all of it is."""
        steps = self._proved_steps()
        return self.radius if steps == STEPS else math.nextafter(self.radius * max(steps, 0) / STEPS, 0.0)

    def _proved_steps(self) -> int:
        if self.void or self.samples == 0 or not self._provable:
            return -1
        reached = self._bets.log_wealth(self.hits, self.samples - self.hits) >= self._needed
        return int(np.argmin(reached)) - 1 if not reached.all() else STEPS


def _harder(radius: float, sigma: float, tolerance: float) -> float:
    """The radius whose Phi is larger by `tolerance`, rounded up; infinite where there is none."""
    tail = 0.5 * math.erfc(radius / sigma / math.sqrt(2.0)) - tolerance
    return -sigma * NormalDist().inv_cdf(tail) * (1.0 + 1e-9) if tail > 0.0 else math.inf
