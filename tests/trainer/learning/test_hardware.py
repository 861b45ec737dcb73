from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.clock import Clock
from rrise.trainer.learning.feed import step_seed, training_batches
from rrise.trainer.learning.hardware import (
    choose_device,
    choose_precision,
    has_bfloat16,
    layout_for,
    threads_for,
)
from rrise.trainer.learning.journal import Journal, open_hook
from rrise.trainer.learning.order import order
from tests.trainer.learning.worlds import Pixels


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(TrainerError, match="got 'cuda:5', expected one of the 2 that are there"):
        choose_device("cuda:5")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "", "mps"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(TrainerError, match="expected auto, cpu, cuda or cuda:1"):
        choose_device(name)


def test_a_gpu_that_is_not_there_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(TrainerError, match="built without CUDA; expected auto or cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(TrainerError, match="finds no GPU or driver"):
        choose_device("cuda:0")


def test_bfloat16_where_the_hardware_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not has_bfloat16(cpu) and choose_precision("auto", cpu, 1 << 20) == "float32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert choose_precision("auto", cpu, 1 << 20) == "bfloat16"
    assert choose_precision("auto", cpu, 100) == "float32", "small batches gain nothing"
    assert choose_precision("float16", cpu, 100) == "float16"
    with pytest.raises(TrainerError, match="precision: got 'int8'"):
        choose_precision("int8", cpu, 100)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with threads_for(10):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_every_epoch_has_its_own_order_of_all_frames() -> None:
    first, second = order(100, 0, 0), order(100, 0, 1)
    assert torch.equal(first.sort().values, torch.arange(100)) and not torch.equal(first, second)
    assert torch.equal(first, order(100, 0, 0)) and not torch.equal(first, order(100, 1, 0))


def test_no_two_steps_or_processes_share_their_noise() -> None:
    seeds = {step_seed(3, step, rank, 4) for step in range(5000) for rank in range(4)}
    assert len(seeds) == 20_000


def test_batches_come_in_order_also_when_they_are_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, indices = (
        Pixels(),
        [torch.tensor([3, 1]), torch.tensor([0]), torch.tensor([5, 6]), torch.tensor([7])],
    )
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    for device in (torch.device("cpu"), torch.device("meta")):
        found = list(training_batches(frames, indices, device))
        assert [len(index) for index, _ in found] == [2, 1, 2, 1]
        if device.type == "cpu":
            assert all(torch.equal(x, frames.images[index]) for index, x in found)


def test_a_clock_without_limit_never_stops() -> None:
    assert Clock().reason(1e9) == "" and Clock(minutes=1).reason() == ""
    assert Clock(minutes=1).reason(needed=61) == "the time limit is reached"


def test_viewers_are_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_hook("", tmp_path) is None
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainerError, match=r"wandb is not installed: `python -m pip install 'wandb>=0.17'`"):
        open_hook("wandb", tmp_path)
    with pytest.raises(TrainerError, match="viewer: got 'mlflow'"):
        open_hook("mlflow", tmp_path)


def test_a_hook_gets_what_the_log_gets(tmp_path: Path) -> None:
    seen = []
    journal = Journal(
        "base", "base", tmp_path / "log.jsonl", lambda stage, step, values: seen.append((stage, step, values))
    )
    journal.write(7, loss=0.5)
    assert seen == [("base", 7, {"loss": 0.5})] and '"loss": 0.5' in (tmp_path / "log.jsonl").read_text()


def test_layouts_that_would_corrupt_memory_are_avoided() -> None:
    """glibc aborts ("corrupted size vs. prev_size") in the backward pass of such a convolution in channels_last."""
    cpu = torch.device("cpu")
    narrow = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 1, 2))
    assert layout_for(narrow, cpu) is torch.contiguous_format
    assert layout_for(narrow, torch.device("cuda")) is torch.channels_last
    for other in (torch.nn.Conv2d(8, 16, 1, 2), torch.nn.Conv2d(4, 8, 3, 2), torch.nn.Conv2d(4, 8, 1)):
        assert layout_for(other, cpu) is torch.channels_last
