"""sample_counts: right counts, the same counts however they are come by, and refusals that cost nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from rrise.calibration.storage.digests import frame_digests
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import count_inputs, sample_counts, sampler

N = 40


@pytest.fixture
def reference(make_store, network, preprocess, frames, tmp_path):
    store = make_store(tmp_path / "reference.zarr")
    sample_counts(network, preprocess, frames, store, N)
    return store.counts()


class Threshold(nn.Module):
    """Class 1 where the mean of the pixels exceeds 1/2: p_1 = Phi((mean - 1/2) sqrt(pixels) / sigma)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([0 * mean, mean - 0.5, 0 * mean - 9], dim=1)


def test_counts_agree_with_the_exact_probability(make_store, preprocess, frames):
    store = make_store(sample_block=100)
    sample_counts(Threshold(), preprocess, frames, store, 2000)
    means = frames.reshape(70, -1).mean(1) / 255
    p = stats.norm.cdf((means - 0.5) * np.sqrt(16) / 0.5)
    counts = store.counts()
    assert (counts[:, 2] == 0).all() and (counts.sum(1) == 2000).all()
    # Two-sided exact tests at 1e-6 each: a false alarm in 70 frames has probability below 7e-5.
    values = [stats.binomtest(int(k), 2000, float(q)).pvalue for k, q in zip(counts[:, 1], p, strict=True)]
    assert min(values) > 1e-6
    # Pearson's statistic over independent frames: chi-squared with 70 degrees; shared noise would inflate it.
    chi = float((((counts[:, 1] - 2000 * p) ** 2) / (2000 * p * (1 - p))).sum())
    assert 1e-4 < stats.chi2.sf(chi, 70) < 1 - 1e-4


@pytest.mark.parametrize("form", [torch.Tensor.numpy, torch.clone], ids=["array", "tensor"])
def test_inputs_are_counted_as_the_frames_that_they_come_from(make_store, network, preprocess, frames, form):
    """Bit for bit what a store holds, beyond one image block, and without a store."""
    store = make_store(sample_block=100)
    told: list[Any] = []
    sample_counts(network, preprocess, frames, store, 200)
    inputs, identity = form(preprocess(torch.from_numpy(frames))), store.identity
    asked = {"num_classes": identity.num_classes, "sigma": identity.sigma, "seed": identity.seed}
    counts = count_inputs(network, inputs, 200, stream=identity.stream, progress=told.append, **asked)
    assert counts.dtype == np.uint32 and sum(told) == 200 * len(frames)
    np.testing.assert_array_equal(counts, store.counts())
    other = count_inputs(network, inputs[:3], 200, stream="another", **asked)
    assert (other.sum(axis=1) == 200).all() and (other != counts[:3]).any()


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.float64), {}, "expected finite float32"),
        (np.zeros((2, 4, 4, 1), np.uint8), {}, "got torch.uint8"),
        (torch.zeros(1, 4, 4), {}, r"\[1, 4, 4\]"),
        (torch.full((1, 1, 4, 4), torch.nan), {}, "expected finite float32"),
        (torch.zeros(0, 1, 4, 4), {}, "at least one frame"),
        (torch.zeros(1, 1, 4, 4), {"num_samples": 150}, "the nearest are 100 and 200"),
        (torch.zeros(1, 1, 4, 4), {"sigma": 0.0}, "a noise level above 0"),
        (torch.zeros(1, 1, 4, 4), {"batch_size": 0}, "expected at least 1"),
    ],
)
def test_inputs_that_no_count_can_have_are_refused(network, inputs, options, message):
    asked = {"num_samples": 100, "num_classes": 3, "sigma": 0.5, "seed": 0, "stream": "x", **options}
    with pytest.raises(TrainerError, match=message):
        count_inputs(network, inputs, asked.pop("num_samples"), **asked)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64, 10_000])
def test_counts_do_not_depend_on_the_batch_size(
    make_store, network, preprocess, frames, reference, batch_size
):
    store = make_store()
    sample_counts(network, preprocess, frames, store, N, batch_size=batch_size)
    np.testing.assert_array_equal(store.counts(), reference)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_counts_do_not_depend_on_threads_or_unit_order(
    make_store, network, preprocess, frames, reference, threads, monkeypatch
):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        store = make_store()
        sample_counts(network, preprocess, frames, store, N)
        assert torch.get_num_threads() == threads  # the process has its setting back
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(store.counts(), reference)


