"""What a user would pick instead: a 1-Lipschitz network, trained on the same frames for the same time.

    python examples/lipschitz.py WORKSPACE --minutes 43 --out runs/lipschitz

Its layers are orthogonal (`orthogonium`, the extra `benchmark`), so that no two outputs drift apart faster than sqrt(2) times the
distance of two frames: label and radius = margin / (sqrt(2) L) hold for that one frame, whoever made it, without Monte
Carlo, calibration or error level. L is not taken on trust: it is the product of the layers' norms, each computed from
its weights. The workspace gives frames, splits and pixel scale; nothing is written into it. The folder gets network.safetensors,
and label and radius of every test frame, which `python -m examples.reproduce table ... --rival FOLDER` puts beside ours.

Sources: Tsuzuku, Sato and Sugiyama 2018 (margin / (sqrt(2) L)); Boissin et al. 2025, arXiv 2501.07930 (orthogonal convolutions);
Prach and Lampert 2022 (cross-entropy with an offset and a temperature); Sedghi et al. 2019 (norm of a convolution).
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from examples.reproduce.rivals import Rival
from rrise.calibration.console import Progress
from rrise.calibration.requirements import install
from rrise.calibration.statistics.bounds import round_down
from rrise.calibration.tables.evaluation import certified_accuracy
from rrise.trainer.data.augment import augment
from rrise.trainer.data.inputs import Inputs
from rrise.trainer.workspace import Workspace

RADII = (0.0, 0.14, 0.25, 0.5, 0.75)
BATCH = 256
NORM_SLACK = 1e-6
"""Added to the norm of every layer for the rounding of its computation in float64, many times over."""


@dataclass(frozen=True)
class Recipe:
    """How the rival is trained.

    width: channels of the first stage. mid, last: further 3 x 3 convolutions at a quarter and an eighth of the size. rate:
    highest learning rate. offset: margin of the outputs that is asked for before the loss flattens, temperature: how
    softly. seed: of weights, order and views.
    """

    width: int = 32
    mid: int = 1
    last: int = 1
    rate: float = 1e-2
    offset: float = 0.7
    temperature: float = 0.25
    seed: int = 0


def build(shape: tuple[int, int, int], classes: int, recipe: Recipe, iterations: int = 5) -> nn.Sequential:
    """float32 [B, C, h, w] in [0, 1] -> [B, K]; h and w are multiples of 8.

    iterations: of the orthogonalisation. Few are enough: what they leave is in the bound.
    """
    from orthogonium.layers import AdaptiveOrthoConv2d, MaxMin, OrthoLinear
    from orthogonium.model_factory.classparam import ClassParam
    from orthogonium.reparametrizers import (
        BatchedBjorckOrthogonalization,
        BatchedPowerIteration,
        OrthoParams,
    )

    made = OrthoParams(
        spectral_normalizer=ClassParam(BatchedPowerIteration, power_it_niter=3, eps=1e-6),
        orthogonalizer=ClassParam(BatchedBjorckOrthogonalization, beta=0.5, niters=iterations),
    )

    def same(inside: int, outside: int) -> list[nn.Module]:
        layer = AdaptiveOrthoConv2d(inside, outside, 3, padding_mode="zeros", ortho_params=made)
        return [layer, MaxMin()]

    def halve(inside: int) -> list[nn.Module]:
        return [AdaptiveOrthoConv2d(inside, 2 * inside, 2, stride=2, padding=0, ortho_params=made), MaxMin()]

    channels, height, width = shape
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), *same(4 * channels, recipe.width)]
    layers += same(recipe.width, recipe.width) + halve(recipe.width)
    for _ in range(recipe.mid):
        layers += same(2 * recipe.width, 2 * recipe.width)
    layers += halve(2 * recipe.width)
    for _ in range(recipe.last):
        layers += same(4 * recipe.width, 4 * recipe.width)
    flat = 4 * recipe.width * (height // 8) * (width // 8)
    return nn.Sequential(*layers, nn.Flatten(), OrthoLinear(flat, classes, ortho_params=made))


def train(
    network: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    recipe: Recipe,
    views: tuple[int, bool],
    seconds: float,
) -> int:
    """Train until `seconds` of processor time are spent; the number of views that were seen.

    views: by how many pixels they are shifted, and whether some are mirrored. The learning rate rises over the first
    twentieth of the time and then falls along a cosine to nothing.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.rate)
    generator = torch.Generator().manual_seed(recipe.seed)
    begin, seen, order = time.process_time(), 0, torch.empty(0, dtype=torch.long)
    with Progress(int(seconds), "s of processor time", "1-Lipschitz network") as progress:
        while (spent := time.process_time() - begin) < seconds:
            done = spent / seconds
            rate = min(done / 0.05, 0.5 + 0.5 * math.cos(math.pi * max(done - 0.05, 0.0) / 0.95))
            optimiser.param_groups[0]["lr"] = recipe.rate * max(rate, 1e-3)
            if len(order) < BATCH:
                order = torch.randperm(len(inputs), generator=generator)
            chosen, order = order[:BATCH], order[BATCH:]
            view = augment(inputs[chosen], *views, generator)
            optimiser.zero_grad()
            margin_loss(network(view), labels[chosen], recipe).backward()
            optimiser.step()
            seen += len(chosen)
            progress.advance(int(time.process_time() - begin) - int(spent))
    return seen


