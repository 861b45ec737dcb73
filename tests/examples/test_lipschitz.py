"""The 1-Lipschitz rival: its bound against dense matrices, its radius against exact distances, and its row in the table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from examples.lipschitz import (
    NORM_SLACK,
    Recipe,
    build,
    certificates,
    changed_by_attack,
    folded,
    lipschitz_bound,
    margin_loss,
)
from examples.reproduce.methods import cut_digests, load_methods
from examples.reproduce.page import facts, figure, page
from examples.reproduce.rivals import Rival, crossing, load_rivals
from examples.reproduce.table import make_rows
from rrise.trainer.errors import TrainerError

RESULTS = Path(__file__).resolve().parents[2] / "examples" / "reproduce" / "results"


def _matrix(layer: nn.Module, shape: tuple[int, int, int]) -> torch.Tensor:
    """The layer without its bias as a dense matrix, column by column."""
    size = math.prod(shape)
    zero = layer(torch.zeros(1, *shape))
    return (layer(torch.eye(size).view(size, *shape)) - zero).flatten(1).T.detach()


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(2, 3, 3, padding="same"), nn.Conv2d(3, 2, 5, padding="same"), nn.Conv2d(2, 4, 2, stride=2)],
    ids=["3x3", "5x5", "stride"],
)
def test_the_bound_of_a_convolution_is_close_above_its_norm(layer: nn.Conv2d) -> None:
    torch.manual_seed(0)
    layer.reset_parameters()
    shape = (layer.in_channels, 8, 8)
    dense = float(torch.linalg.svdvals(_matrix(layer, shape).double())[0])
    bound = lipschitz_bound(nn.Sequential(layer), shape)
    assert dense <= bound <= dense * 1.25 + 2 * NORM_SLACK


def test_a_layer_whose_norm_is_not_known_is_refused() -> None:
    for layer in (
        nn.Conv2d(2, 2, 3, padding=1, stride=2),
        nn.Conv2d(2, 2, 3, padding="same", padding_mode="reflect"),
    ):
        with pytest.raises(ValueError, match="expected stride 1"):
            lipschitz_bound(nn.Sequential(layer), (2, 8, 8))


def _linear() -> tuple[nn.Sequential, torch.Tensor, np.ndarray]:
    """Three orthonormal outputs of 12 pixels, 20 inputs, and their exact distances to another label."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    nn.init.orthogonal_(network[1].weight)  # type: ignore[arg-type]
    inputs = torch.rand(20, 3, 2, 2)
    outputs = network(inputs).detach().double()
    top = outputs.topk(2, dim=1).values
    return network, inputs, ((top[:, 0] - top[:, 1]) / math.sqrt(2)).numpy()


def test_the_radius_is_the_exact_distance_where_the_network_is_linear() -> None:
    network, inputs, distance = _linear()
    bound = lipschitz_bound(network, (3, 2, 2))
    label, radius = certificates(network, inputs, bound)
    assert bound == pytest.approx(1.0, abs=1e-5)
    assert (label == network(inputs).argmax(1).numpy()).all()
    assert (radius <= distance + 1e-6).all() and radius == pytest.approx(distance, abs=1e-5)
    halved = certificates(network, inputs, 2 * bound)[1]
    assert halved == pytest.approx(radius / 2, abs=1e-6)


def test_the_attack_finds_what_there_is_and_nothing_within_the_radius() -> None:
    network, inputs, _ = _linear()
    label, radius = certificates(network, inputs, 1.0)
    assert not changed_by_attack(network, inputs, label, 0.999 * radius).any()
    assert changed_by_attack(network, inputs, label, 1.05 * radius).all()


@pytest.fixture(scope="module")
def small() -> tuple[nn.Sequential, nn.Sequential, torch.Tensor]:
    """A network of the library after a few steps, the same folded, and inputs."""
    pytest.importorskip("orthogonium", reason="needs the extra `benchmark`")
    torch.manual_seed(0)
    network, inputs, recipe = build((1, 8, 8), 3, Recipe(width=4)), torch.rand(30, 1, 8, 8), Recipe(width=4)
    optimiser, labels = torch.optim.Adam(network.parameters(), lr=0.03), torch.arange(30) % 3
    for _ in range(5):
        optimiser.zero_grad()
        margin_loss(network(inputs), labels, recipe).backward()
        optimiser.step()
    return network, folded(network, settling=10), inputs


