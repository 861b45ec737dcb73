"""Fresh evaluations are made by the engine that counts, with the same classes, on as many threads as PyTorch has."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rrise.trainer.classifiers.blackbox import BlackBoxModule, label_function
from rrise.trainer.counts.counting import SharedAmongThreads, counting_device, fresh_answers
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import engines
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied


def test_fresh_answers_are_those_of_the_counted_classifier(workspace: Path) -> None:
    made = Workspace.open(workspace)
    base, x = made.base(), made.inputs("test").repeat(5, 1, 1, 1)
    answers = fresh_answers(made, base, torch.device("cpu"))
    assert isinstance(answers, SharedAmongThreads) and answers._labeller.engine.startswith("onnxruntime ")
    assert torch.equal(answers(x), label_function(base.module, 10, "float32")(x))


def test_large_batches_are_shared_and_keep_their_order(workspace: Path, monkeypatch) -> None:
    made, seen = Workspace.open(workspace), []

    class Watched(engines.OnnxRuntimeEngine):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((threading.get_ident(), len(x)))
            return super().__call__(x)

    monkeypatch.setitem(engines.ENGINES, "onnxruntime", Watched)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    answers = fresh_answers(made, made.base(), torch.device("cpu"))
    x = made.inputs("test").repeat(6, 1, 1, 1)
    first = answers(x)
    assert torch.equal(answers(x), first) and [rows for _, rows in seen] == [240, 80, 80, 80]
    with pytest.raises(TrainerError, match="returned NaN"):
        answers(torch.full_like(x, torch.nan))


def test_without_that_engine_pytorch_answers(workspace: Path, tmp_path: Path, monkeypatch) -> None:
    copy = copied(workspace, tmp_path)
    monkeypatch.setattr(engines, "installed", lambda name: False)
    x = copy.inputs("test")
    answers = fresh_answers(copy, copy.base(), torch.device("cpu"))
    assert torch.equal(answers(x), label_function(copy.base().module, 10, "float32")(x))


def test_auto_counts_on_a_gpu_unless_counts_or_classifier_belong_to_the_processor(
    workspace: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    made = copied(workspace, tmp_path)
    base = made.base()
    assert counting_device(made, base).type == "cpu"  # the counts that are there were drawn here
    assert counting_device(made, base, "cuda").type == "cuda"
    shutil.rmtree(made.targets_path)
    assert counting_device(made, base).type == "cuda"
    black_box = replace(base, module=BlackBoxModule(lambda x: x.mean((2, 3))))
    assert counting_device(made, black_box).type == "cpu"
    config = replace(made.config, training=replace(made.config.training, device="cpu"))
    assert counting_device(Workspace(made.path, config), base).type == "cpu"
