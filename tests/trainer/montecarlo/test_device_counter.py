"""The device counter, run on the CPU: the host counter's distribution, and counts free of the batch size."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import sample_counts, sampler
from rrise.trainer.montecarlo.device_counter import DeviceCounter

N = 40


@pytest.fixture
def on_device(monkeypatch):
    """Let sample_counts use the device counter on the CPU."""

    def use(**options):
        def make(labeller, identity, batch_size, device):
            return DeviceCounter(labeller, identity, batch_size, device, **options)

        monkeypatch.setattr(sampler, "make_counter", make)

    return use


def sampled(make_store, path, network, preprocess, frames, **arguments):
    store = make_store(path)
    sample_counts(network, preprocess, frames, store, N, **arguments)
    return store.counts()


def test_counts_do_not_depend_on_the_batch_size_or_interruption(
    make_store, network, preprocess, frames, tmp_path, on_device
):
    on_device()
    expected = sampled(make_store, tmp_path / "a.zarr", network, preprocess, frames, batch_size=640)
    assert (expected.sum(axis=1) == N).all()
    for batch_size in (33, 100, 1000):
        got = sampled(
            make_store, tmp_path / f"{batch_size}.zarr", network, preprocess, frames, batch_size=batch_size
        )
        np.testing.assert_array_equal(got, expected)
    store = make_store(tmp_path / "steps.zarr")
    for n in (10, 30, N):
        sample_counts(network, preprocess, frames, store, n, batch_size=77)
    np.testing.assert_array_equal(store.counts(), expected)


def test_it_agrees_with_the_host_counter_in_distribution(
    make_store, network, preprocess, frames, tmp_path, on_device
):
    host = make_store(tmp_path / "host.zarr")
    sample_counts(network, preprocess, frames, host, 1000)
    on_device()
    device = make_store(tmp_path / "device.zarr")
    sample_counts(network, preprocess, frames, device, 1000)
    assert (host.counts() != device.counts()).any()
    values = []
    for first, second in zip(host.counts(), device.counts(), strict=True):
        table = np.stack([first, second])[:, (first + second) >= 10]
        if table.shape[1] > 1:
            values.append(stats.chi2_contingency(table).pvalue)
    # Fisher's combination over independent frames: a false alarm once in 10,000.
    assert 1e-4 < stats.combine_pvalues(values).pvalue < 1 - 1e-4


def test_the_batch_size_is_found_by_trial(make_store, network, preprocess, frames, tmp_path, on_device):
    expected_by = make_store(tmp_path / "fixed.zarr")
    on_device()
    sample_counts(network, preprocess, frames, expected_by, N, batch_size=64)
    sizes: list[int] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(int(x.shape[0]))
            if len(x) > 200:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return self.inner(x)

    found = make_store(tmp_path / "found.zarr")
    sample_counts(Watching(), preprocess, frames, found, N)
    np.testing.assert_array_equal(found.counts(), expected_by.counts())
    assert 32 in sizes and 64 in sizes


def test_nan_is_refused_and_wrong_shapes_too(make_store, preprocess, frames, on_device):
    on_device()

    class Broken(nn.Module):
        def __init__(self, columns: int, value: float) -> None:
            super().__init__()
            self.columns, self.value = columns, value

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_full((int(x.shape[0]), self.columns), self.value)

    store = make_store()
    for broken, message in ((Broken(3, float("nan")), "returned NaN"), (Broken(4, 0.0), "returned")):
        with pytest.raises(TrainerError, match=message):
            sample_counts(broken, preprocess, frames, store, N)
    assert store.samples().sum() == 0


@pytest.mark.long
def test_the_noise_is_compiled_for_all_batch_sizes_and_streams(
    make_store, network, preprocess, frames, tmp_path, on_device, monkeypatch
):
    """PyTorch gives up compiling after eight versions of a function, and every stream has a key of its own."""
    versions: list[int] = []

    def backend(graph, inputs):
        versions.append(len(versions))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    for stream in ("train", "audit"):
        for batch_size in (20, 40, 64, 128):
            on_device(compile_noise=True)
            store = make_store(tmp_path / f"{batch_size}.zarr", stream=stream)
            sample_counts(network, preprocess, frames, store, 10, batch_size=batch_size)
        on_device(compile_noise=False)
        eager = make_store(tmp_path / "eager.zarr", stream=stream)
        sample_counts(network, preprocess, frames, eager, 10, batch_size=128)
        np.testing.assert_array_equal(store.counts(), eager.counts())
    assert 1 <= len(versions) <= 3


@pytest.mark.long
def test_compiled_noise_is_the_same_noise(make_store, network, preprocess, frames, tmp_path, on_device):
    on_device(compile_noise=False)
    expected = sampled(make_store, tmp_path / "a.zarr", network, preprocess, frames, batch_size=64)
    on_device(compile_noise=True)
    try:
        got = sampled(make_store, tmp_path / "b.zarr", network, preprocess, frames, batch_size=64)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        pytest.skip(f"torch.compile has no working compiler here: {error}")
    # Another order of float operations may turn a near tie, no more.
    assert np.abs(got.astype(int) - expected).sum() <= 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_graphs_give_the_counts_of_the_eager_path(make_store, network, preprocess, frames, tmp_path):
    store = make_store(tmp_path / "cuda.zarr")
    sample_counts(network, preprocess, frames, store, 1000, device="cuda")
    host = make_store(tmp_path / "host.zarr")
    sample_counts(network, preprocess, frames, host, 1000)
    values = [
        stats.chi2_contingency(np.stack([a, b])[:, (a + b) >= 10]).pvalue
        for a, b in zip(host.counts(), store.counts(), strict=True)
        if ((a + b) >= 10).sum() > 1
    ]
    assert 1e-4 < stats.combine_pvalues(values).pvalue < 1 - 1e-4
