"""The whole loop with the real model libraries, at small size; each test is skipped where its library is not installed.

tests/trainer/networks/test_pretrained.py has what the adapter itself does, with stand-ins that need no library.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rrise import trainer
from rrise.edge_sdk import Certifier
from rrise.export import export_onnx
from rrise.trainer.commands.presets import estimates, fitting_config, untrained_network
from rrise.trainer.data.settings import DataConfig
from rrise.trainer.networks.saved_folders import PREFIX
from rrise.trainer.settings.config import parse_config

SIDE, FRAMES, CLASSES = 16, 240, 3


def library(name: str) -> Any:
    """The real library, or a skip that says why not."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - torchvision of another build raises RuntimeError
        pytest.skip(f"needs {name}: {error}")


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Noisy frames of three colours: learned at once."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, FRAMES)
    images = random.integers(0, 90, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    images[np.arange(FRAMES), :, :, labels] += 140
    path = tmp_path / "frames.npz"
    np.savez(path, images=images, labels=labels, class_names=np.array(["red", "green", "blue"]))
    return path


def loop(
    tmp_path: Path, frames: Path, network: str, method: str = "fresh", **base: Any
) -> tuple[trainer.Workspace, float]:
    """Every stage, the export, and the share of test frames that the bundle certifies."""
    place = tmp_path / "workspace"
    tables = fitting_config(place, DataConfig(str(frames)), network=network, preset="quick").to_json()
    tables["splits"] |= {"tuning": 30, "calibration": 80, "verification": 20, "test": 20}
    tables["base"] |= {"epochs": 3, "batch_size": 16, **base}
    tables["surrogate"] |= {"method": method, "epochs": 1, "batch_size": 16}
    tables["targets"] |= {"tuning": 100, "calibration": 100, "verification": 100}
    tables["guarantee"] |= {"error": "0.2"}
    made = trainer.Workspace.create(place, parse_config(tables))
    assert all(
        item.seconds is not None
        for item in estimates(made, {"train": 90, **tables["splits"]}, untrained_network(made))
    )
    trainer.train_base(made)
    trainer.build_targets(made)
    trainer.train_surrogate(made)
    trainer.calibrate_surrogate(made)
    bundle = export_onnx(made.path, tmp_path / "bundle").path
    certifier = Certifier.load(bundle)
    certificates = [certifier.certify(frame) for frame in made.dataset.take(made.splits.test)]
    return made, float(np.mean([bool(item) for item in certificates]))


def saved(module: nn.Module, path: Path) -> str:
    save_file({name: value.clone() for name, value in module.state_dict().items()}, path)
    return str(path)


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A folder as a team keeps its own classifier of seven classes."""
    transformers = library("transformers")
    torch.manual_seed(0)
    sizes = {"image_size": SIDE, "patch_size": 8, "hidden_size": 16, "intermediate_size": 32}
    settings = transformers.AutoConfig.for_model(
        "vit", num_labels=7, num_hidden_layers=1, num_attention_heads=2, **sizes
    )
    folder = tmp_path / "vit"
    transformers.AutoModelForImageClassification.from_config(settings).save_pretrained(folder)
    transformers.ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(folder)
    return folder


def test_a_folder_of_transformers_is_fine_tuned_exported_and_certifies(
    tmp_path: Path, frames: Path, vit: Path
) -> None:
    made, certified = loop(tmp_path, frames, f"{PREFIX}{vit}", learning_rate=3e-3)
    spec = trainer.networks.read_header(made.base_path)[0]
    assert spec["name"] == "transformers/vit" and spec["mean"] == [0.5] * 3 and spec["std"] == [0.25] * 3
    assert (made.path / "base.onnx").exists() and certified > 0


def test_weights_of_a_model_type_carry_the_names_of_any_version(tmp_path: Path, vit: Path) -> None:
    """Version 5 renamed the layers of its models, and still writes files with the names of version 4."""
    from safetensors import safe_open

    from rrise.trainer.networks.saved_folders import read_folder, renamed

    transformers = library("transformers")
    network = transformers.AutoModelForImageClassification.from_pretrained(vit, local_files_only=True)
    with safe_open(vit / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = renamed(network, tensors, "x")
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.items())
    other = transformers.AutoModelForImageClassification.from_config(
        transformers.AutoConfig.for_model("vit", num_labels=2, **read_folder(vit).arguments)
    )
    heads = {"classifier.weight", "classifier.bias"}
    assert other.state_dict().keys() - renamed(other, tensors, "x").keys() == heads


def test_a_network_of_timm_takes_its_weights_as_they_are(tmp_path: Path, frames: Path) -> None:
    timm = library("timm")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False, num_classes=CLASSES)
    weights = saved(model, tmp_path / "w.safetensors")
    made, _ = loop(tmp_path, frames, "timm/test_resnet", "unchanged", weights=weights, train="none")
    module = made.base().module
    assert torch.equal(module.network.state_dict()["conv1.0.weight"], model.state_dict()["conv1.0.weight"])  # type: ignore[union-attr]


def test_a_network_of_torchvision_from_scratch(tmp_path: Path, frames: Path) -> None:
    library("torchvision")
    made, certified = loop(tmp_path, frames, "torchvision/shufflenet_v2_x0_5")
    assert made.base().spec["mean"] == [0.485, 0.456, 0.406] and 0 <= certified <= 1
