"""Does a classifier answer for each frame alone? Counts of one whose answer depends on its batch are counts of nothing.

A certificate speaks of one function of one frame. Normalising by the statistics of the batch (BatchNorm that has none of its
own, or is left in training mode), dynamic quantisation with one scale per batch, attention or sorting across the batch
all make the answer a function of the neighbours as well.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from rrise.trainer.errors import TrainerError

ROWS = 16
"""Rows of a trial: half of them are kept, the other half are exchanged for other neighbours."""
RUNS = 8
"""Runs with either neighbours, where answers are random anyhow."""
SAME_PLACE, MOVED = 1e-5, 1e-3
"""Tolerances of float32 logits, in units of the largest one: rows that stayed where they were take the same arithmetic;
rows in another place or in a batch of another size may be rounded otherwise."""
FLIPS = 0.05
"""Share of bare labels that rounding may flip in another place (near ties)."""
NOISE = 0.25
"""Standard deviation of the noise that makes enough different rows of a few frames, in [0, 1] pixel units."""

#: float32 [B, C, H, W] -> logits [B, K] or labels int [B].
LabelFunction = Callable[[Tensor], Tensor]


def check_alone(answer: LabelFunction, x: Tensor, *, coarse: bool = False, cause: str = "") -> bool:
    """Refuse a classifier whose answer for a frame depends on its neighbours; returns whether its answers are random.

    Args:
        answer: float32 [B, C, H, W] -> logits [B, K] or labels int [B]; called eight times on 16 rows.
        x: some inputs, float32 [B, C, H, W], B >= 1.
        coarse: in a precision below float32, whose rounding is larger.
        cause: what in the classifier looks guilty, for the message.

    A classifier whose answers differ from run to run (dropout left on) is tested by exchanging runs: a sound one is refused
    with probability 4 / 12,870 at most.

    Raises:
        TrainerError: the answer depends on the neighbours, the place in the batch or the number of rows.
    """
    rows = _rows(x)
    half, factor = len(rows) // 2, 100.0 if coarse else 1.0
    black, white, negative, contrast = _fillings(rows)
    first = answer(rows.clone())
    others = [answer(_with(rows, slice(half, None), filling)) for filling in (black, contrast)]
    if _moved(first, answer(rows.clone()), SAME_PLACE):
        _check_random(answer, rows, ((black, white), (negative, contrast)), cause)
        return True
    for other in others:
        _expect_same(first[:half], other[:half], SAME_PLACE * factor, "its neighbours were replaced", cause)
    for filling in (white, negative):
        other = answer(_with(rows, slice(None, half), filling))
        _expect_same(first[half:], other[half:], SAME_PLACE * factor, "its neighbours were replaced", cause)
    turned = answer(rows.flip(0)).flip(0)
    _expect_same(first, turned, MOVED * factor, "the batch was turned round", cause, FLIPS)
    alone = answer(rows[:half].clone())
    _expect_same(first[:half], alone, MOVED * factor, "the batch was halved", cause, FLIPS)
    return False


def _rows(x: Tensor) -> Tensor:
    """ROWS rows made of `x`, all different, the same for the same x."""
    index = torch.linspace(0, len(x) - 1, min(len(x), ROWS)).long()
    some = x[index.to(x.device)].detach().float()
    some = some.repeat(-(-ROWS // len(some)), 1, 1, 1)[:ROWS].contiguous()
    noise = torch.randn(some.shape, generator=torch.Generator().manual_seed(0))
    return some + NOISE * noise.to(x.device)


def _fillings(rows: Tensor) -> list[Tensor]:
    """Neighbours unlike the usual ones: black, white, the negative, and three times the contrast."""
    return [torch.zeros_like(rows), torch.ones_like(rows), 1.0 - rows, 3.0 * rows - 1.0]


def _with(rows: Tensor, place: slice, filling: Tensor) -> Tensor:
    mixed = rows.clone()
    mixed[place] = filling[place]
    return mixed


def _moved(first: Tensor, second: Tensor, tolerance: float) -> float:
    """By how much answers differ beyond rounding, 0 for not at all; bare labels: the share that differs."""
    if first.shape != second.shape:
        return float("inf")
    if not first.is_floating_point():
        return float((first != second).float().mean())
    first, second = first.double(), second.double()
    if not torch.equal(first.isnan(), second.isnan()):
        return float("inf")
    # Equal infinities differ by NaN.
    difference = torch.where(first == second, 0.0, (first - second).abs()).nan_to_num(0.0)
    finite = first[first.isfinite()].abs()
    scale = max(float(finite.max()) if len(finite) else 1.0, 1e-6)
    largest = float(difference.max())
    return largest if largest > tolerance * scale else 0.0


def _expect_same(
    first: Tensor, second: Tensor, tolerance: float, what: str, cause: str, flips: float = 0.0
) -> None:
    moved = _moved(first, second, tolerance)
    if moved > (0.0 if first.is_floating_point() else flips):
        by = f"logits moved by {moved:.3g}" if first.is_floating_point() else f"{moved:.0%} of labels changed"
        raise _refusal(f"{by} when {what}", cause)


def _check_random(
    answer: LabelFunction, rows: Tensor, pairs: tuple[tuple[Tensor, Tensor], ...], cause: str
) -> None:
    """Exchange test: do runs with one kind of neighbours differ from those with another more than among themselves?"""
    half = len(rows) // 2
    for pair in pairs:
        # The neighbours take turns, so that a classifier that remembers its last batch is found as well.
        runs = [answer(_with(rows, slice(half, None), pair[run % 2]))[:half] for run in range(2 * RUNS)]
        if _most_extreme(_as_vectors(torch.stack(runs))):
            raise _refusal("its answers are random, and their frequencies changed with its neighbours", cause)


def _as_vectors(runs: Tensor) -> np.ndarray:
    """Logits [runs, rows, K] or labels [runs, rows] as one vector for each run; labels as indicators of each class."""
    values = runs.cpu().numpy()
    if not runs.is_floating_point():
        values = (values[:, :, None] == np.unique(values)).astype(np.float64)
    return np.nan_to_num(values.astype(np.float64)).reshape(len(values), -1)


def _most_extreme(runs: np.ndarray) -> bool:
    """Whether, of all divisions of the runs into two halves, none sets their means as far apart as (even, odd) does."""
    centred = runs - runs.mean(0)
    gram, number = centred @ centred.T, len(runs)
    splits = np.array(list(combinations(range(number), number // 2)))
    signs = np.full((len(splits), number), -1.0)
    np.put_along_axis(signs, splits, 1.0, axis=1)
    distances = np.einsum("si,si->s", signs @ gram, signs)
    truth = np.where(np.arange(number) % 2 == 0, 1.0, -1.0)
    ours = float(truth @ gram @ truth)
    # Every division is there twice, the halves exchanged.
    return ours > 0 and int((distances >= ours * (1 - 1e-9)).sum()) <= 2


def _refusal(what: str, cause: str) -> TrainerError:
    return TrainerError(
        f"the base classifier's answer for a frame depends on the other frames in its batch ({what}); counts and "
        f"certificates need a function of the frame alone.{cause and ' ' + cause} Mend the network, or run it frame by "
        "frame inside a callable of your own"
    )
