"""The base classifier: trained here under Gaussian noise, or the user's own (module, ONNX file or any callable)."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rrise.calibration.storage.digests import file_digest
from rrise.trainer import base_file
from rrise.trainer.base_checks import Judgement, judge
from rrise.trainer.blackbox import BlackBoxModule, labels_of, onnx_spec, open_black_box
from rrise.trainer.data.augment import augment
from rrise.trainer.data.inputs import Inputs
from rrise.trainer.errors import TrainerError
from rrise.trainer.network_checks import check_answers, check_trainable
from rrise.trainer.networks import (
    build_network,
    differences,
    load_network,
    load_weights,
    read_safetensors,
    save_network,
)
from rrise.trainer.onnx_files import embedded
from rrise.trainer.training import Recipe, Trained, seeded, train
from rrise.trainer.workspace import Workspace

FILE_FRAMES = 64
"""Noisy frames on which base.onnx is compared with the network."""


@dataclass(frozen=True)
class BaseResult:
    """digest: of the base classifier (base.onnx; base.safetensors where it is no such file).

    noisy_accuracy: of single noisy evaluations on the tuning split, at sigma.

    kept: whether a finished base classifier with the same settings was found and left as it is. attention: what looks
    like a mistake (near chance, one class, permuted classes, random answers).
    """

    digest: str
    noisy_accuracy: float
    seconds: float
    kept: bool
    attention: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def train_base(workspace: Workspace, *, again: bool = False, allow_code: bool = False) -> BaseResult:
    """Make base.safetensors: train the configured network under noise of standard deviation sigma, or take the
    user's own: a PyTorch network ([base] factory and weights), an ONNX file ([base] onnx) or any callable ([base]
    black_box).

    again: make it anew although there is one. Targets and surrogate of the old one then no longer fit.
    allow_code: let a configured factory execute its code.

    Raises TrainerError where a base.safetensors with other settings or of another own classifier exists, or weights are
    not finite.
    """
    start = time.monotonic()
    settings = {**workspace.fingerprint(), "settings": _plain(asdict(workspace.config.base))}
    settings |= _own_file(workspace)
    path = workspace.base_path
    kept = path.exists() and not again
    if kept:
        _check_settings(path, settings, allow_code)
    elif workspace.config.base.onnx or workspace.config.base.black_box:
        _take_black_box(workspace, settings, allow_code)
    elif workspace.config.base.factory:
        _take_own(workspace, settings, allow_code)
    else:
        _train_own(workspace, settings)
    attention = _as_file(workspace, kept, allow_code)
    network = workspace.base(allow_code=allow_code)
    found = _judgement(workspace, network.module)
    return BaseResult(
        network.digest, found.accuracy, time.monotonic() - start, kept, attention + found.attention
    )


def _train_own(workspace: Workspace, settings: dict[str, Any]) -> None:
    asked = workspace.config.base
    inputs, labels = workspace.training_inputs(), torch.from_numpy(workspace.labels("train"))
    spec = resnet_spec(workspace)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.seed)
        network = build_network(spec)
    trained = _train_under_noise(workspace, network, inputs, labels)
    metadata = {**settings, "loss": round(trained.loss, 6), "epochs": asked.epochs}
    save_network(workspace.base_path, network, spec, metadata)
    workspace.record_cost("base", trained=trained.examples)


def _train_under_noise(workspace: Workspace, network: nn.Module, inputs: Inputs, labels: Tensor) -> Trained:
    """Cohen et al. 2019, section 3.3: cross-entropy at one noisy copy of each augmented view."""
    asked, sigma = workspace.config.base, workspace.config.smoothing.sigma
    generator = seeded(asked.seed)

    def loss_of(index: Tensor) -> Tensor:
        views = augment(inputs[index], asked.shift, asked.flip, generator)
        noisy = views + sigma * torch.randn(views.shape, generator=generator)
        return F.cross_entropy(network(noisy), labels[index])

    recipe = Recipe(
        asked.epochs, asked.batch_size, asked.learning_rate, asked.weight_decay, "base classifier"
    )
    return train(network, recipe, inputs, loss_of, generator)


def resnet_spec(workspace: Workspace) -> dict[str, Any]:
    """Spec of the configured residual network, standardised by the training frames."""
    asked, inputs = workspace.config.base, workspace.training_inputs()
    _check_depth(workspace, inputs.shape)
    mean, std = inputs.statistics()
    return {
        "kind": "resnet",
        "in_channels": inputs.shape[0],
        "num_classes": len(workspace.dataset.class_names),
        "widths": list(asked.widths),
        "blocks": list(asked.blocks),
        "stem_stride": asked.stem_stride,
        "mean": [round(float(value), 6) for value in mean],
        "std": [round(max(float(value), 0.01), 6) for value in std],
    }


def _check_depth(workspace: Workspace, shape: tuple[int, int, int]) -> None:
    smallest = workspace.config.base.stem_stride * 2 ** (len(workspace.config.base.widths) - 1)
    if min(shape[1:]) < smallest:
        raise TrainerError(
            f"[base] widths {list(workspace.config.base.widths)}: every stage after the first halves the image, so "
            f"{shape[1]}x{shape[2]} pixels are too few (expected at least {smallest}); use fewer stages"
        )


def _take_own(workspace: Workspace, settings: dict[str, Any], allow_code: bool) -> None:
    asked = workspace.config.base
    spec = {"kind": "factory", "factory": asked.factory, "arguments": {}}
    network = build_network(spec, allow_code=allow_code).eval()
    source = workspace.path / asked.weights
    tensors, _ = read_safetensors(source)
    load_weights(network, tensors, str(source))
    _check_own(workspace, network, asked.factory)
    save_network(workspace.base_path, network, spec, settings)
    workspace.record_cost("base")


def _check_own(workspace: Workspace, network: nn.Module, origin: str) -> None:
    example, classes = workspace.inputs("tuning")[:4], len(workspace.dataset.class_names)
    check_answers(network, example, classes, origin)
    with torch.inference_mode():
        labels_of(network, classes, "float32")(example)
    check_trainable(network, example, origin)


def _take_black_box(workspace: Workspace, settings: dict[str, Any], allow_code: bool) -> None:
    asked = workspace.config.base

    def check(network: BlackBoxModule) -> None:
        labels_of(network, len(workspace.dataset.class_names), "float32")(workspace.inputs("tuning")[:4])

    if asked.onnx:
        spec = onnx_spec(workspace.path / asked.onnx, workspace.path, check)
        network = open_black_box(spec, workspace.path, allow_code=allow_code)
    else:
        spec = {"kind": "black-box", "function": asked.black_box, "version": asked.version}
        network = open_black_box(spec, workspace.path, allow_code=allow_code)
        check(network)
    save_network(workspace.base_path, network, spec, settings)
    workspace.record_cost("base")


def _as_file(workspace: Workspace, kept: bool, allow_code: bool) -> tuple[str, ...]:
    """See to base.onnx; returns what needs attention where the base classifier cannot be one.

    In a workspace from before, whose targets were counted by the module, the module remains the classifier.
    """
    folder, network = workspace.path, load_network(workspace.base_path, allow_code=allow_code)
    record = base_file.read_record(folder)
    current = record is not None and record.weights == network.digest
    if kept and (current or (record is None and workspace.targets_path.exists())):
        return ()
    if network.spec["kind"] == "black-box":
        base_file.forget(folder)
        return ()
    if network.spec["kind"] == "onnx":
        base_file.record_own(folder)
        return ()
    frames = workspace.inputs("tuning")[:FILE_FRAMES]
    noise = torch.randn(frames.shape, generator=seeded(0))
    written = base_file.write(folder, network.module, frames + workspace.config.smoothing.sigma * noise)
    if isinstance(written, base_file.BaseFile):
        return ()
    return (f"cannot be written as base.onnx ({written.reason}); it is counted as a PyTorch module",)


def _judgement(workspace: Workspace, network: nn.Module) -> Judgement:
    """What it answers on noisy tuning frames: what smoothing starts from."""
    classes = workspace.dataset.class_names
    answer = labels_of(network, len(classes), workspace.config.targets.dtype)
    sigma = workspace.config.smoothing.sigma
    return judge(answer, workspace.inputs("tuning"), workspace.labels("tuning"), classes, sigma)


def _check_settings(path: Path, settings: dict[str, Any], allow_code: bool) -> None:
    found = load_network(path, allow_code=allow_code).metadata
    for name, got, expected in differences(found, settings):
        raise TrainerError(
            f"{path}: {name}: got {got}, expected {expected} from rrise.toml; restore the settings, or "
            "train a new base classifier with --again (its targets and surrogate must then be made again, too)"
        )


def _own_file(workspace: Workspace) -> dict[str, str]:
    """Digest of the user's own weights or ONNX file: a new one under the old name is not the classifier that was taken."""
    name = workspace.config.base.weights or workspace.config.base.onnx
    path = workspace.path / name
    if not name or not path.is_file():
        return {}
    # The weights of an ONNX file may lie in other files: they are part of what was taken.
    digest = (
        file_digest(path) if workspace.config.base.weights else hashlib.sha256(embedded(path)).hexdigest()
    )
    return {"own_classifier_digest": digest}


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as they come back from JSON."""
    return {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}
