"""In which order frames are trained on: all of them in each epoch, or as many of every class."""

from __future__ import annotations

import torch
from torch import Tensor


def order(num_frames: int, seed: int, epoch: int) -> Tensor:
    """All frames in the random order of one epoch, int64 [n]; the same in every process and after a restart."""
    return torch.randperm(num_frames, generator=torch.Generator().manual_seed(_mixed(seed, epoch)))


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """As many draws as there are frames, int64 [n], equally many of every class that occurs, in random order.

    A class goes through random orders of its frames, one after the other and on into the next epoch: a frame of a rare class
    comes several times in an epoch, one of a common class once in several, and none is forgotten. Everything follows
    from seed and number of the epoch, so that a restart and every process of a team see the same order.

    labels: classes of the frames, int64 [n].

    >>> drawn = balanced_order(torch.tensor([0] * 9 + [1] * 3), seed=0, epoch=0)
    >>> sorted(drawn[drawn >= 9].tolist()), len(set(drawn[drawn < 9].tolist()))
    ([9, 9, 10, 10, 11, 11], 6)
    """
    count, classes = len(labels), labels.unique().tolist()
    drawn = []
    for place, label in enumerate(classes):
        members = torch.nonzero(labels == label).flatten()
        # Classes with one draw more change from epoch to epoch: the sum over all of them is exactly `count`.
        first, last = ((number * count + place) // len(classes) for number in (epoch, epoch + 1))
        drawn.append(members[_endless(len(members), first, last, _mixed(seed, 1_009 * (place + 1)))])
    together = torch.cat(drawn)
    return together[order(count, seed, epoch)]


def _endless(size: int, first: int, last: int, seed: int) -> Tensor:
    """Places `first` to `last` of random orders of `size` things, written one after the other."""
    rounds = range(first // size, -(-last // size))
    written = torch.cat([order(size, seed, number) for number in rounds])
    skipped = rounds.start * size
    return written[first - skipped : last - skipped]


def _mixed(seed: int, number: int) -> int:
    """A seed of its own for each pair: consecutive numbers would give one epoch of a seed the order of another seed's."""
    return (seed * 1_000_003 + number * 7_919 + 12_345) % (1 << 32)
