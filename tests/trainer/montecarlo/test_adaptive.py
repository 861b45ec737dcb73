"""References that stop early: fewer samples, the same confidence; and a store on an object store."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from rrise.calibration.statistics.sequential import Stages
from rrise.calibration.storage.digests import frame_digests
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import sample_counts, sample_in_stages, staged_radius

STAGES = Stages((50, 200, 800), "0.1")


class FirstPixel(nn.Module):
    """Class 1 where the first pixel exceeds 1/2: its true radius is x_0 - 1/2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = x[:, 0, 0, 0] - 0.5
        return torch.stack([0 * margin, margin, 0 * margin - 9], dim=1)


@pytest.fixture(scope="module")
def spread() -> np.ndarray:
    frames = np.zeros((300, 2, 2, 1), dtype=np.uint8)
    frames[:, 0, 0, 0] = np.linspace(0, 255, 300)
    frames[:, 1, 1, 0] = np.arange(300) % 256
    return frames


def run(make_store, path, spread, **options) -> np.ndarray:
    store = make_store(path, digests=frame_digests(spread), sample_block=50, sigma=0.25)
    sample_in_stages(FirstPixel(), Preprocess((2, 2, 1), "mono8"), spread, store, STAGES, **options)
    return store.counts()


def test_fewer_samples_and_valid_radii(make_store, spread, tmp_path):
    counts = run(make_store, tmp_path / "a.zarr", spread, tolerance=0.2)
    samples = counts.sum(axis=1)
    assert set(samples) == {50, 200, 800} and samples.mean() < 500
    true = spread[:, 0, 0, 0] / 255 - 0.5
    radius = staged_radius(counts, 0.25, STAGES)
    too_large = (radius[:, 1] > np.maximum(true, 0)) | (radius[:, 0] > np.maximum(-true, 0))
    # Each frame errs with probability at most 0.1, all classes counted: 300 frames, false alarm below 1e-4.
    assert too_large.sum() <= stats.binom.ppf(1 - 1e-4, 300, 0.1)
    assert (radius.max(axis=1) > 0).mean() > 0.7


def test_an_interrupted_run_comes_to_the_same_counts(make_store, spread, tmp_path):
    expected = run(make_store, tmp_path / "a.zarr", spread, tolerance=0.2)

    class Interrupted(Exception):
        pass

    for limit in (2, 4, 3):
        calls = itertools.count(1)

        def interrupt(evaluations: int, calls=calls, limit=limit) -> None:
            if next(calls) == limit:
                raise Interrupted

        with pytest.raises(Interrupted):
            run(make_store, tmp_path / "b.zarr", spread, tolerance=0.2, progress=interrupt)
    np.testing.assert_array_equal(run(make_store, tmp_path / "b.zarr", spread, tolerance=0.2), expected)


def test_samples_outside_the_stages_are_not_covered():
    counts = np.array([[40, 10, 0], [60, 40, 0]], dtype=np.uint32)
    with pytest.raises(
        TrainerError, match=r"frames with 100 samples, expected one of the stages \(50, 200, 800\)"
    ):
        staged_radius(counts, 0.25, STAGES)


def test_an_object_store(make_store, network, preprocess, frames, tmp_path):
    """The same counts as in a folder, on fsspec's in-memory file system."""
    local = make_store(tmp_path / "t.zarr")
    sample_counts(network, preprocess, frames, local, 20)
    address = f"memory://{tmp_path.name}/t.zarr"
    sample_counts(network, preprocess, frames, make_store(address), 10)
    again = make_store(address)
    assert (again.samples() == 10).all()
    sample_counts(network, preprocess, frames, again, 20)
    np.testing.assert_array_equal(make_store(address).counts(), local.counts())
    with pytest.raises(TrainerError, match="sigma of the store"):
        make_store(address, sigma=0.25)
