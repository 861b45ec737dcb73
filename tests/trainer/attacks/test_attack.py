from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.tables.evaluation import AuditVerdict
from rrise.calibration.tables.scores import Scores
from rrise.trainer.attacks.attack import (
    AttackResult,
    FalseCertificateRate,
    attack,
    count_at,
    judging_seed,
    on_grid,
)
from rrise.trainer.attacks.search import SPARE, Aim, Search, _ascend, needed_log_odds, project, search
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import Network
from rrise.trainer.scores.calibrate import calibrate_surrogate
from rrise.trainer.scores.choice import guarantee_for, worth
from rrise.trainer.scores.surrogate_scores import SPLIT_SEEDS
from rrise.trainer.surrogates.stage import candidate_path, train_surrogate
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit


class Linear(nn.Module):
    """Two classes by the sign of w x - 1/2 in the first pixel, scaled."""

    def __init__(self, scale: float, pixel: int = 0) -> None:
        super().__init__()
        self.scale, self.pixel = scale, pixel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = self.scale * (x.flatten(1)[:, self.pixel] - 0.5)
        return torch.stack([-value, value], dim=1)


@pytest.fixture
def few_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of some hundred results is compared by 400 noisy evaluations: all of the time, where not their choice is tested."""
    monkeypatch.setattr("rrise.trainer.attacks.search.VOTES", 40)


def network(module: nn.Module) -> Network:
    return Network(module, {"kind": "test"}, {}, "0" * 64)


def test_finds_the_direction_in_which_the_surrogate_overshoots() -> None:
    """The surrogate trusts pixel 0, which the classifier never looks at: the worst move is straight along it."""
    base, surrogate = Linear(20.0, pixel=1), network(Linear(6.0, pixel=0))
    clean = torch.full((4, 1, 2, 2), 0.5)
    clean[:, 0, 0, 0] = 0.55
    head = CertificateHead(0.25, offset=(0.0,))
    moved = search(base, surrogate, head, clean, 2, Search(0.2, steps=10, restarts=1))
    way = (moved - clean).flatten(1)
    assert (way.norm(dim=1) <= 0.2 + 1e-6).all()
    assert (way[:, 0].abs() > 0.15).all() and (way[:, 2:].abs() < 0.05).all()


def test_stays_within_the_budget_and_the_range() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand((50, 1, 4, 4), generator=generator)
    moved = clean + torch.randn(clean.shape, generator=generator)
    near = project(moved, clean, 0.3)
    assert ((near - clean).flatten(1).norm(dim=1) <= 0.3 + 1e-6).all()
    assert near.min() >= 0 and near.max() <= 1
    gridded = on_grid(moved, clean, 0.3)
    assert ((gridded - clean).flatten(1).norm(dim=1) <= 0.3 + 1e-6).all()
    steps = gridded.double() * 255 * 1024
    assert (steps - steps.round()).abs().max() < 0.05  # the grid, up to the float32 rounding of the division


def test_moved_frames_are_counted_as_they_are(workspace: Path) -> None:
    made = Workspace.open(workspace)
    x = made.inputs("test")[:6] * 0.7 + 0.1
    counts = count_at(made, made.base(), x, 300)
    generator = torch.Generator().manual_seed(3)
    hits, module = np.zeros((6, 10)), made.base().module
    with torch.inference_mode():
        for _ in range(300):
            hits[np.arange(6), module(x + 0.25 * torch.randn(x.shape, generator=generator)).argmax(1)] += 1
    share = (hits + counts) / 600
    deviation = np.sqrt(np.maximum(share * (1 - share) * 2 * 300, 1.0))
    assert np.abs((hits - counts) / deviation).max() < 5  # 60 comparisons: false alarm below 60 * 6e-7


def test_plain_tier_promises_nothing_under_attack(workspace: Path, tmp_path: Path, few_votes: None) -> None:
    copy = copied(workspace, tmp_path)
    result = attack(copy, Search(0.3, steps=5), num_samples=200)
    assert result.promised is None and not result.broken
    assert 0 < result.moved <= 0.3 + 1e-6
    assert result.attacked.verdict.frames == result.clean.verdict.frames == 40
    assert result.attacked.low <= result.attacked.share <= result.attacked.high
    assert (copy.path / "attack.json").exists()


def test_larger_budgets_open_larger_gaps(workspace: Path) -> None:
    """The attacker's own objective, judged by exact probabilities of a known classifier."""
    base, surrogate = Linear(20.0, pixel=1), network(Linear(6.0, pixel=0))
    clean = torch.full((1, 1, 2, 2), 0.55)
    head, gaps = CertificateHead(0.25, offset=(0.0,)), []
    for rho in (0.0, 0.1, 0.3):
        moved = search(base, surrogate, head, clean, 2, Search(rho, steps=10)).flatten(1)
        margin = abs(float(moved[0, 0]) - 0.5)
        claimed = 0.25 * norm.ppf(1 / (1 + np.exp(-2 * 6 * margin)))
        sign = 1 if moved[0, 0] > 0.5 else -1
        gaps.append(claimed - sign * (float(moved[0, 1]) - 0.5))
    assert gaps[0] < gaps[1] < gaps[2]


