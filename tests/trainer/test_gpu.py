"""Training, counting and the attack on a pretended GPU: nothing mixes devices, and graphs replay what they should."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rrise import trainer
from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.storage.digests import frame_digests
from rrise.trainer.attacks.attack import attack
from rrise.trainer.attacks.search import Search, search
from rrise.trainer.classifiers.blackbox import label_function
from rrise.trainer.counts.agree import agree
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning import Schedule, open_training_session, train_network
from rrise.trainer.learning.clock import Interrupted
from rrise.trainer.learning.engine import LossFunction
from rrise.trainer.learning.recipes import Teaching, consistency, fresh, gaussian, stored
from rrise.trainer.learning.views import View
from rrise.trainer.montecarlo import CountStore, sample_counts, sampler
from rrise.trainer.montecarlo.device_counter import DeviceCounter
from rrise.trainer.montecarlo.distributed import Team
from rrise.trainer.montecarlo.engine_choice import choose_engine
from rrise.trainer.montecarlo.engine_labeller import ClassifierForms
from rrise.trainer.networks import Network
from tests.pretend_gpu import CPU, CUDA, OnGpu, pretend_gpu
from tests.trainer.learning.worlds import Pixels, network, weights

__all__ = ["pretend_gpu"]
FRAMES = np.random.default_rng(7).integers(0, 256, (70, 4, 4, 1), dtype=np.uint8)
VIEW = View(shift=1, flip=True, mix=0.3)


def small() -> nn.Module:
    """Three classes by a convolution with batch normalisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
        )
    return made.eval()


def test_the_pretended_gpu_objects_as_a_real_one_does(pretend_gpu: None) -> None:
    x, here = torch.rand(3, 4).to("cuda"), torch.rand(3, 4)
    assert x.device == CUDA and x.cpu().device == CPU and (x + 1).device == x[0].device == CUDA
    for wrong in (lambda: x + here, lambda: torch.cat([x, here]), lambda: here[x > 0.5]):
        with pytest.raises(RuntimeError, match="same device"):
            wrong()
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.randn(3, generator=torch.Generator().manual_seed(0), device="cuda")
    with pytest.raises(TypeError, match="to numpy"):
        np.asarray(x)
    captured, total = torch.cuda.CUDAGraph(), torch.zeros(2, device="cuda")
    with torch.cuda.graph(captured):
        total[0] += 1
    assert total.tolist() == [0, 0], "capturing runs nothing"
    captured.replay()
    assert total.tolist() == [1, 0]
    with (
        pytest.raises(RuntimeError, match="not permitted when stream is capturing"),
        torch.cuda.graph(captured),
    ):
        total.sum().item()


def objectives(frames: Pixels) -> dict[str, LossFunction]:
    labels, counts = frames.labels.to("cuda"), torch.rand(len(frames), 2).to("cuda")
    answer = label_function(network(), 2, "float32", torch.device("cuda"))
    return {
        "gaussian": gaussian(labels, VIEW, 0.25, copies=2),
        "consistency": consistency(labels, VIEW, 0.25, 2, 3.0, 0.5),
        "stored": stored(counts, Teaching(VIEW, 0.1, "both"), network().to("cuda"), 0.5),
        "fresh": fresh(answer, 2, 0.25, 4, Teaching(VIEW, 0.1, "js")),
    }


@pytest.mark.parametrize("name", ["gaussian", "consistency", "stored", "fresh"])
def test_no_recipe_mixes_devices(pretend_gpu: None, name: str) -> None:
    frames, module = Pixels(32), network()
    how = {"optimiser": "adamw", "clip": 1.0} if name in ("stored", "fresh") else {}
    session = open_training_session(
        None, device="cuda", precision="bfloat16" if name == "fresh" else "float32"
    )
    train_network(module, Schedule(1, 16, 0.05, **how), frames, objectives(frames)[name], session)  # type: ignore[arg-type]
    assert {value.device for value in module.state_dict().values()} == {CUDA}
    assert bool(weights(module).isfinite().all())


def test_a_training_on_a_gpu_is_continued_and_comes_home(pretend_gpu: None, tmp_path: Path) -> None:
    frames, made = Pixels(32), []
    for folder, times in ((None, 1), (tmp_path, 2)):
        module = network()
        for last in range(times, 0, -1):
            session = open_training_session(folder, device="cuda", minutes=1e-9 if last > 1 else None)
            try:
                objective = gaussian(frames.labels.to("cuda"), VIEW, 0.25)
                train_network(module, Schedule(2, 16, 0.05, ema=0.9), frames, objective, session)
            except Interrupted:
                module = network()
        made.append(module.cpu())
    assert all(type(value) is not OnGpu for value in made[1].state_dict().values())
    assert torch.equal(weights(made[0]), weights(made[1]))