def test_raising_n_repeats_nothing_and_changes_nothing(make_store, network, preprocess, frames, reference):
    store = make_store()
    stored: list[int] = []
    for n in (10, 30, N):
        sample_counts(network, preprocess, frames, store, n, progress=stored.append)
        assert (store.samples() == n).all() and store.missing(N) == 70 * (N - n)
    assert sum(stored) == 70 * N
    np.testing.assert_array_equal(store.counts(), reference)


def test_every_finished_n_is_remembered_as_a_look(make_store, network, preprocess, frames):
    """beta is split over the looks; what was interrupted, or asked for again, is none."""
    store = make_store()

    def interrupt(evaluations: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_counts(network, preprocess, frames, store, 20, progress=interrupt)
    assert store.plans.looks() == ()
    for n in (20, 20, N, 10):
        sample_counts(network, preprocess, frames, make_store(), n)
    assert store.plans.looks() == (20, N) and make_store().plans.looks() == (20, N)
    sample_counts(
        network, preprocess, frames, make_store(stream="other"), np.where(np.arange(70) < 9, 10, 20)
    )
    assert make_store(stream="other").plans.looks() == ()


def test_a_larger_n_given_up_half_way_counts_as_a_look(make_store, network, preprocess, frames):
    """Some frames keep the samples of an N that was chosen after looking: no bound may take them as the first look."""
    store = make_store()
    sample_counts(network, preprocess, frames, store, 20)
    done = [0]

    def interrupt(evaluations: int) -> None:
        done[0] += evaluations
        if done[0] > 64 * (N - 20):  # the first block of 64 frames has N samples now, the second still 20
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_counts(network, preprocess, frames, store, N, progress=interrupt)
    assert store.plans.looks() == (20,) and set(store.samples()) == {20, N}
    sample_counts(network, preprocess, frames, store, 20)
    assert store.plans.looks() == (20, N)


def test_frames_may_have_different_n(make_store, network, preprocess, frames, reference):
    store = make_store()
    wanted = np.where(np.arange(70) % 3 == 0, N, 10)
    sample_counts(network, preprocess, frames, store, wanted)
    np.testing.assert_array_equal(store.samples(), wanted)
    np.testing.assert_array_equal(store.counts()[::3], reference[::3])
    sample_counts(network, preprocess, frames, store, N)
    np.testing.assert_array_equal(store.counts(), reference)


def test_an_interrupted_run_continues(make_store, network, preprocess, frames, reference):
    class Interrupted(Exception):
        pass

    for limit in (1, 1, 2):
        calls = itertools.count(1)

        def interrupt(evaluations: int, calls=calls, limit=limit) -> None:
            if next(calls) == limit:
                raise Interrupted

        with pytest.raises(Interrupted):
            sample_counts(network, preprocess, frames, make_store(), N, progress=interrupt)
    sample_counts(network, preprocess, frames, make_store(), N)
    np.testing.assert_array_equal(make_store().counts(), reference)


def test_streams_and_seeds_have_noise_of_their_own(
    make_store, network, preprocess, frames, reference, tmp_path
):
    for changes in ({"stream": "audit"}, {"seed": 12}):
        store = make_store(tmp_path / "other.zarr", **changes)
        sample_counts(network, preprocess, frames, store, N)
        assert (store.counts() != reference).any()


def test_equal_frames_have_independent_noise(make_store, network, preprocess, frames):
    same = np.repeat(frames[:1], 70, axis=0)
    store = make_store(digests=frame_digests(same))
    sample_counts(network, preprocess, same, store, N)
    assert len(np.unique(store.counts(), axis=0)) > 5


def test_running_out_of_memory_halves_the_batch(make_store, network, preprocess, frames, reference):
    class Hungry(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 50:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return self.inner(x)

    store = make_store()
    sample_counts(Hungry(), preprocess, frames, store, N)
    np.testing.assert_array_equal(store.counts(), reference)


class Broken(nn.Module):
    def __init__(self, logits) -> None:
        super().__init__()
        self._logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._logits(x)


def occasional_nan(x: torch.Tensor) -> torch.Tensor:
    logits = x[:, 0, 0, :3].clone()
    logits[x[:, 0, 0, 0] > 1.5, 1] = float("nan")  # a few rows of every block
    return logits


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (lambda x: torch.zeros(len(x), 4), r"returned \[\d+, 4\] .* expected logits of shape \[\d+, 3\]"),
        (lambda x: torch.zeros(len(x), 3, 1), r"returned \[\d+, 3, 1\]"),
        (lambda x: torch.zeros(1, 3), r"returned \[1, 3\]"),
        (lambda x: (torch.zeros(len(x), 3), None), "returned tuple"),
        (lambda x: torch.full((len(x), 3), float("nan")), "returned NaN"),
        (occasional_nan, r"returned NaN on .* noisy copies of frames \d+ to \d+"),
    ],
)
def test_a_broken_network_is_refused_and_the_store_stays(
    make_store, network, preprocess, frames, reference, logits, message
):
    store = make_store()
    sample_counts(network, preprocess, frames, store, 10)
    before = store.counts()
    with pytest.raises(TrainerError, match=message):
        sample_counts(Broken(logits), preprocess, frames, store, N)
    if logits is occasional_nan:  # cells before the broken one were sound, and are stored
        assert (store.counts() >= before).all()
        return
    np.testing.assert_array_equal(store.counts(), before)
    sample_counts(network, preprocess, frames, store, N)
    np.testing.assert_array_equal(store.counts(), reference)