def test_a_trained_network_is_1_lipschitz_and_folds_into_ordinary_layers(
    small: tuple[nn.Sequential, nn.Sequential, torch.Tensor],
) -> None:
    network, plain, inputs = small
    assert {type(layer) for layer in plain if isinstance(layer, nn.Conv2d)} == {nn.Conv2d}
    bound = lipschitz_bound(plain, (1, 8, 8))
    assert 0.9 < bound < 1.01
    with torch.inference_mode():
        assert torch.allclose(plain(inputs), network(inputs), atol=1e-2)
    label, radius = certificates(plain, inputs, bound)
    assert not changed_by_attack(plain, inputs, label, radius, steps=10).any()


def test_the_loss_asks_for_a_margin() -> None:
    recipe, label = Recipe(offset=0.7, temperature=0.25), torch.tensor([0])
    losses = [float(margin_loss(torch.tensor([[gap, 0.0]]), label, recipe)) for gap in (0.0, 0.7, 2.0)]
    expected = [0.25 * math.log1p(math.exp((0.7 - gap) / 0.25)) for gap in (0.0, 0.7, 2.0)]
    assert losses == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def rival() -> Rival:
    """Certificates on the published digits' test frames: every second label right, radius .3."""
    test = load_methods([RESULTS / "digits" / "rows" / "ours"])[0].test
    order = np.random.default_rng(0).permutation(len(test))
    wrong = (test.target[order] + 1) % 10
    label = np.where(np.arange(len(test)) % 2, test.target[order], wrong)
    radius = np.full(len(test), 0.3, np.float32)
    return Rival("made up", test.digest[order], test.target[order], label, radius, {"epochs": 3.0})


def test_a_rival_survives_its_folder(rival: Rival, tmp_path: Path) -> None:
    rival.save(tmp_path / "rivals" / "made-up")
    (again,) = load_rivals([], [tmp_path])
    assert again.name == rival.name and dict(again.facts) == dict(rival.facts)
    assert (again.radius == rival.radius).all() and (again.digest == cut_digests(rival.digest)).all()
    (tmp_path / "rivals" / "made-up" / "rival.json").write_text('{"name": "x"}')
    with pytest.raises(TrainerError, match="make it again"):
        load_rivals([], [tmp_path])
    with pytest.raises(TrainerError, match=r"examples/lipschitz\.py"):
        load_rivals([tmp_path], [])


def test_a_rivals_row_counts_right_labels_on_the_same_frames(rival: Rival) -> None:
    methods = load_methods([RESULTS / "digits" / "rows" / "ours"])
    rows = make_rows(methods, ("0.1",), (0.25, 0.5), [rival])
    row = next(row for row in rows if row.method == "made up")
    assert row.per_input and [worth.net.hits for worth in row.worth] == [150, 0]
    assert row.worth[0].gross == row.worth[0].net and row.worth[0].wrong.hits == 0
    certify = next(row for row in rows if row.method == "CERTIFY, N = 10,000")
    assert row.behind[0].value == pytest.approx(certify.worth[0].net.value - 0.5)
    text = page(methods, rows, (0.25, 0.5), facts(methods[0], (0.25, 0.5)), [rival])
    assert text.count("| made up | per input, proved |") == 2 and "epochs 3" in text
    assert (
        "no fewer than CERTIFY, N = 10,000 nowhere" in text
        and "Net points behind CERTIFY, N = 10,000" in text
    )
    assert "made up" in figure(rows, (0.25, 0.5))


def test_a_rival_of_other_frames_is_refused(rival: Rival) -> None:
    test = load_methods([RESULTS / "digits" / "rows" / "ours"])[0].test
    with pytest.raises(TrainerError, match="expected the 300 test frames"):
        Rival("fewer", rival.digest[:9], rival.target[:9], rival.label[:9], rival.radius[:9]).judged(test)
    other = Rival("other labels", rival.digest, (rival.target + 1) % 10, rival.label, rival.radius)
    with pytest.raises(TrainerError, match="expected the 300 test frames"):
        other.judged(test)


def test_where_two_curves_cross() -> None:
    grid = (0.0, 0.1, 0.2, 0.3)
    assert crossing((0.5, 0.5, 0.4, 0.3), (0.6, 0.5, 0.3, 0.2), grid) == 0.1
    assert crossing((0.5, 0.5, 0.4, 0.3), (0.4, 0.5, 0.5, 0.5), grid) is None
    assert crossing((0.5, 0.5, 0.4, 0.3), (0.6, 0.6, 0.6, 0.6), grid) == 0.3
