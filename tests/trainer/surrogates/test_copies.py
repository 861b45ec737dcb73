"""Copies: fixed noise, one function in torch and ONNX, a pool that the tuning counts decide, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn

from rrise.calibration.errors import CheckFailed
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.noise import NoiseKey
from rrise.trainer.networks import ResNet, WithCopies, build_network, fixed_noise, load_network
from rrise.trainer.networks import copies as networks
from rrise.trainer.settings.config import Config, GuardConfig, parse_config
from rrise.trainer.surrogates import copies as stage
from rrise.trainer.surrogates.copies import Copies, cross_entropy, fit_pool, milliseconds, within_budget
from rrise.trainer.surrogates.stage import train_surrogate
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit

SHAPE = (1, 8, 8)


def small(seed: int) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(1, 4, [6], [1], [0.5], [0.3]).eval()


def module(copies: int = 5) -> WithCopies:
    return WithCopies(small(0), small(1), copies, SHAPE, 0.25).eval()


def test_noise_is_standard_normal_and_the_same_everywhere() -> None:
    planes, shifts = fixed_noise(64, (3, 32, 32), 0)
    assert planes.shape == (64, 3, 32, 32) and shifts == [(0, 0)] and planes.dtype == np.float32
    # 196,608 numbers; a false alarm once in 10^6.
    assert kstest(planes.ravel(), "norm").pvalue > 1e-6
    assert np.array_equal(planes, np.round(planes * 4096) / 4096)
    # The first of them, written down: another machine or numpy that gave others would export another function.
    assert (planes.ravel()[:4] * 4096).astype(int).tolist() == FIRST
    assert not np.array_equal(planes, fixed_noise(64, (3, 32, 32), 1)[0])


FIRST = [-634, 6945, -5663, -1025]


def test_fewer_copies_are_the_first_of_more() -> None:
    assert np.array_equal(fixed_noise(4, SHAPE, 0)[0], fixed_noise(16, SHAPE, 0)[0][:4])


@pytest.mark.parametrize("stream", ["train", "calibration", "audit", "certify-1000"])
def test_noise_belongs_to_no_monte_carlo_stream(stream: str) -> None:
    """Independent numbers: a correlation of 12,288 pairs has deviation .009; five of them."""
    planes = fixed_noise(4, (3, 32, 32), 0)[0].ravel()
    for seed in (0, 1):
        drawn = NoiseKey(seed, stream).generator(0, 0, 0).standard_normal(planes.size, dtype=np.float32)
        assert abs(np.corrcoef(planes, drawn)[0, 1]) < 0.045
        assert not np.isin(planes[:50], drawn).any()


def test_large_frames_share_planes_under_different_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "FIELD_NUMBERS", 2 * 64)
    made = module(7)
    fields = made.fields()
    assert made.noise.shape == (2, *SHAPE) and fields.shape == (7, *SHAPE)
    assert len({field.numpy().tobytes() for field in fields}) == 7
    for number, field in enumerate(fields):
        assert torch.equal(field.flatten().sort().values, made.noise[number % 2].flatten().sort().values)


def test_field_of_a_224_pixel_frame_stays_small() -> None:
    made = WithCopies(nn.Identity(), nn.Identity(), 64, (3, 224, 224), 0.25)
    assert made.noise.numel() * 4 <= 4 << 20 and made.fields().shape == (64, 3, 224, 224)


def test_pool_is_the_mixture_that_it_says() -> None:
    made, x = module(5), torch.rand((3, *SHAPE))
    for name, value in (("temperature", 1.5), ("sharpness", 3.0), ("weight", 0.3), ("power", 1.2)):
        getattr(made, name).fill_(value)
    with torch.inference_mode():
        alone = (1.5 * made.network(x)).softmax(1).numpy()
        noisy = [(3.0 * made.base(x + made.noise[j])).softmax(1).numpy() for j in range(5)]
        found = made(x).numpy()
    expected = 1.2 * np.log(0.7 * alone + 0.3 * np.mean(noisy, 0))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_pieces_of_a_batch_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = module(5), torch.rand((6, *SHAPE))
    with torch.inference_mode():
        whole = made(x)
        monkeypatch.setattr(networks, "PASS_NUMBERS", 7 * 64)
        np.testing.assert_allclose(made(x), whole, atol=1e-6)


def test_onnx_is_the_same_function_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shifted planes included."""
    from onnxruntime import InferenceSession

    from rrise.export.lowering.lower import lower
    from rrise.export.lowering.operators import foreign_operators

    shape = (1, 40, 40)
    monkeypatch.setattr(networks, "FIELD_NUMBERS", 4 * 1600)
    made = WithCopies(small(0), small(1), 6, shape, 0.25).eval()
    x = torch.rand((4, *shape))
    graph = lower(nn.Sequential(made), x[:1])
    assert foreign_operators(graph) == {} and not {"RandomNormal", "RandomNormalLike"} & {
        node.op_type for node in graph.graph.node
    }
    # Surrogate and base classifier have three convolutions each, however many copies there are.
    assert sum(node.op_type == "Conv" for node in graph.graph.node) == 2 * 3
    session = InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = np.concatenate([session.run(None, {"frame": row[None].numpy()})[0] for row in x])
    with torch.inference_mode():
        np.testing.assert_allclose(found, made(x).numpy(), atol=2e-5)


