"""The benchmark: its reference loop counts rightly, and its figures are of what they say."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.engine_labeller import ClassifierForms
from rrise.trainer.montecarlo.speed import contenders
from rrise.trainer.montecarlo.speed.benchmark import _interleaved, run_benchmark
from rrise.trainer.montecarlo.speed.contenders import Throughput, usual_loop

SHORT: dict[str, Any] = {"batch_sizes": (8, 16), "rounds": 1, "seconds": 0.01}


class FirstPixel(nn.Module):
    """Class 1 where the first pixel exceeds 1/2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x[:, 0, 0, 0]
        return torch.stack([0.5 - first, first - 0.5, torch.full_like(first, -9.0)], dim=1)


def test_the_usual_loop_counts_rightly():
    torch.manual_seed(0)
    counts = usual_loop(FirstPixel(), torch.full((1, 2, 2), 0.6), 2500, 1000, 3, 0.25)
    assert counts.sum() == 2500 and counts[2] == 0
    assert stats.binomtest(int(counts[1]), 2500, stats.norm.cdf(0.1 / 0.25)).pvalue > 1e-4


def test_the_comparison(network, preprocess, frames):
    threads = torch.get_num_threads()
    asked = (("torch", "float32"), ("onnxruntime", "bfloat16"))
    result = run_benchmark(ClassifierForms(module=network), preprocess, frames, 3, engines=asked, **SHORT)
    assert torch.get_num_threads() == threads
    (row,) = result.rows
    assert min(*result.loop, *result.noise, *row.plain, *row.counting) > 0
    assert result.limit == row and row.engine.startswith("torch ")
    figures = result.to_json()["rows"][0]
    assert figures["over_loop"]["wall"] == pytest.approx(row.counting.wall / result.loop.wall)
    assert figures["of_limit"]["processor"] == pytest.approx(row.counting.processor / row.plain.processor)
    assert result.shape == (1, 4, 4) and "threads" in result.machine
    text = dict(result.lines())
    assert text[row.engine].startswith(f"{row.counting.wall:,.0f} evaluations/s, ")
    assert "onnxruntime in bfloat16: engine 'onnxruntime': runs base.onnx" in text["left out"]
    with pytest.raises(TrainerError, match="no engine can run"):
        run_benchmark(ClassifierForms(), preprocess, frames, 3, engines=asked, **SHORT)


def test_the_usual_loop_stays_in_float32(network, preprocess, frames, monkeypatch):
    """Whatever the engine runs in: else a slow bfloat16 would flatter it."""
    seen: set[torch.dtype] = set()

    def watched(classifier: nn.Module, x: torch.Tensor, num: int, *rest: Any) -> object:
        seen.update(
            {x.dtype, classifier(x[None]).dtype, *(weight.dtype for weight in classifier.parameters())}
        )
        return usual_loop(classifier, x, num, *rest)

    monkeypatch.setattr(contenders, "usual_loop", watched)
    engines = (("torch", "bfloat16"),)
    run_benchmark(ClassifierForms(module=network), preprocess, frames, 3, engines=engines, **SHORT)
    assert seen == {torch.float32}


def test_no_round_begins_after_its_time_but_the_first():
    calls: list[str] = []

    def contender(name: str):
        def run(seconds: float) -> Throughput:
            calls.append(name)
            return Throughput(1.0, 1.0)

        return run

    contenders = {name: contender(name) for name in ("a", "b")}
    _interleaved(contenders, 5, 1.0, time.monotonic() - 1)
    assert calls == ["a", "b"]
    _interleaved(contenders, 3, 1.0, time.monotonic() + 3600)
    assert calls == ["a", "b"] * 4


def test_an_engine_that_fails_on_the_way_is_left_out_of_the_comparison():
    def sound(seconds: float) -> Throughput:
        return Throughput(2.0, 2.0)

    def broken(seconds: float) -> Throughput:
        raise RuntimeError("Failed to find C compiler")

    rates, failed = _interleaved({"a": broken, "b": sound}, 3, 1.0, time.monotonic() + 3600)
    assert rates == {"b": Throughput(2.0, 2.0)} and failed == {"a": "RuntimeError: Failed to find C compiler"}


def test_a_counting_that_fails_leaves_its_engine_out(network, preprocess, frames, monkeypatch):
    made = contenders.counting_contender

    def counting(labeller, *rest):
        def run(seconds: float) -> Throughput:
            raise RuntimeError("no graph")

        return run if labeller.dtype == "bfloat16" else made(labeller, *rest)

    monkeypatch.setattr("rrise.trainer.montecarlo.speed.benchmark.counting_contender", counting)
    asked = (("torch", "float32"), ("torch", "bfloat16"))
    result = run_benchmark(ClassifierForms(module=network), preprocess, frames, 3, engines=asked, **SHORT)
    assert [row.engine.split()[2] for row in result.rows] == ["float32"]
    assert len(result.left_out) == 1 and result.left_out[0].endswith("RuntimeError: no graph")
