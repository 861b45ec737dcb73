"""Settings to start from that fit the data and the machine, and what each stage will take with them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from rrise.calibration.console import duration
from rrise.trainer.data.room import DataRoom
from rrise.trainer.data.settings import DataConfig, PreprocessConfig, SplitsConfig
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import build_network
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
    size = () if network else _size(room.geometry.height, room.geometry.width)
    side = min(size or (room.geometry.height, room.geometry.width))
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

    sizes: frames of each split. The seconds are None for networks from elsewhere, which are not loaded for this.
    """
    asked, config = workspace.config.targets, workspace.config
    count = sizes["train"]
    base = 3.0 * config.base.epochs * count * max(config.base.copies, 1) * config.base.members
    own = config.base.factory or config.base.onnx or config.base.black_box
    if own and config.base.train in ("auto", "none"):
        base = 0.0
    references = sum(getattr(asked, name) * sizes[name] for name in ("tuning", "calibration", "verification"))
    stored = 3.0 * config.surrogate.stored_epochs * count
    fresh = (3.0 + config.surrogate.samples_per_view) * config.surrogate.epochs * count
    surrogate = {"stored": stored, "fresh": fresh, "unchanged": 0.0}.get(
        config.surrogate.method, stored + fresh
    )
    judged = (asked.selection + sum(asked.certify) + asked.audit) * sizes["test"]
    speed = None if own or config.base.network else _passes_per_second(workspace)
    passes = {
        "base": base,
        "targets": float(asked.train * count + references),
        "surrogate": surrogate,
        "certify and audit": float(judged),
    }
    return tuple(
        Estimate(name, number, None if speed is None else number / speed) for name, number in passes.items()
    )


def _passes_per_second(workspace: Workspace, seconds: float = 0.4) -> float:
    """Forward passes of the built-in network a second, in batches of 64."""
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
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        network, batch = build_network(spec).eval(), torch.rand(64, *shape)
        network(batch)
        start, done = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            network(batch)
            done += len(batch)
    return done / (time.monotonic() - start)


def memory_note(workspace: Workspace) -> str:
    """What the preprocessed frames take on disk, and a training step in memory."""
    shape, known = workspace.preprocess.output_shape, workspace.data.catalogue
    numbers = math.prod(shape)
    disk = len(known) * numbers * (4 if workspace.preprocess.resizes else 1)
    widest = workspace.config.base.widths[0] * math.prod(shape[1:]) / workspace.config.base.stem_stride**2
    step = workspace.config.base.batch_size * widest * 4 * 2 * (2 + 4 * sum(workspace.config.base.blocks))
    return f"{disk / 2**20:,.0f} MiB of preprocessed frames on disk, about {step / 2**20 + 400:,.0f} MiB while training"