def counted(path: Path, classifier: Any, **arguments: Any) -> np.ndarray:
    store = CountStore.open(
        path, stream="train", digests=frame_digests(FRAMES), num_classes=3, sigma=0.5, seed=11, base_digest="b" * 64,
        sample_block=10,
    )  # fmt: skip
    sample_counts(classifier, Preprocess((4, 4, 1), "mono8"), FRAMES, store, 20, batch_size=160, **arguments)
    return store.counts()


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The same counts without a graph or a GPU."""
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "make_counter", DeviceCounter)
        return counted(tmp_path / "expected.zarr", small())


def test_replayed_graphs_count_what_steps_count(
    expected: np.ndarray, pretend_gpu: None, tmp_path: Path
) -> None:
    found = counted(tmp_path / "graph.zarr", small(), device="cuda")
    np.testing.assert_array_equal(found, expected)


def test_a_network_that_waits_for_the_device_is_counted_step_by_step(
    expected: np.ndarray, pretend_gpu: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Waiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x)
            assert bool(logits.isfinite().all())
            return logits

    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(counted(tmp_path / "w.zarr", Waiting(), device="cuda"), expected)
    assert "cannot be captured as a CUDA graph" in caplog.text


def test_noise_that_cannot_be_compiled_is_drawn_all_the_same(
    expected: np.ndarray, pretend_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def broken(function: Any) -> Any:
        def compiled(*arguments: Any) -> Any:
            raise RuntimeError("Failed to find C compiler")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr("rrise.trainer.montecarlo.device_counter._has_triton", lambda: True)
    np.testing.assert_array_equal(counted(tmp_path / "c.zarr", small(), device="cuda"), expected)
    assert "Failed to find C compiler" in caplog.text


def test_counts_that_do_not_add_up_are_never_stored(
    pretend_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a graph that was captured on another device than it counts on, and holds nothing."""
    monkeypatch.setattr("rrise.trainer.montecarlo.device_counter._captured", lambda step: lambda: None)
    with pytest.raises(TrainerError, match="got 0 evaluations, expected 640; nothing was stored"):
        counted(tmp_path / "n.zarr", small(), device="cuda")


def test_float32_on_a_gpu_is_no_tf32(pretend_gpu: None) -> None:
    seen = []

    class Asking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if isinstance(x, Tensor):  # not when it is traced
                seen.append(torch.backends.cudnn.allow_tf32)
            return x.flatten(1)[:, :3]

    before = torch.backends.cudnn.allow_tf32
    label_function(Asking(), 3, "float32", CUDA)(torch.rand(16, 1, 4, 4).to("cuda"))
    assert set(seen) == {False} and torch.backends.cudnn.allow_tf32 is before


def test_an_onnxruntime_without_cuda_is_left_out_with_the_reason(pretend_gpu: None) -> None:
    pytest.importorskip("onnxruntime")
    options: dict[str, Any] = {"num_classes": 3, "dtype": "float32", "device": torch.device("cuda")}
    chosen = choose_engine(ClassifierForms(b"", small()), torch.rand(16, 1, 4, 4).to("cuda"), **options)
    assert chosen.labeller.name == "torch" and "has no CUDAExecutionProvider" in chosen.sentence()


def test_the_attack_searches_on_a_gpu_with_the_same_noise(
    pretend_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VOTES", "SAMPLED_PASSES", "CLASSES"):
        monkeypatch.setattr(f"rrise.trainer.attacks.search.{name}", 2)
    head, settings = CertificateHead(0.25, offset=(0.0,)), Search(0.3, steps=2, draws=2)
    clean = torch.rand((4, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    base, surrogate = small(), Network(small(), {"kind": "test"}, {"guard_noise": 0.1}, "0" * 64)
    found = [
        search(base, surrogate, head, clean, 3, settings, place) for place in (None, torch.device("cuda"))
    ]
    assert torch.equal(found[0], found[1]) and type(found[1]) is Tensor
    assert not any(
        isinstance(weight, OnGpu) for module in (base, surrogate.module) for weight in module.parameters()
    )


def test_every_process_has_a_gpu_of_its_own(pretend_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert Team(0, 2).device("cuda") == CUDA and taken == [0]
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(TrainerError, match="got 1 GPUs, expected one for each process"):
        Team(1, 2).device("cuda")
    assert Team(0, 1).device("cuda") == torch.device("cuda") and taken == [0]


@pytest.mark.long
def test_every_stage_of_a_workspace(pretend_gpu: None, workspace: Path, tmp_path: Path) -> None:
    made = trainer.Workspace.create(tmp_path / "w", replaced(trainer.load_config(workspace / "rrise.toml")))
    trainer.train_base(made, device="cuda")
    assert "cuda" in trainer.build_targets(made, device="cuda").engine
    trainer.train_surrogate(made, device="cuda")
    trainer.certify_test_split(made, device="cuda")
    trainer.calibrate_surrogate(made)
    assert attack(made, Search(0.1, steps=1, draws=2), num_samples=100, device="cuda").moved > 0
    with pytest.raises(TrainerError, match="has no CUDAExecutionProvider"):
        agree(made, "onnxruntime", draws=300, device="cuda")


def replaced(config: Any) -> Any:
    """Fewer of everything, and every part of a surrogate."""
    fewer = dict.fromkeys(("tuning", "calibration", "verification", "audit", "batch_size"), 100)
    return replace(
        config,
        base=replace(config.base, epochs=2, ema=0.9, recipe="auto", strengths=(3.0,)),
        targets=replace(config.targets, engine="auto", certify=(100,), **fewer),
        surrogate=replace(config.surrogate, epochs=1, stored_epochs=1, difficulty=True, copies=2),
    )
