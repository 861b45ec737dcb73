"""Settings to start from that fit the data and the machine, and what each stage will take with them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rrise.calibration.console import duration
from rrise.trainer.base_classifier.specs import library_spec
from rrise.trainer.base_classifier.stage import how_to_train
from rrise.trainer.data.room import DataRoom
from rrise.trainer.data.settings import DataConfig, PreprocessConfig, SplitsConfig
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import build_network
from rrise.trainer.networks.pretrained import fixed_size
from rrise.trainer.networks.saved_folders import folder_of, read_folder
from rrise.trainer.settings.config import (
    LARGEST_SIDE,
    RESIZED_SIDE,
    SMALLEST_SIDE,
    Config,
    parse_config,
)
from rrise.trainer.workspace import Workspace

FRAMES_SEEN = 400_000
"""Training frames, with repeats, from which further epochs bring little to the built-in network."""

LIBRARY_SIDE = 224
"""Pixels of the longer side that networks of model libraries are mostly made for."""

MEASURED_NUMBERS = 1 << 20
"""Numbers in a batch with which speed is measured."""

PRESETS = {"quick": 0.25, "standard": 1.0, "thorough": 3.0}
"""Factor on epochs and samples: to see the whole loop run, to work with, to publish."""


def fitting_config(
    workspace: Path, data: DataConfig, *, sigma: float = 0.25, network: str = "", preset: str = "standard"
) -> Config:
    """Settings for these data: image size, network, epochs, samples and splits.

    workspace: the folder, from which relative paths in `data` start. network: "" for the built-in residual network,
        "timm/NAME" and the like, or "package.module:function" of a factory. preset: one of PRESETS.
    """
    if preset not in PRESETS:
        raise TrainerError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
    room = DataRoom(workspace, data, PreprocessConfig(), grid=False)
    source = room.source
    assert source is not None
    held_out = None if source.held_out is None else int(source.held_out.sum())
    trained = len(source) - (held_out or 0)
    height, width = room.geometry.height, room.geometry.width
    size = _library_size(network, workspace, height, width) if network else _size(height, width)
    side = min(size or (height, width))
    tables = Config(
        data=data, splits=_splits(len(source), held_out), preprocess=PreprocessConfig(size=size)
    ).to_json()
    tables["smoothing"]["sigma"] = sigma
    factor = PRESETS[preset]
    tables["base"] |= _network(network, max(size or (side, side)))
    if data.source != "digits":
        epochs = min(max(round(FRAMES_SEEN / max(trained, 1)), 6), 80)
        if network:
            epochs = min(epochs, 10)
        tables["base"]["epochs"] = max(round(epochs * factor), 2)
        tables["surrogate"]["epochs"] = max(round(epochs * factor / 2), 2)
        tables["surrogate"]["stored_epochs"] = max(round(epochs * factor), 2)
        tables["targets"]["train"] = _samples(
            (500 if trained <= 3000 else 200 if trained <= 12000 else 100) * factor
        )
    for name in ("tuning", "calibration", "verification"):
        tables["targets"][name] = _samples(2000 * factor)
    return parse_config(tables)


def _samples(number: float) -> int:
    return max(round(number / 100), 1) * 100


def _size(height: int, width: int) -> tuple[int, ...]:
    """What the built-in network sees: images up to 64 pixels as they are, larger ones at 32 on a CPU and 64 on a GPU."""
    longer = max(height, width)
    if longer <= LARGEST_SIDE:
        return ()
    factor = (2 * RESIZED_SIDE if torch.cuda.is_available() else RESIZED_SIDE) / longer
    return max(round(height * factor), SMALLEST_SIDE), max(round(width * factor), SMALLEST_SIDE)


def _library_size(network: str, workspace: Path, height: int, width: int) -> tuple[int, ...]:
    """What a network from elsewhere sees: the size that it demands, else frames of up to 224 pixels."""
    if ":" not in network:
        folder = folder_of(network, workspace)
        saved = None if folder is None else read_folder(folder)
        name, arguments = (network, {}) if saved is None else (saved.name, saved.arguments)
        wanted = fixed_size(name, arguments)
        if wanted is not None:
            return () if wanted == (height, width) else wanted
    factor = LIBRARY_SIDE / max(height, width)
    return () if factor >= 1 else (round(height * factor), round(width * factor))


def _splits(count: int, held_out: int | None) -> SplitsConfig:
    if held_out is not None:
        if held_out >= 4000:
            return SplitsConfig(tuning=500, calibration=1000, verification=500, test=1000)
        return SplitsConfig(tuning=0.2, calibration=0.4, verification=0.2, test=0.2)
    usual = SplitsConfig()
    if count < 2 * sum(usual.sizes().values()):
        return SplitsConfig(tuning=0.1, calibration=0.2, verification=0.12, test=0.1)
    if count >= 20_000:
        return SplitsConfig(tuning=500, calibration=1000, verification=500, test=1000)
    return usual


def _network(network: str, side: int) -> dict[str, object]:
    if ":" in network:
        return {"factory": network}
    if network:
        return {"network": network}
    if side <= 16:
        return {}
    if side <= 40:
        return {"widths": (16, 32, 64), "blocks": (0, 1, 1), "shift": 2}
    return {"widths": (16, 32, 64, 128), "blocks": (0, 1, 1, 1), "stem_stride": 2, "shift": 4}


@dataclass(frozen=True)
class Estimate:
    """One stage: base forward passes that it costs (a training step is three), and seconds on this machine."""

    stage: str
    passes: float
    seconds: float | None

    def row(self) -> tuple[str, str]:
        """Its line in a summary."""
        about = "" if self.seconds is None else f"about {duration(self.seconds)}, "
        number = f"{self.passes / 1e6:,.1f} million" if self.passes >= 1e6 else f"{self.passes:,.0f}"
        return self.stage, f"{about}{number} base passes"


def estimates(workspace: Workspace, sizes: dict[str, int]) -> tuple[Estimate, ...]:
    """What the stages will take, from a quick measurement of the network on this machine's processor.

    sizes: frames of each split. The seconds are None for code from elsewhere, which is not run for this.
    """
    asked, config = workspace.config.targets, workspace.config
    count = sizes["train"]
    base = 3.0 * config.base.epochs * count * max(config.base.copies, 1) * config.base.members
    own = config.base.factory or config.base.onnx or config.base.black_box
    if (own and config.base.train in ("auto", "none")) or how_to_train(workspace) == "none":
        base = 0.0
    references = sum(getattr(asked, name) * sizes[name] for name in ("tuning", "calibration", "verification"))
    stored = 3.0 * config.surrogate.stored_epochs * count
    fresh = (3.0 + config.surrogate.samples_per_view) * config.surrogate.epochs * count
    surrogate = {"stored": stored, "fresh": fresh, "unchanged": 0.0}.get(
        config.surrogate.method, stored + fresh
    )
    judged = (asked.selection + sum(asked.certify) + asked.audit) * sizes["test"]
    speed = None if own else _passes_per_second(workspace)
    learned_from = asked.train * count if config.surrogate.method in ("auto", "stored") else 0
    passes = {
        "base": base,
        "targets": float(learned_from + references),
        "surrogate": surrogate,
        "certify and audit": float(judged),
    }
    return tuple(
        Estimate(name, number, None if speed is None else number / speed) for name, number in passes.items()
    )


def _passes_per_second(workspace: Workspace, seconds: float = 0.4) -> float:
    """Forward passes of the base classifier's network a second, as the module that trains."""
    network, shape = _network_alone(workspace), workspace.preprocess.output_shape
    with torch.inference_mode():
        batch = torch.rand(min(max(MEASURED_NUMBERS // math.prod(shape), 1), 64), *shape)
        network(batch)
        start, done = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            network(batch)
            done += len(batch)
    return done / (time.monotonic() - start)


def _network_alone(workspace: Workspace) -> nn.Module:
    """The network with fresh weights and without the statistics of the frames, in eval mode."""
    asked, shape = workspace.config.base, workspace.preprocess.output_shape
    spec = {
        "kind": "resnet",
        "in_channels": shape[0],
        "num_classes": len(workspace.class_names),
        "widths": list(asked.widths),
        "blocks": list(asked.blocks),
        "stem_stride": asked.stem_stride,
        "mean": [0.5] * shape[0],
        "std": [0.25] * shape[0],
    }
    with torch.random.fork_rng(devices=[]):
        return build_network(library_spec(workspace) if asked.network else spec).eval()


def memory_note(workspace: Workspace) -> str:
    """What the preprocessed frames take on disk, and a training step in memory."""
    shape, known, asked = workspace.preprocess.output_shape, workspace.data.catalogue, workspace.config.base
    disk = len(known) * math.prod(shape) * (4 if workspace.preprocess.resizes else 1)
    said = f"{disk / 2**20:,.0f} MiB of preprocessed frames on disk"
    if asked.factory or asked.onnx or asked.black_box:
        return said
    network = _network_alone(workspace)
    weights = sum(weight.numel() for weight in network.parameters())
    step = asked.batch_size * max(asked.copies, 1) * _kept_numbers(network, shape)
    return f"{said}, about {4 * (4 * weights + step) / 2**20 + 400:,.0f} MiB while training"


def _kept_numbers(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Numbers that a training step keeps for each frame: about what every layer gives out."""
    count = 0

    def seen(_module: nn.Module, _given: object, found: object) -> None:
        nonlocal count
        count += found.numel() if isinstance(found, torch.Tensor) else 0

    hooks = [
        part.register_forward_hook(seen)
        for part in network.modules()
        if not any(True for _ in part.children())
    ]
    with torch.inference_mode():
        network(torch.rand(1, *shape))
    for hook in hooks:
        hook.remove()
    return count
