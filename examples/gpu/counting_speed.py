"""How fast classes are counted on this machine, on the networks that such work is usually done with.

    python examples/gpu/counting_speed.py --device cuda                 # ResNet-18 at 32 px and ResNet-50 at 224 px
    python examples/gpu/counting_speed.py --device cpu --network resnet20

Prints the engine against the usual loop of randomized smoothing code and against the plain forward pass of the same
network, and on a GPU checks first that counts from replayed graphs agree with those drawn on the CPU. Weights are
random: speed does not depend on them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from rrise.calibration.console import run_command, summary
from rrise.calibration.storage.digests import frame_digests
from rrise.trainer import Preprocess
from rrise.trainer.classifiers.base_file import NotWritten, exported
from rrise.trainer.montecarlo import CountStore, sample_counts
from rrise.trainer.montecarlo.engine_choice import SLOW_TO_OPEN
from rrise.trainer.montecarlo.engine_labeller import ClassifierForms
from rrise.trainer.montecarlo.engines import NAMES, installed
from rrise.trainer.montecarlo.speed.benchmark import run_benchmark
from rrise.trainer.networks import ResNet

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Bottleneck(nn.Module):
    """The block of ResNet-50 (He et al. 2016)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.reduce, self.norm1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv, self.norm2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.expand, self.norm3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm2(self.conv(F.relu(self.norm1(self.reduce(x))))))
        return F.relu(self.norm3(self.expand(inner)) + self.shortcut(x))


def resnet50() -> nn.Module:
    """ResNet-50 at 224 px, 1,000 classes."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    channels = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            layers.append(Bottleneck(channels, width, stride if number == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


#: name -> (how to build it, side of the frame, classes)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "resnet20": (lambda: ResNet(3, 10, [16, 32, 64], [3, 3, 3], MEAN, STD), 32, 10),
    "resnet18": (lambda: ResNet(3, 10, [64, 128, 256, 512], [2, 2, 2, 2], MEAN, STD), 32, 10),
    "resnet50": (resnet50, 224, 1000),
}


def say(name: str, text: str) -> None:
    """What happens to a network, on stderr."""
    click.echo(f"{name}: {text}", err=True)


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--network", "names", multiple=True, default=("resnet18", "resnet50"), show_default=True)
@click.option("--dtype", "dtypes", multiple=True, default=("float32", "bfloat16"), show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Time of each contender in each round.")
@click.option("--rounds", default=5, show_default=True)
@click.option(
    "--minutes", default=1.0, show_default=True, help="Of comparing one network; the first round is finished."
)
@click.option(
    "--engine",
    "wanted",
    multiple=True,
    help="By default all that are installed but torch-compile, which takes minutes.",
)
@click.option("--json", "as_json", is_flag=True)
@run_command
def main(
    device: str,
    names: tuple[str, ...],
    dtypes: tuple[str, ...],
    seconds: float,
    rounds: int,
    minutes: float,
    wanted: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare the engines with the usual loop and with the plain forward pass."""
    lines: list[tuple[str, str]] = []
    results = {}
    for name in names:
        build, side, classes = NETWORKS[name]
        torch.manual_seed(0)
        network = build().eval()
        frames = np.random.default_rng(0).integers(0, 256, (64, side, side, 3), dtype=np.uint8)
        preprocess = Preprocess((side, side, 3), "rgb8")
        if device != "cpu":
            value = agreement(network, preprocess, frames[:4], classes, device)
            lines.append(
                (f"{name}: agreement with the CPU", f"p = {value:.3g} (chi-squared, 4 frames x 200 draws)")
            )
        noisy = torch.rand(8, 3, side, side, generator=torch.Generator().manual_seed(0))
        data = exported(network, noisy)
        source = ClassifierForms(None if isinstance(data, NotWritten) else data[0], network)
        chosen = wanted or tuple(
            engine for engine in NAMES if installed(engine) and engine not in SLOW_TO_OPEN
        )
        engines = tuple((engine, dtype) for dtype in dtypes for engine in chosen)
        result = run_benchmark(
            source, preprocess, frames, classes, engines=engines, device=device, rounds=rounds, seconds=seconds,
            minutes=minutes, progress=partial(say, name),
        )  # fmt: skip
        results[name] = result.to_json()
        lines += [(f"{name}: {label}", value) for label, value in result.lines()]
    summary("class counting speed", lines, results, as_json)


def agreement(
    network: nn.Module, preprocess: nn.Module, frames: np.ndarray, classes: int, device: str
) -> float:
    """Do counts drawn on `device` have the distribution of counts drawn on the CPU? Combined p-value."""
    counts = []
    for place in ("cpu", device):
        with tempfile.TemporaryDirectory() as folder:
            store = CountStore.open(
                Path(folder) / "t.zarr", stream="agreement", digests=frame_digests(frames), num_classes=classes,
                sigma=0.25, seed=0, base_digest="0" * 64,
            )  # fmt: skip
            sample_counts(network, preprocess.to(place), frames, store, 200, device=place)
            counts.append(store.counts())
    values = []
    for first, second in zip(*counts, strict=True):
        table = np.stack([first, second])[:, (first + second) >= 10]
        if table.shape[1] > 1:
            values.append(float(stats.chi2_contingency(table).pvalue))
    return float(stats.combine_pvalues(values).pvalue) if values else 1.0


if __name__ == "__main__":
    main()