def test_needs_a_calibration(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    shutil.rmtree(copy.path / "scores")
    with pytest.raises(TrainerError, match="rrise-train calibrate"):
        attack(copy, Search(0.1))


@pytest.mark.parametrize("bad", [{"rho": -0.1}, {"rho": float("nan")}, {"rho": 0.1, "steps": 0}])
def test_bad_budgets(bad: dict[str, float]) -> None:
    with pytest.raises(TrainerError, match="expected a positive number"):
        Search(**bad)  # type: ignore[arg-type]


def test_moved_frames_are_judged_under_noise_of_their_own() -> None:
    assert not {judging_seed(seed) for seed in range(20)} & set(SPLIT_SEEDS.values())


def test_a_broken_promise_is_one_beyond_its_interval() -> None:
    verdict = AuditVerdict(100, 100, 20, 80, 0)
    rate = FalseCertificateRate(verdict, 0.2, 0.127, 0.292)
    result = AttackResult(0.1, rate, rate, promised=0.1, moved=0.1)
    assert result.broken
    assert not replace(result, promised=0.15).broken and not replace(result, promised=None).broken


@pytest.fixture(scope="module")
def guarded(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The shared workspace in the guarded tier: its surrogate takes noise, chosen of two."""
    copy = copied(workspace, tmp_path_factory.mktemp("guarded"))
    copy = edit(copy, "rho = 0.0\nnoise = []", "rho = 0.02\nnoise = [0.1, 0.3]")
    copy = edit(copy, 'error = "0.05"', 'error = "0.1"')
    train_surrogate(copy, again=True)
    calibrate_surrogate(copy)
    return copy


def test_guarded_surrogate_chooses_its_noise(guarded: Workspace) -> None:
    result = train_surrogate(guarded)
    assert result.kept and {item.guard_noise for item in result.candidates} == {0.1, 0.3}
    assert result.chosen.worth == max(item.worth for item in result.candidates)
    assert guarded.surrogate().guard_noise == result.chosen.guard_noise


def test_candidates_leave_scores_for_the_guard_study(guarded: Workspace) -> None:
    from rrise.calibration.promise.guarantee import Guarantee
    from rrise.calibration.reports.guard_study import study_guard

    tables = {noise: Scores.load(candidate_path(guarded, "stored", noise)) for noise in (0.1, 0.3)}
    assert all(table.split == "tuning" and len(table) == 40 for table in tables.values())
    made = study_guard(tables, Guarantee.of(error="0.2"), (0.02, 0.05), num_calibration=100)
    assert {(row.rho, row.noise) for row in made.rows} == {(0.02, 0.1), (0.02, 0.3), (0.05, 0.1), (0.05, 0.3)}


def test_guarded_record_is_tightened(guarded: Workspace) -> None:
    record = calibrate_surrogate(guarded).record
    guard = record.guarantee.guard
    assert guard is not None and guard.rho == 0.02
    expected = norm.cdf(norm.ppf(0.1) - 0.02 / guard.noise) * 0.9
    assert float(record.guarantee.alpha) == pytest.approx(expected, rel=1e-5)
    assert record.guarantee.alpha <= expected
    assert dict(record.execution.options)["guard_noise"] == repr(guard.noise)
    assert record.attempt == calibrate_surrogate(guarded).record.attempt, (
        "the same noise again is no new attempt"
    )


def test_guarded_promise_covers_its_budget_only(guarded: Workspace, few_votes: None) -> None:
    inside = attack(guarded, Search(0.02, steps=3), num_samples=200)
    assert inside.promised == 0.1 and not inside.broken
    assert attack(guarded, Search(0.2, steps=1), num_samples=100).promised is None


def test_noise_that_needs_more_frames_than_there_are_is_worth_nothing(guarded: Workspace) -> None:
    """At rho / noise = 4 the level of 0.1 shrinks to 6e-8; the 100 calibration frames cannot reach it."""
    changed = edit(guarded, "rho = 0.02", "rho = 0.4")
    table = Scores.load(candidate_path(guarded, "stored", 0.1))
    assert guarantee_for(changed, 0.1).frames_needed() > 1_000_000
    assert worth(changed, table, 0.1) == 0
    edit(changed, "rho = 0.4", "rho = 0.02")
    assert worth(guarded, table, 0.1) > 0


def test_a_step_is_not_spent_on_pixels_at_the_end_of_their_range() -> None:
    """Pixel 0 is white already and pulls the gradient; all of the budget goes to pixel 1, which the surrogate trusts too."""

    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            value = 3 * (x[:, 0, 0, 0] - 0.5) + 0.3 * (x[:, 0, 0, 1] - 0.5)
            return torch.stack([-value, value], dim=1)

    clean = torch.full((3, 1, 2, 2), 0.5)
    clean[:, 0, 0, 0] = 1.0
    head = CertificateHead(0.25, offset=(0.0,))
    moved = search(Linear(0.0), network(Two()), head, clean, 2, Search(0.2, steps=10, restarts=1))
    assert (moved[:, 0, 0, 1:].sub(0.5).flatten(1).norm(dim=1) > 0.15).all()


def test_frames_without_a_certificate_are_moved_towards_one() -> None:
    """Half of the budget reaches the threshold, so the attack gets a certificate where the clean frame has none."""
    base, surrogate = Linear(20.0, pixel=1), network(Linear(6.0, pixel=0))
    clean = torch.full((4, 1, 2, 2), 0.5)
    clean[:, 0, 0, 0] = 0.52
    head = CertificateHead(0.25, offset=(0.25,))
    moved = search(base, surrogate, head, clean, 2, Search(0.2, steps=10))
    value = moved[:, 0, 0, 0]  # issued from Phi^-1 = 1 on, that is 12 |value - 1/2| = logit Phi(1)
    assert ((value > 0.638) | (value < 0.362)).all()
    far = search(base, surrogate, replace(head, offset=(5.0,)), clean, 2, Search(0.2, steps=10))
    assert ((far - clean).flatten(1).norm(dim=1) > 0.15).all(), (
        "nothing can be issued; it comes as near as it can"
    )


def test_a_surrogate_that_is_sure_is_attacked_as_well() -> None:
    """At log-odds of 120 a softmax is 1 in float32 and has no slope: the first attack left such frames where they were."""
    base, surrogate = Linear(20.0, pixel=1), network(Linear(400.0, pixel=0))
    clean = torch.full((4, 1, 2, 2), 0.65)
    head = CertificateHead(0.25, offset=(0.0,))
    moved = search(base, surrogate, head, clean, 2, Search(0.2, steps=10, restarts=1))
    assert ((moved - clean).flatten(1).norm(dim=1) > 0.15).all()


def test_an_ascent_wants_no_more_than_a_certificate_needs() -> None:
    """The surrogate's slope is the steeper one, but its certificate is safe: the capped ascent turns to the classifier."""
    clean, label = torch.full((4, 1, 2, 2), 0.65), torch.ones(4, dtype=torch.long)
    settings, moved = Search(0.2, steps=20), {}
    for enough in (math.inf, 3.0):
        aim, generator = Aim(label, torch.full((4,), enough)), torch.Generator().manual_seed(0)
        made = _ascend(Linear(2.0, 1), network(Linear(20.0, 0)), clean, clean, aim, 0.25, settings, generator)
        moved[enough] = (made[-1] - clean).flatten(1)
    assert (moved[math.inf][:, 0] > 0.15).all() and (moved[math.inf][:, 1] > -0.1).all()
    assert (moved[3.0][:, 1] < -0.15).all()


def test_what_a_certificate_needs_is_read_from_the_head() -> None:
    head = CertificateHead(0.25, offset=(0.125, 9.0))
    needed = needed_log_odds(head, np.array([0, 1, 0]))
    expected = norm.logcdf(0.5) - norm.logcdf(-0.5) + SPARE
    assert needed[0] == needed[2] == pytest.approx(expected, abs=0.05) and needed[1] == np.inf
