from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrise.trainer.learning.engine import Batch
from rrise.trainer.learning.losses import consistency_loss as consistency_loss
from rrise.trainer.learning.recipes import RAMP, Teaching, consistency, fresh, gaussian, stored
from rrise.trainer.learning.views import View, noisy

LABELS = torch.tensor([0, 1, 2, 0])


def batch(progress: float = 1.0) -> Batch:
    frames = torch.rand((4, 1, 2, 2), generator=torch.Generator().manual_seed(1))
    return Batch(torch.arange(4), frames, torch.Generator().manual_seed(7), progress)


def forward(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :3] * 4


def test_gaussian_sees_every_view_under_several_draws() -> None:
    found = gaussian(LABELS, View(), 0.3, copies=3)(forward, batch())
    same = batch()
    x = noisy(same.frames, 0.3, same.generator, 3)
    expected = torch.stack([F.cross_entropy(forward(part), LABELS) for part in x.split(4)]).mean()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (RAMP / 2, 0.5), (RAMP, 1.0), (1.0, 1.0)])
def test_consistency_grows_over_the_first_quarter(progress: float, share: float) -> None:
    found = consistency(LABELS, View(), 0.3, 2, 10.0, 0.5)(forward, batch(progress))
    same = batch(progress)
    logits = forward(noisy(same.frames, 0.3, same.generator, 2)).view(2, 4, 3)
    torch.testing.assert_close(found, consistency_loss(logits, LABELS, 10.0 * share, 0.5))


def test_noise_of_copies_is_independent_and_has_the_right_size() -> None:
    x = torch.zeros((2000, 1, 4, 4))
    drawn = noisy(x, 0.25, torch.Generator().manual_seed(0), 2)
    first, second = drawn.split(2000)
    assert float(drawn.std()) == pytest.approx(0.25, rel=0.01)
    # 32,000 pairs: standard deviation of the correlation .0056
    assert abs(float((first * second).mean()) / 0.0625) < 0.034


def test_stored_counts_become_shares_that_are_blended_with_their_frames() -> None:
    counts = torch.tensor([[8.0, 2.0, 0.0], [0.0, 5.0, 5.0], [1.0, 0.0, 9.0], [10.0, 0.0, 0.0]])
    plain = stored(counts, Teaching(View()))(forward, batch())
    torch.testing.assert_close(plain, F.cross_entropy(forward(batch().frames), counts / 10))
    same = batch()
    x, shares = View(mix=1.0).with_shares(same.frames, counts / 10, same.generator)
    assert shares is not None and not torch.equal(shares, counts / 10)
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    mixed = stored(counts, Teaching(View(mix=1.0)))(forward, batch())
    torch.testing.assert_close(mixed, F.cross_entropy(forward(x), shares))


def test_a_teacher_answers_for_the_view_itself() -> None:
    counts = torch.eye(3)[LABELS] * 10

    class Teacher(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros((len(x), 3))

    found = stored(counts, Teaching(View()), Teacher(), 0.25)(forward, batch())
    wanted = 0.75 * counts / 10 + 0.25 / 3
    torch.testing.assert_close(found, F.cross_entropy(forward(batch().frames), wanted))


def test_guard_noise_changes_what_the_surrogate_sees_and_not_its_targets() -> None:
    seen: list[Tensor] = []

    def labels(x: Tensor) -> Tensor:
        return (x.flatten(1).mean(1) > 0.5).long()

    def watching(x: Tensor) -> Tensor:
        seen.append(x)
        return forward(x)

    fresh(labels, 3, 0.0, 2, Teaching(View(), guard=0.5))(watching, batch())
    assert 0.2 < float((seen[0] - batch().frames).std()) < 0.8
