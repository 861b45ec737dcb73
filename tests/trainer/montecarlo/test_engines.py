"""Engines: one labeller for all, the same classes but for near ties, and refusals that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rrise.trainer.classifiers.base_file import read_onnx, write
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import engine_choice, engines, sample_counts
from rrise.trainer.montecarlo.device_counter import DeviceCounter
from rrise.trainer.montecarlo.engine_choice import choose_engine
from rrise.trainer.montecarlo.engine_labeller import ClassifierForms, EngineLabeller, device_name, in_batches
from rrise.trainer.montecarlo.engines import NAMES, installed, open_engine

CPU = torch.device("cpu")
NAMES_HERE = [name for name in ("torch", "onnxruntime", "openvino") if installed(name)]
NOISY = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def source(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> ClassifierForms:
    folder = tmp_path_factory.mktemp("base")
    (folder / "base.safetensors").write_bytes(b"")
    write(folder, network, NOISY)
    return ClassifierForms(read_onnx(folder), network)


def opened(name: str, source: ClassifierForms, dtype: str = "float32") -> EngineLabeller:
    return open_engine(name, source, num_classes=3, dtype=dtype, device=CPU)


@pytest.mark.parametrize("name", NAMES_HERE)
def test_every_engine_gives_the_networks_classes(
    name: str, source: ClassifierForms, network: nn.Module
) -> None:
    labeller = opened(name, source)
    expected = network(NOISY).detach()
    for rows in (2, 7, 40):
        torch.testing.assert_close(labeller.logits(NOISY[:rows]), expected[:rows], rtol=1e-4, atol=1e-4)
        assert torch.equal(labeller(NOISY[:rows]), expected[:rows].argmax(1))
    permuted = (
        NOISY.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    )  # as the counter's buffers lie in memory
    assert torch.equal(labeller(permuted), expected.argmax(1))
    assert labeller.engine.startswith(name) and labeller.engine.endswith(f"float32 {device_name(CPU)}")
    broken = NOISY.clone()
    broken[1, 0, 0, 0] = torch.nan
    if (
        name != "openvino"
    ):  # whose ReLU makes 0 of NaN; weights and inputs are checked to be finite before it runs
        assert int(labeller(broken)[1]) == 3, "NaN is told by a class of its own"


@pytest.mark.parametrize("name", NAMES_HERE)
def test_counts_of_two_engines_differ_in_near_ties_only(
    make_store, preprocess, frames, source: ClassifierForms, network: nn.Module, name: str, tmp_path: Path
) -> None:
    plain = make_store(tmp_path / "plain.zarr")
    sample_counts(network, preprocess, frames, plain, 40)
    labeller = opened(name, source)
    store = make_store(tmp_path / "engine.zarr", engine=labeller.engine)
    sample_counts(labeller, preprocess, frames, store, 40, batch_size=33)
    assert (store.samples() == 40).all() and store.identity.version == 2
    assert np.abs(store.counts().astype(int) - plain.counts()).sum() <= 4
    again = make_store(tmp_path / "again.zarr", engine=labeller.engine)
    sample_counts(labeller, preprocess, frames, again, 40, batch_size=33)
    np.testing.assert_array_equal(store.counts(), again.counts())


def test_a_store_belongs_to_its_engine(
    make_store, preprocess, frames, source: ClassifierForms, network
) -> None:
    labeller = opened("onnxruntime", source)
    store = make_store(engine=labeller.engine)
    with pytest.raises(TrainerError, match=r"is counted by engine 'onnxruntime .*', got ''"):
        sample_counts(network, preprocess, frames, store, 10)
    with pytest.raises(TrainerError, match=r"engine of the store is 'onnxruntime .*expected 'openvino 2030"):
        make_store(engine="openvino 2030 float32 cpu")
    assert make_store().identity.engine == labeller.engine, "a reader that asks for none takes the store's"
    assert store.samples().sum() == 0


def test_the_device_counter_takes_an_engine(
    make_store, preprocess, frames, source: ClassifierForms, tmp_path
) -> None:
    labeller = opened("onnxruntime", source)
    store = make_store(engine=labeller.engine)
    counter = DeviceCounter(labeller, store.identity, 16, CPU, compile_noise=False)
    counter.load(preprocess(torch.from_numpy(frames[:4])))
    from rrise.trainer.montecarlo.noise import Cell

    counts = counter.count([Cell(row, row, 0) for row in range(4)])
    assert counts.sum() == 4 * store.identity.sample_block


def test_auto_takes_the_fastest_that_agrees(source: ClassifierForms, monkeypatch: pytest.MonkeyPatch) -> None:
    order = {"torch": 1.0, "onnxruntime": 3.0, "openvino": 2.0}

    def rates(labellers, noisy, seconds):
        return [order[labeller.name] for labeller in labellers]

    monkeypatch.setattr(engine_choice, "_rates", rates)
    options: dict[str, Any] = {"num_classes": 3, "dtype": "float32", "device": CPU}
    chosen = choose_engine(source, NOISY, **options)
    assert chosen.labeller.name == "onnxruntime" and "3.00 times torch" in chosen.sentence()

    class Shifted(engines.OnnxRuntimeEngine):
        def _run(self, x: Tensor) -> Tensor:
            return super()._run(x) * torch.tensor([1.01, 1.0, 1.0])

    monkeypatch.setitem(engines.ENGINES, "onnxruntime", Shifted)
    chosen = choose_engine(source, NOISY, **options)
    assert chosen.labeller.name != "onnxruntime"
    assert "onnxruntime left out (disagrees with the reference beyond rounding" in chosen.sentence()
    with pytest.raises(TrainerError, match="disagrees with the reference beyond rounding"):
        choose_engine(source, NOISY, wanted="onnxruntime", **options)


def test_trial_rates_are_rates(source: ClassifierForms) -> None:
    chosen = choose_engine(source, NOISY, num_classes=3, dtype="float32", device=CPU, seconds=0.01)
    assert {trial.name for trial in chosen.trials} == set(NAMES_HERE)
    assert all(trial.rate > 0 and trial.difference < 1e-4 for trial in chosen.trials)
    best = max(chosen.trials, key=lambda trial: trial.rate)
    assert chosen.labeller.name == best.name


def test_engines_that_cannot_run_say_why(source: ClassifierForms, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainerError, match="got 'tvm', expected one of torch"):
        opened("tvm", source)
    with pytest.raises(TrainerError, match=r"runs base.onnx in float32, got dtype 'bfloat16'"):
        opened("onnxruntime", source, "bfloat16")
    with pytest.raises(TrainerError, match="the base classifier is an ONNX file"):
        opened("torch", ClassifierForms(source.onnx))
    with pytest.raises(TrainerError, match=r"runs base.onnx, which this base classifier has not"):
        opened("onnxruntime", ClassifierForms(module=source.module))
    monkeypatch.setattr(engines, "installed", lambda name: False)
    with pytest.raises(
        TrainerError,
        match=r"the package openvino is not installed: `python -m pip install 'openvino>=2024.4'",
    ):
        opened("openvino", source)


@pytest.mark.skipif(not installed("openvino"), reason="needs openvino")
def test_a_precision_that_the_processor_only_imitates_is_refused(source: ClassifierForms) -> None:
    import openvino

    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in capable:
        assert opened("openvino", source, "bfloat16").engine.split()[2] == "bfloat16"
    else:
        with pytest.raises(TrainerError, match="this processor has no bfloat16"):
            opened("openvino", source, "bfloat16")


def test_tensorrt_is_guarded(source: ClassifierForms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "installed", lambda name: True)
    with pytest.raises(TrainerError, match="needs an NVIDIA GPU, got device cpu"):
        opened("tensorrt", source)
    assert set(NAMES) == set(engines.ENGINES) == set(engines.INSTALL)


def test_an_engine_that_raises_what_it_likes_when_it_is_opened_is_refused_as_ours(
    source: ClassifierForms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> EngineLabeller:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setitem(engines.ENGINES, "onnxruntime", broken)
    with pytest.raises(
        TrainerError, match=r"engine 'onnxruntime': cannot be opened on cpu \(TypeError: pybind11"
    ):
        opened("onnxruntime", source)


def test_a_classifier_that_depends_on_its_batch_is_refused_by_every_engine(tmp_path: Path) -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(0, keepdim=True)).flatten(1)[:, :3]

    (tmp_path / "base.safetensors").write_bytes(b"")
    made = write(tmp_path, Centred().eval(), NOISY)
    data = read_onnx(tmp_path)
    if data is None:  # compared in other batches than the network's, the file already shows it
        assert "logits differ" in made.reason  # type: ignore[union-attr]
        return
    for name in NAMES_HERE[1:]:
        with pytest.raises(TrainerError, match="depends on the other frames"):
            opened(name, ClassifierForms(data))(NOISY)


def test_fixed_batches() -> None:
    seen = []

    def run(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x[:, :, 0, 0]

    x = torch.rand(10, 3, 2, 2)
    assert torch.equal(in_batches(run, x, 4), x[:, :, 0, 0]) and seen == [4, 4, 4]
