"""Networks: a small residual network for 8 to 64 pixels, a user's own factory, and their safetensors files."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rrise.calibration.storage.digests import file_digest
from rrise.calibration.storage.files import atomic_file
from rrise.trainer.blackbox import KINDS, open_black_box
from rrise.trainer.errors import TrainerError
from rrise.trainer.network_checks import check_finite, fitted, prepare
from rrise.trainer.user_code import user_code

METADATA_KEY = "rrise"

DIFFICULTY_FLOOR = 0.1
"""Keeps the difficulty of an easy frame from vanishing, which would let a rare error through unchecked."""


@dataclass(frozen=True)
class Network:
    """A network read from a file.

    module: in eval mode, float32 [B, C, H, W] in [0, 1] -> logits float32 [B, K], or (logits, difficulty [B]) where
        its spec is of kind "difficulty".
    spec: what `build_network` needs. metadata: what the file says about its making. digest: SHA-256 of the file.
    """

    module: nn.Module
    spec: Mapping[str, Any]
    metadata: Mapping[str, Any]
    digest: str

    @property
    def has_difficulty(self) -> bool:
        """Whether the module returns (logits, difficulty)."""
        return self.spec.get("kind") == "difficulty"

    @property
    def guard_noise(self) -> float:
        """Standard deviation of the noise it was trained to take with every frame (guarded tier), 0 for a plain pass."""
        return float(self.metadata.get("guard_noise", 0.0))


class Standardise(nn.Module):
    """(x - mean) / std per channel. It sits inside the network, after the noise, so that sigma and all radii are
    in [0, 1] pixel units."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and a shortcut (He et al. 2016)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network for small images. Batch normalisation folds into the convolutions at inference.

    Every stage after the first halves the size. widths (16, 32, 64) with blocks (3, 3, 3) is the CIFAR ResNet-20,
    with blocks (18, 18, 18) the ResNet-110.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: list[int],
        blocks: list[int],
        mean: list[float],
        std: list[float],
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.standardise = Standardise(mean, std)
        self.stem = nn.Conv2d(in_channels, widths[0], 3, stem_stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        layers: list[nn.Module] = []
        channels = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for number in range(count):
                layers.append(Block(channels, width, 2 if stage > 0 and number == 0 else 1))
                channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees, float32 [B, widths[-1]]."""
        maps: Tensor = self.body(F.relu(self.norm(self.stem(self.standardise(x)))))
        return maps.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


class WithDifficulty(nn.Module):
    """A network with a second head: (logits float32 [B, K], difficulty float32 [B] > 0).

    The difficulty scales the offset frame by frame. It is learned from the features of a ResNet, or from the logits
    of any other network, and never changes the logits.
    """

    scale: Tensor

    def __init__(self, network: nn.Module, num_features: int, hidden: int = 16) -> None:
        super().__init__()
        self.network = network
        self.first, self.second = nn.Linear(num_features, hidden), nn.Linear(hidden, 1)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.network, ResNet):
            features = self.network.features(x)
            logits = self.network.head(features)
        else:
            features = logits = self.network(x)
        return logits, self.difficulty(features)

    def difficulty(self, features: Tensor) -> Tensor:
        """Difficulty float32 [B] of features float32 [B, F]; at least DIFFICULTY_FLOOR of the average one."""
        raw = F.softplus(self.second(F.relu(self.first(features))))
        return (raw.squeeze(1) + DIFFICULTY_FLOOR) * self.scale


def build_network(spec: Mapping[str, Any], *, allow_code: bool = False) -> nn.Module:
    """Build the network that `spec` describes, with fresh weights.

    spec: {"kind": "resnet", ...arguments of ResNet}, {"kind": "factory", "factory": "package.module:function",
        "arguments": {...}}, or {"kind": "difficulty", "network": spec, "num_features": F, "hidden": H}.
    allow_code: a factory is code from outside rrise and runs only when this is true.
    """
    arguments = {key: value for key, value in spec.items() if key != "kind"}
    if spec.get("kind") == "resnet":
        return ResNet(**arguments)
    if spec.get("kind") == "factory":
        return load_factory(spec["factory"], spec.get("arguments", {}), allow_code=allow_code)
    if spec.get("kind") == "difficulty":
        inner = build_network(spec["network"], allow_code=allow_code)
        return WithDifficulty(inner, spec["num_features"], spec["hidden"])
    raise TrainerError(f"network kind {spec.get('kind')!r}: expected 'resnet', 'factory' or 'difficulty'")


def load_factory(
    name: str, arguments: Mapping[str, Any] | None = None, *, allow_code: bool = False
) -> nn.Module:
    """Call the user's "package.module:function", which returns a torch module: [B, C, H, W] in [0, 1] -> logits.

    Importing it executes code, hence the explicit `allow_code`.
    """
    if not allow_code:
        raise TrainerError(
            f"network factory {name!r} executes code from outside rrise; if you trust it, pass --allow-code "
            "(in Python: allow_code=True)"
        )
    module_name, separator, function_name = name.partition(":")
    if not separator or not module_name or not function_name:
        raise TrainerError(f"network factory {name!r}: expected 'package.module:function'")
    with user_code(f"network factory {name!r}: cannot import it (is its folder on PYTHONPATH?)"):
        factory = getattr(importlib.import_module(module_name), function_name)
    with user_code(f"network factory {name!r}: fails when called with {dict(arguments or {})}"):
        network = factory(**(arguments or {}))
    if not isinstance(network, nn.Module):
        raise TrainerError(
            f"network factory {name!r}: returned {type(network).__name__}, expected a torch.nn.Module"
        )
    return prepare(network, f"network factory {name!r}")


def differences(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Each entry of `wanted` that a network file does not have: its name, what the file has, what is wanted.

    Of two tables only the keys whose values differ, for a message that a person can read.
    """
    for name, expected in wanted.items():
        if metadata.get(name) != expected:
            yield (name, *_differing(metadata.get(name), expected))


def _differing(got: Any, expected: Any) -> tuple[Any, Any]:
    if not isinstance(got, Mapping) or not isinstance(expected, Mapping):
        return got, expected
    keys = [key for key in {**expected, **got} if got.get(key) != expected.get(key)]
    return {key: got.get(key) for key in keys}, {key: expected.get(key) for key in keys}


def save_network(path: Path, module: nn.Module, spec: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Write weights, spec and metadata as one safetensors file, whole or not at all; returns the file's digest.

    Raises TrainerError where a weight is NaN or infinite: such a network would certify nothing, or nonsense.
    """
    # Copies: safetensors refuses weights that share their memory, as tied ones do.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}
    check_finite(module, tensors, "the trained network")
    # One metadata key: safetensors orders several keys at random, and equal networks should have equal digests.
    header = {METADATA_KEY: json.dumps({"spec": spec, "metadata": metadata}, sort_keys=True)}
    with atomic_file(path) as file:
        file.write(save(tensors, header))
    return file_digest(path)


def load_network(path: Path, *, allow_code: bool = False) -> Network:
    """Read a network that `save_network` wrote, in eval mode."""
    tensors, header = read_safetensors(path)
    if METADATA_KEY not in header:
        raise TrainerError(
            f"{path}: a safetensors file, but not written by rrise-train (no {METADATA_KEY!r} metadata)"
        )
    content = json.loads(header[METADATA_KEY])
    if content["spec"]["kind"] in KINDS:
        module: nn.Module = open_black_box(content["spec"], path.parent, allow_code=allow_code)
    else:
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn and thrown away
            module = build_network(content["spec"], allow_code=allow_code)
        load_weights(module, tensors, str(path))
    return Network(module.eval(), content["spec"], content["metadata"], file_digest(path))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except FileNotFoundError as error:
        raise TrainerError(f"{path}: no such file; run the stage that writes it first") from error
    except (SafetensorError, OSError) as error:
        raise TrainerError(f"{path}: not a readable safetensors file ({error})") from error


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load `tensors` into `module`; names (but for wrappers' prefixes), shapes and finiteness must fit."""
    named = fitted(module, tensors, origin)
    check_finite(module, named, origin)
    with user_code(f"{origin}: the weights do not fit the network"):
        module.load_state_dict(named)
