from __future__ import annotations

import numpy as np
import torch

from rrise.trainer.data.augment import augment
from rrise.trainer.learning.feed import seeded


def test_every_view_is_one_of_the_shifts_and_all_occur() -> None:
    x = torch.rand(200, 2, 5, 6)
    views = augment(x, 1, False, seeded(0)).numpy()
    seen = set()
    for image, view in zip(x.numpy(), views, strict=True):
        padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
        places = [
            (row, column)
            for row in range(3)
            for column in range(3)
            if np.array_equal(padded[:, row : row + 5, column : column + 6], view)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 9  # a shift that never occurs in 200 draws: probability below 9 (8/9)^200 = 5e-10


def test_flip_mirrors_about_half() -> None:
    x = torch.rand(400, 1, 3, 4)
    views = augment(x, 0, True, seeded(0))
    mirrored = [torch.equal(view, image.flip(2)) for image, view in zip(x, views, strict=True)]
    assert all(torch.equal(v, i) for v, i, m in zip(views, x, mirrored, strict=True) if not m)
    assert 140 < sum(mirrored) < 260  # six standard deviations


def test_no_augmentation_is_the_identity_and_the_seed_decides() -> None:
    x = torch.rand(8, 1, 4, 4)
    assert torch.equal(augment(x, 0, False, seeded(0)), x)
    assert torch.equal(augment(x, 2, True, seeded(1)), augment(x, 2, True, seeded(1)))