def margin_loss(outputs: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy after `offset` is taken from the true class, at `temperature`: mean over the batch."""
    wanted = nn.functional.one_hot(labels, outputs.shape[1])
    scaled = (outputs - recipe.offset * wanted) / recipe.temperature
    return nn.functional.cross_entropy(scaled, labels) * recipe.temperature


def folded(network: nn.Module, settling: int = 50) -> nn.Sequential:
    """The same network with ordinary layers, once the iterations that keep them orthogonal have settled."""
    found = copy.deepcopy(network).eval()
    with torch.no_grad():
        for _ in range(settling):
            for layer in found.modules():
                if parametrize.is_parametrized(layer) and hasattr(layer, "weight"):
                    _ = layer.weight
    plain: list[nn.Module] = []
    for layer in cast(nn.Sequential, found):
        if isinstance(layer, nn.Conv2d):
            made: nn.Module = nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                cast(int, layer.kernel_size),
                stride=cast(int, layer.stride),
                padding="same" if layer.stride == (1, 1) else 0,
            )
        elif isinstance(layer, nn.Linear):
            made = nn.Linear(layer.in_features, layer.out_features)
        else:
            plain.append(layer)
            continue
        state = {name: getattr(layer, name).detach() for name in ("weight", "bias")}
        made.load_state_dict(state)
        plain.append(made)
    return nn.Sequential(*plain).eval()


def lipschitz_bound(network: nn.Sequential, shape: tuple[int, int, int]) -> float:
    """L of `folded`'s network: no two outputs differ, in L2, by more than L times the distance of the inputs, up to rounding.

    The product of the layers' norms. A convolution that pads with zeros is a part of the cyclic one on the grid with its
    padding, whose norm is the largest singular value of the kernel at any frequency of that grid (Sedghi et al. 2019). One
    whose stride is its kernel size is a matrix on disjoint patches. MaxMin sorts pairs, the first layer sorts pixels: norm 1.
    """
    product, size = 1.0, torch.zeros(1, *shape)
    for layer in network:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            product *= _norm(layer, (size.shape[-2], size.shape[-1])) + NORM_SLACK
        size = layer(size)
    return product


def _norm(layer: "nn.Conv2d | nn.Linear", size: tuple[int, int]) -> float:
    weight = layer.weight.detach().double()
    if isinstance(layer, nn.Linear):
        return float(torch.linalg.svdvals(weight)[0])
    if layer.stride == layer.kernel_size:
        return float(torch.linalg.svdvals(weight.flatten(1))[0])
    if layer.stride != (1, 1) or layer.padding_mode != "zeros" or layer.padding != "same":
        raise ValueError(
            f"{layer}: expected stride 1 with zeros around the frame, or a stride of the kernel size"
        )
    grid = tuple(pixels + side - 1 for pixels, side in zip(size, layer.kernel_size))
    spectrum = torch.fft.fft2(weight, s=grid).permute(2, 3, 0, 1)
    return float(torch.linalg.svdvals(spectrum).max())


def certificates(network: nn.Module, inputs: Tensor, bound: float) -> tuple[np.ndarray, np.ndarray]:
    """Label int64 [n] and radius float32 [n] of inputs [n, C, h, w]: margin / (sqrt(2) L), in [0, 1] pixel units.

    **Guarantee**: for each input, the label is the same for every x' with |x' - x| below the radius: a difference of two
    outputs is the product of an output of norm-L change with a vector of length sqrt(2). Computed in float64, rounded down.
    """
    exact = copy.deepcopy(network).double()
    with torch.inference_mode():
        outputs = torch.cat([exact(part.double()) for part in inputs.split(BATCH)])
    top = outputs.topk(2, dim=1)
    radius = (top.values[:, 0] - top.values[:, 1]) / (math.sqrt(2) * bound)
    return top.indices[:, 0].numpy(), round_down(radius.numpy())


def changed_by_attack(
    network: nn.Module,
    inputs: Tensor,
    label: np.ndarray,
    distance: np.ndarray,
    steps: int = 30,
    starts: int = 2,
) -> np.ndarray:
    """Whether projected gradient descent on the margin finds another label within `distance` of each input; bool [n].

    It may leave [0, 1]: the certificate does not need that range. The first start is the input, the others lie on the sphere.
    """
    generator = torch.Generator().manual_seed(0)
    changed = np.zeros(len(inputs), bool)
    for start in range(starts):
        for part in torch.arange(len(inputs)).split(BATCH):
            clean, mine = inputs[part], torch.from_numpy(label[part])[:, None]
            reach = torch.from_numpy(distance[part.numpy()]).float()[:, None, None, None]
            moved = clean
            if start:
                moved = clean + reach * _unit(torch.randn(clean.shape, generator=generator))
            for step in range(steps + 1):
                moved = moved.detach().requires_grad_(True)
                outputs = network(moved)
                changed[part] |= (outputs.argmax(1) != mine[:, 0]).numpy()
                others = outputs.scatter(1, mine, -math.inf).amax(1)
                (gradient,) = torch.autograd.grad((others - outputs.gather(1, mine)[:, 0]).sum(), moved)
                way = moved.detach() + 2 * reach / (1 + step / 4) * _unit(gradient) - clean
                length = way.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
                moved = clean + way * (reach / length).clamp_max(1.0)
    return changed


def _unit(x: Tensor) -> Tensor:
    unit: Tensor = x / x.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    return unit


def milliseconds(network: nn.Module, frame: Tensor, repeats: int = 200) -> float:
    """Median processor time of one frame, one thread."""
    times = []
    with torch.inference_mode():
        for _ in range(repeats):
            begin = time.process_time()
            network(frame)
            times.append(time.process_time() - begin)
    return 1000 * float(np.median(times))


def measure(
    workspace: Workspace, recipe: Recipe, minutes: float, split: str, attacked: int
) -> tuple[Rival, nn.Sequential]:
    """Train on the workspace's training frames and certify `split`."""
    torch.manual_seed(recipe.seed)
    inputs, labels = workspace.training_inputs(), torch.from_numpy(workspace.labels("train"))
    network = build(inputs.shape, len(workspace.class_names), recipe)
    begin = time.process_time()
    asked = workspace.config.base
    seen = train(network, inputs, labels, recipe, (asked.shift, asked.flip), 60 * minutes)
    spent = time.process_time() - begin
    plain = folded(network)
    bound = lipschitz_bound(plain, inputs.shape)
    frames = workspace.inputs(split)
    label, radius = certificates(plain, frames, bound)
    few = np.random.default_rng(recipe.seed).permutation(len(frames))[:attacked]
    inside, beyond = (
        float(changed_by_attack(plain, frames[torch.from_numpy(few)], label[few], far * radius[few]).mean())
        for far in (1.0, 3.0)
    )
    facts = {
        **asdict(recipe),
        "parameters": sum(value.numel() for value in plain.parameters()),
        "lipschitz_bound": bound,
        "training_minutes": spent / 60,
        "epochs": seen / len(inputs),
        "milliseconds": milliseconds(plain, frames[:1]),
        "attacked": len(few),
        "changed_within_radius": inside,
        "changed_within_three_radii": beyond,
    }
    if workspace.surrogate_path.exists():
        facts["milliseconds_surrogate"] = milliseconds(workspace.surrogate().module, frames[:1])
    digest = workspace.split_inputs(split).digests
    assert digest is not None
    return Rival("1-Lipschitz network", digest, workspace.labels(split), label, radius, facts), plain


def main() -> None:
    """Train, judge and keep the rival that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--minutes", type=float, required=True, help="processor time of training")
    parser.add_argument("--out", type=Path, help="folder for the network and its certificates")
    parser.add_argument("--split", default="test", help="choose the recipe on tuning frames")
    parser.add_argument("--attacked", type=int, default=500, help="frames that the attack is tried on")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    asked = vars(parser.parse_args())
    if not find_spec("orthogonium"):
        parser.error(f"orthogonium is not installed; run {install('orthogonium')} --no-deps")
    torch.set_num_threads(1)
    recipe = Recipe(**{name: asked[name] for name in asdict(Recipe())})
    workspace = Workspace.open(asked["workspace"])
    rival, network = measure(workspace, recipe, asked["minutes"], asked["split"], asked["attacked"])
    accuracy = certified_accuracy(rival.label, rival.radius, rival.target, RADII)
    print(" ".join(f"r={r:g}: {100 * share:.1f} %" for r, share in zip(RADII, accuracy)))
    print(" ".join(f"{name}={value:.5g}" for name, value in rival.facts.items()))
    if asked["out"]:
        from safetensors.torch import save_file

        rival.save(asked["out"])
        save_file(network.state_dict(), str(asked["out"] / "network.safetensors"))


if __name__ == "__main__":
    main()