def test_of_many_classes_frames_of_all_of_them_fit_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of a split often come class by class: the first ones would stand for a few classes only."""
    made, seen = module(2), []
    x = torch.zeros((100, *SHAPE)) + torch.arange(100)[:, None, None, None] / 100
    network = made.network
    made.network = nn.Module()
    made.network.forward = lambda part: seen.append(part[:, 0, 0, 0]) or network(part)
    monkeypatch.setattr(stage, "FIT_NUMBERS", 2 * 4 * 20)
    found = fit_pool(made, x, np.full((100, 4), 25))
    used = (100 * torch.cat(seen)).round().long().tolist()
    assert found.passes == 20 * 2 and used[0] == 0 and used[-1] == 99 and max(np.diff(used)) <= 6


class Informed(nn.Module):
    """Logits that are right up to noise of their own: `spread` is the deviation of what it adds."""

    def __init__(self, spread: float, seed: int) -> None:
        super().__init__()
        self.spread, self.generator = spread, torch.Generator().manual_seed(seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = x.flatten(1)[:, :4]
        return logits + self.spread * torch.randn(logits.shape, generator=self.generator)


@pytest.mark.parametrize(("alone", "copies", "trusts"), [(0.2, 4.0, False), (4.0, 0.2, True)])
def test_fitting_raises_the_likelihood_and_trusts_who_knows(
    alone: float, copies: float, trusts: bool
) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 2, (300, 4)).astype(np.float32)
    probability = np.exp(truth) / np.exp(truth).sum(1, keepdims=True)
    counts = np.stack([rng.multinomial(200, row / row.sum()) for row in probability.astype(np.float64)])
    x = torch.zeros(300, 1, 2, 2)
    x.view(300, 4).copy_(torch.from_numpy(truth))
    made = WithCopies(Informed(alone, 1), Informed(copies, 2), 4, (1, 2, 2), 1e-6)
    found = fit_pool(made, x, counts)
    best = cross_entropy(torch.from_numpy(truth), torch.from_numpy(counts / 200.0))
    assert float(best) - 0.02 < found.loss < found.loss_alone
    assert (found.weight > 0.5) == trusts and float(made.weight) == pytest.approx(found.weight)
    assert found.passes == 4 * 300


def test_answers_that_are_not_finite_are_refused() -> None:
    made = module(2)
    made.base.head.bias.data[0] = np.nan  # type: ignore[operator, union-attr]
    with pytest.raises(CheckFailed, match=r"cross-entropy .* is nan, expected a finite number.*copies = 0"):
        fit_pool(made, torch.rand((8, *SHAPE)), np.full((8, 4), 5))


def test_a_budget_takes_the_most_copies_that_fit(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Workspace.open(workspace)
    surrogate = made.surrogate().module
    monkeypatch.setattr(stage, "milliseconds", lambda module, shape: 1 + 0.5 * module.copies)
    assert within_budget(made, made.base(), surrogate, 5.5) == (
        8,
        {"1": 1.5, "2": 2.0, "4": 3.0, "8": 5.0, "16": 9.0},
    )
    assert within_budget(made, made.base(), surrogate, 1000.0)[0] == 256
    best, times = within_budget(made, made.base(), surrogate, 1.0)
    assert best == 0 and "not even one fits" in Copies(best, milliseconds=times).row()[1]


def test_a_pass_is_timed_as_a_graph() -> None:
    assert milliseconds(module(2), SHAPE) > 0

    class Unwritable(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("cannot be traced")

    with pytest.raises(
        TrainerError, match=r"budget_ms: the network cannot be written as ONNX.*cannot be traced"
    ):
        milliseconds(Unwritable(), SHAPE)


def test_copies_come_and_go_without_training_again(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(workspace, tmp_path)
    before = load_network(copy.surrogate_path)
    assert "copies" not in before.metadata and not isinstance(before.module, WithCopies)
    monkeypatch.setattr("rrise.trainer.surrogates.stage.Work", None)  # nothing is trained
    copy = edit(copy, "copies = 0", "copies = 8")
    result = train_surrogate(copy)
    assert result.copies is not None and result.copies.copies == 8 and not result.kept
    assert result.copies.loss < result.copies.loss_alone
    network = copy.surrogate()
    assert isinstance(network.module, WithCopies) and isinstance(build_network(network.spec), WithCopies)
    assert torch.equal(build_network(network.spec).noise, network.module.noise)  # type: ignore[arg-type]
    x = copy.inputs("test")
    with torch.inference_mode():
        assert torch.equal(network.module.network(x), before.module(x))
        assert torch.equal(network.module.base(x), copy.base().module(x))
    assert copy.cost().to_json()["stages"]["surrogate-copies"]["passes"] == 8 * len(copy.splits.tuning)
    assert train_surrogate(copy).kept and train_surrogate(copy).copies == result.copies
    back = edit(copy, "copies = 8", "copies = 0")
    assert train_surrogate(back).copies is None
    with torch.inference_mode():
        assert torch.equal(load_network(back.surrogate_path).module(x), before.module(x))


def test_difficulty_sees_the_pool(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrise.trainer.surrogates.difficulty.SAMPLES", 8)
    monkeypatch.setattr("rrise.trainer.surrogates.difficulty.STEPS", 5)
    copy = edit(copied(workspace, tmp_path), "difficulty = false", "difficulty = true")
    copy = edit(copy, "difficulty_frames = 4096", "difficulty_frames = 30")
    train_surrogate(copy, again=True)
    copy = edit(copy, "copies = 0", "copies = 2")
    train_surrogate(copy)
    network = copy.surrogate()
    assert network.has_difficulty and network.spec["network"]["kind"] == "copies"
    with torch.inference_mode():
        logits, difficulty = network.module(copy.inputs("test"))
        assert torch.equal(logits, network.module.network(copy.inputs("test")))  # type: ignore[operator]
    assert (difficulty > 0).all()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"surrogate": {"copies": -1}}, r"\[surrogate\] copies: got -1, expected 0 .* to 256"),
        ({"surrogate": {"copies": 1000}}, r"\[surrogate\] copies: got 1000.*CERTIFY"),
        ({"surrogate": {"copies": 2.5}}, r"\[surrogate\] copies: got 2.5, expected int"),
        ({"surrogate": {"budget_ms": -1.0}}, r"\[surrogate\] budget_ms: got -1.0"),
        ({"surrogate": {"copies": 4, "budget_ms": 5.0}}, r"copies and budget_ms exclude each other"),
        (
            {"surrogate": {"copies": 4}, "base": {"onnx": "mine.onnx"}},
            r"got a base classifier that is an ONNX file or a black box, expected a PyTorch network",
        ),
        (
            {"surrogate": {"budget_ms": 4.0}, "base": {"black_box": "a:b", "version": "1"}},
            r"expected a PyTorch network.*factory and weights",
        ),
        (
            {"surrogate": {"copies": 4}, "guard": {"rho": 0.05, "noise": [0.12]}},
            r"copies with \[guard\].*remove rho",
        ),
    ],
)
def test_bad_settings_are_refused_before_anything_is_paid_for(
    tables: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainerError, match=message):
        parse_config(tables)


def test_a_guard_cannot_be_added_to_copies() -> None:
    config = parse_config({"surrogate": {"copies": 4}})
    with pytest.raises(TrainerError, match="set copies = 0"):
        replace(config, guard=GuardConfig(0.05, (0.12,)))
    assert re.search(r"^copies = 0$", Config().to_toml(), re.MULTILINE)