def test_what_does_not_fit_the_store_is_refused(make_store, network, preprocess, frames):
    store = make_store()
    cases = [
        ({"frames": frames[::-1]}, "not the 70 of the store"),
        ({"frames": frames[:5]}, "got 5 frames"),
        ({"frames": frames.astype(np.float32)}, "got float32"),
        ({"num_samples": 15}, "multiple of the sample block"),
        ({"dtype": "bfloat16"}, "dtype: got 'bfloat16', expected 'float32'"),
        ({"batch_size": 0}, "batch_size: got 0"),
    ]
    for changes, message in cases:
        arguments = {"frames": frames, "num_samples": N, **changes}
        with pytest.raises(TrainerError, match=message):
            sample_counts(
                network, preprocess, arguments.pop("frames"), store, arguments.pop("num_samples"), **arguments
            )
    assert store.samples().sum() == 0


def test_the_callers_network_is_left_alone(make_store, network, preprocess, frames):
    network.train()
    try:
        before = {name: value.clone() for name, value in network.state_dict().items()}
        sample_counts(network, preprocess, frames, make_store(), 10)
        assert network.training
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    finally:
        network.eval()


def test_bfloat16_begins_inside_the_network(make_store, network, preprocess, frames, reference):
    seen: list[torch.dtype] = []

    class Recording(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert isinstance(x, torch.Tensor), "refuses to be traced, so that the real calls are seen"
            seen.append(x.dtype)
            return self.inner(x)

    store = make_store(dtype="bfloat16")
    sample_counts(Recording(), preprocess, frames, store, N)
    # The first batch is also run in float32, to see whether folding changes the network and the batch its answers.
    assert set(seen[seen.index(torch.bfloat16) :]) == {torch.bfloat16}
    # The same noise and nearly the same network: only near ties differ.
    assert np.abs(store.counts().astype(int) - reference).sum() <= 0.02 * reference.sum()


def test_the_callers_preprocessing_stays_where_it_is(make_store, network, frames):
    class Tied(Preprocess):
        """Refuses to be moved itself; a copy may be."""

        def __init__(self) -> None:
            super().__init__((4, 4, 1), "mono8")
            self.owner = id(self)

        def _apply(self, fn, recurse=True):
            assert id(self) != self.owner, "the caller's own preprocessing was moved"
            return super()._apply(fn, recurse)

    store = make_store()
    sample_counts(network, Tied(), frames, store, 10)
    assert (store.samples() == 10).all()


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_slow_network_is_stored_cell_by_cell_and_gives_the_same_counts(
    make_store, network, preprocess, frames, reference, monkeypatch, one_thread
):
    """As slow as can be: every write after one cell. What was written before Ctrl-C stays, whatever batch it strikes in."""
    monkeypatch.setattr(sampler, "SECONDS_PER_WRITE", 0.0)
    told: list[int] = []

    def interrupt(evaluations: int) -> None:
        told.append(evaluations)
        if len(told) == 8:
            raise KeyboardInterrupt

    store = make_store()
    with pytest.raises(KeyboardInterrupt):
        sample_counts(network, preprocess, frames, store, N, batch_size=5, progress=interrupt)
    assert told == [5] * 8, "the first sign of life comes with the first batch"
    assert 0 < store.samples().sum() <= 40
    sample_counts(network, preprocess, frames, store, N, progress=told.append)
    np.testing.assert_array_equal(store.counts(), reference)


def test_writes_are_as_many_cells_apart_as_fit_some_seconds(make_store):
    pace = sampler._Pace(2, make_store().identity)
    assert pace.cells == 2
    for seconds, cells in ((1e-3, 8), (1e-3, 32), (1e-3, 64), (20.0, 16), (100.0, 2), (1000.0, 2)):
        pace.took(pace.cells, seconds)
        assert pace.cells == cells
    assert sampler._Pace(None, make_store().identity).cells == 64, "a GPU's group is one captured graph"
