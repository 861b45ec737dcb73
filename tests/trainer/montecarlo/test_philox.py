"""The counter-based noise: the generator's published test vectors, the normal distribution, independence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from rrise.trainer.montecarlo.philox import Words, normals, philox

KEY = torch.tensor([0x1234ABCD, 0x9E3779B9])


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # kat_vectors of Random123, philox4x32 10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_published_vectors(counter, key, expected):
    got = philox(Words(*(torch.tensor([word]) for word in counter)), torch.tensor(key))
    assert tuple(int(word) for word in got) == expected


def test_standard_normal_in_body_and_tails():
    frame, sample = torch.zeros(4000, dtype=torch.int64), torch.arange(4000)
    z = normals(frame, sample, 250, KEY).double().numpy().ravel()
    n = len(z)
    # Each bound fails by chance with probability below 1e-5.
    assert abs(z.mean()) < 4.5 / np.sqrt(n) and abs(z.var() - 1) < 4.5 * np.sqrt(2 / n)
    assert abs(stats.skew(z)) < 4.5 * np.sqrt(6 / n) and abs(stats.kurtosis(z)) < 4.5 * np.sqrt(24 / n)
    assert stats.kstest(z, "norm").pvalue > 1e-5
    for bound in (3.0, 4.0, 4.5):
        expected = 2 * n * stats.norm.sf(bound)
        assert stats.poisson.cdf((np.abs(z) > bound).sum(), expected) > 1e-5
        assert stats.poisson.sf((np.abs(z) > bound).sum() - 1, expected) > 1e-5


def test_frames_samples_elements_and_keys_are_independent():
    index = torch.arange(50, dtype=torch.int64)
    z = normals(index.repeat_interleave(40), torch.arange(40).repeat(50), 128, KEY).view(50, 40, 128).double()
    other = (
        normals(index.repeat_interleave(40), torch.arange(40).repeat(50), 128, torch.tensor([1, 2]))
        .view(50, 40, 128)
        .double()
    )
    n = 50 * 40 * 128
    pairs = {
        "frames": (z[1:], z[:-1]),
        "samples": (z[:, 1:], z[:, :-1]),
        "elements": (z[..., 1:], z[..., :-1]),
        "pairs of Box-Muller": (z[..., :32], z[..., 32:64]),
        "frame and sample exchanged": (z[:40], z[:40].transpose(0, 1)),
        "keys": (z, other),
    }
    for name, (first, second) in pairs.items():
        if name == "frame and sample exchanged":
            off = ~torch.eye(40, dtype=torch.bool)
            first, second = first[off], second[off]
        for power in (1, 2):
            product = ((first**power - (power - 1)) * (second**power - (power - 1))).mean()
            assert abs(float(product)) < 5 * power / np.sqrt(n / 8), name


def test_a_row_depends_on_its_own_frame_and_sample_only():
    frame, sample = torch.tensor([5, 9, 5, 2]), torch.tensor([7, 7, 1, 100_000])
    z = normals(frame, sample, 10, KEY)
    for row in range(4):
        torch.testing.assert_close(
            normals(frame[row : row + 1], sample[row : row + 1], 10, KEY)[0], z[row], rtol=0, atol=1e-6
        )
    assert len(torch.unique(z)) == 40


def test_the_largest_words_give_finite_numbers():
    z = normals(
        torch.tensor([0, 2**32 - 1]), torch.tensor([2**32 - 1, 0]), 4001, torch.tensor([2**32 - 1, 0])
    )
    assert torch.isfinite(z).all() and float(z.abs().max()) < 7
