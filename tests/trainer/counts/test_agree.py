"""Agreement of two engines: counted rightly, bounded, recorded; and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from scipy import stats
from torch import Tensor

from rrise.trainer.cli import main
from rrise.trainer.counts.agree import CONFIDENCE, SLIP, agree, draws_for
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import engines
from tests.trainer.helpers import copied


class Deceiving(engines.TorchEngine):
    """Answers the next class on noisy frames whose first pixel is above .75."""

    def __call__(self, x: Tensor) -> Tensor:
        return (super().__call__(x) + (x[:, 0, 0, 0] > 0.75).long()) % 10


def test_near_ties_only(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    found = agree(copy, "torch", draws=1000, seed=1)
    assert found.first.startswith("onnxruntime ") and found.second.startswith("torch ")
    assert found.differing <= 2 and found.frames == len(copy.splits.tuning)
    again = agree(copy, "torch", draws=1000, seed=2)
    (entry,) = json.loads((copy.path / "agreement.json").read_text())["agreements"]
    assert entry["seed"] == 2 and entry["bound"] == again.bound, "the same pair again replaces its entry"


def test_a_disagreement_is_counted_and_bounded(workspace: Path, tmp_path: Path, monkeypatch) -> None:
    copy = copied(workspace, tmp_path)
    monkeypatch.setitem(engines.ENGINES, "torch", Deceiving)
    found = agree(copy, "torch", draws=3000, seed=1)
    first = copy.inputs("tuning")[:, 0, 0, 0].double()
    expected = float(torch.special.ndtr((first - 0.75) / found.sigma).mean())
    assert stats.binomtest(found.differing, 3000, expected).pvalue > 1e-4
    assert found.bound == pytest.approx(
        stats.beta.ppf(CONFIDENCE, found.differing + 1, 3000 - found.differing)
    )
    assert found.tolerance == min(found.bound / SLIP, 1.0) and found.share == found.differing / 3000


def test_what_cannot_be_compared(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    with pytest.raises(TrainerError, match="the engine that counts this workspace, expected another one"):
        agree(copy, "onnxruntime", draws=10)
    with pytest.raises(TrainerError, match="got 'tvm', expected one of"):
        agree(copy, "tvm", draws=10)
    with pytest.raises(TrainerError, match="got 0 draws"):
        agree(copy, "torch", draws=0)


def test_too_few_draws_say_that_they_say_nothing(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    said = CliRunner().invoke(main, ["agree", str(copy.path), "--engine", "torch", "--draws", "200"])
    text = " ".join(said.output.split())  # as wide as the terminal is
    assert said.exit_code == 0, said.output
    assert f"the tolerance on class probabilities is 1. {draws_for(0.1):,} draws" in text
    for draws, enough in ((draws_for(0.1), True), (draws_for(0.1) - 1, False)):
        assert bool(stats.beta.ppf(CONFIDENCE, 1, draws) / SLIP <= 0.1) is enough
