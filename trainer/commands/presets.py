"""Settings to start from that fit the data at hand, and what each stage will take with them on this machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rrise.calibration.console import duration
from rrise.trainer.base_classifier.checks import DRAWS
from rrise.trainer.base_classifier.specs import library_spec
from rrise.trainer.base_classifier.stage import how_to_train
from rrise.trainer.base_classifier.training import copies_of_view, judging_passes, recipes
from rrise.trainer.classifiers.base_file import NotWritten, exported
from rrise.trainer.counts.forecast import MEASURED_FRAMES, counting_rate
from rrise.trainer.data.room import DataRoom
from rrise.trainer.data.settings import DataConfig, PreprocessConfig
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.counter import usual_batch
from rrise.trainer.montecarlo.engine_choice import choose_engine
from rrise.trainer.montecarlo.engine_labeller import ClassifierForms
from rrise.trainer.networks import build_network
from rrise.trainer.networks.pretrained import fixed_size
from rrise.trainer.networks.saved_folders import folder_of, read_folder
from rrise.trainer.settings.config import Config
from rrise.trainer.settings.fitting import check_preset, names_factory, settings_for
from rrise.trainer.streams import REFERENCE_SPLITS
from rrise.trainer.workspace import Workspace

LIBRARY_SIDE = 224
"""Pixels of the longer side that networks of model libraries are mostly made for."""

REFINED = 0.2
"""Share of the frames that [targets] refine is foretold to draw more of; it depends on the network and the radii."""

TRIAL_BATCHES, LONGEST_TRIAL = 40, 5.0
"""Batches that are run to choose among the engines, about; and the seconds that `init` may take for it."""

MEASURED_NUMBERS = 1 << 20
"""Numbers in a batch with which speed is measured."""
LEAST_ROUNDS, CLOCK_STEP = 3, 1e-5
"""Batches that are measured at least, and seconds below which a clock of processor time says nothing."""


def fitting_config(
    workspace: Path,
    data: DataConfig,
    *,
    sigma: float = 0.25,
    network: str = "",
    weights: str = "",
    preset: str = "standard",
) -> Config:
    """Settings for these data, of which only headers are read.

    workspace: the folder, from which relative paths in `data` start. network, weights, preset: see `settings_for`.
    """
    check_preset(preset)
    room = DataRoom(workspace, data, PreprocessConfig(), grid=False)
    source = room.source
    if source is None:  # WORKSPACE has a catalogue from before, which stands in for images that are gone
        named = data.held_out if data.held_out and Path(data.source).exists() else data.source
        raise TrainerError(
            f"data source {named!r}: no such file or folder; settings are made from the images themselves, expected them there"
        )
    held_out = None if source.held_out is None else int(source.held_out.sum())
    height, width = room.geometry.height, room.geometry.width
    return settings_for(
        data,
        len(source),
        (height, width),
        seen=_library_size(network, workspace, height, width) if network else None,
        held_out=held_out,
        sigma=sigma,
        network=network,
        weights=weights,
        preset=preset,
    )


def _library_size(network: str, workspace: Path, height: int, width: int) -> tuple[int, ...]:
    """What a network from elsewhere sees: the size that it demands, else frames of up to 224 pixels."""
    if not names_factory(network):
        folder = folder_of(network, workspace)
        saved = None if folder is None else read_folder(folder)
        name, arguments = (network, {}) if saved is None else (saved.name, saved.arguments)
        wanted = fixed_size(name, arguments)
        if wanted is not None:
            return () if wanted == (height, width) else wanted
    factor = LIBRARY_SIDE / max(height, width)
    return () if factor >= 1 else (round(height * factor), round(width * factor))


@dataclass(frozen=True)
class Estimate:
    """One stage: base forward passes that it costs (a training step is three), and seconds on this machine.

    A pass of a base classifier with three members is one of each of them.
    """

    stage: str
    passes: float
    seconds: float | None

    def row(self) -> tuple[str, str]:
        """Its line in a summary."""
        about = "" if self.seconds is None else f"about {duration(self.seconds)}, "
        number = f"{self.passes / 1e6:,.1f} million" if self.passes >= 1e6 else f"{self.passes:,.0f}"
        return self.stage, f"{about}{number} base passes"


def estimates(workspace: Workspace, sizes: dict[str, int], network: nn.Module | None) -> tuple[Estimate, ...]:
    """What the stages will take, from a quick measurement of the network on this machine's processor.

    Training is foretold by the module, Monte Carlo by the engine that will count. sizes: frames of each split. network: as
    `untrained_network` makes it; without one the seconds are None.
    """
    speed: float | None = None
    counted: float | None = None
    if network is not None:
        speed = _passes_per_second(workspace, network)
        counted = _evaluations_per_second(workspace, network, speed)
    rates = {"base": speed, "targets": counted, "surrogate": speed, "certify and audit": counted}
    members = workspace.config.base.members
    return tuple(
        Estimate(name, number / members, number / rate if (rate := rates[name]) else None)
        for name, number in _network_passes(workspace, sizes).items()
    )


def _evaluations_per_second(workspace: Workspace, network: nn.Module, speed: float) -> float:
    """Evaluations that Monte Carlo will count a second, by the engine that [targets] engine names or would choose.

    speed: passes a second of the module. It is also the answer, which is then too low rather than too high, where trying the
    engines on the network would take longer than LONGEST_TRIAL, or where none can be opened.
    """
    shape, asked = workspace.preprocess.output_shape, workspace.config.targets
    rows = usual_batch(math.prod(shape))
    if TRIAL_BATCHES * rows / speed > LONGEST_TRIAL:
        return speed
    device, classes = torch.device("cpu"), len(workspace.class_names)
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(rows, *shape, generator=generator)
    noisy = frames + workspace.config.smoothing.sigma * torch.randn(frames.shape, generator=generator)
    written = exported(network, noisy)
    forms = ClassifierForms(None if isinstance(written, NotWritten) else written[0], network)
    try:
        chosen = choose_engine(
            forms, noisy, num_classes=classes, dtype=asked.dtype, device=device, wanted=asked.engine
        )
    except TrainerError:
        return speed  # the stage will say what is wrong, with the weights that it then has
    return counting_rate(
        chosen.labeller,
        frames[:MEASURED_FRAMES],
        sigma=workspace.config.smoothing.sigma,
        num_classes=classes,
        dtype=asked.dtype,
        device=device,
        alone=True,
    )


def _network_passes(workspace: Workspace, sizes: dict[str, int]) -> dict[str, float]:
    """Forward passes of one network for each stage: one of a base classifier with several members counts as so many."""
    config, asked, taught = workspace.config, workspace.config.targets, workspace.config.surrogate
    count, members = sizes["train"], config.base.members
    references = sum(
        (getattr(asked, name) + REFINED * max(asked.refine - getattr(asked, name), 0)) * sizes[name]
        for name in REFERENCE_SPLITS
    )
    learned_from = asked.train * count if taught.method in ("auto", "stored") else 0
    stored = 3.0 * taught.stored_epochs * count
    fresh = (3.0 + members * taught.samples_per_view / taught.members) * taught.epochs * count
    surrogate = {"stored": stored, "fresh": fresh, "unchanged": 0.0}.get(taught.method, stored + fresh)
    return {
        "base": _base_passes(workspace, sizes),
        "targets": members * float(learned_from + references),
        "surrogate": surrogate * taught.members * max(len(config.guard.noise), 1),
        "certify and audit": members
        * float((asked.selection + sum(asked.certify) + asked.audit) * sizes["test"]),
    }


def _base_passes(workspace: Workspace, sizes: dict[str, int]) -> float:
    asked = workspace.config.base
    # Whatever the base classifier is, it is judged on noisy tuning frames; at 224 pixels that takes minutes.
    passes = (DRAWS + 1.0) * sizes["tuning"]
    own = asked.factory or asked.onnx or asked.black_box
    if not (own and asked.train in ("auto", "none")) and how_to_train(workspace) != "none":
        tried = recipes(workspace)
        copies = sum(copies_of_view(workspace, recipe) for recipe in tried)
        passes += 3.0 * asked.epochs * sizes["train"] * copies
        passes += judging_passes(workspace, sizes["tuning"]) if len(tried) > 1 else 0
    return passes * asked.members


def _passes_per_second(workspace: Workspace, network: nn.Module, seconds: float = 0.4) -> float:
    """Forward passes of the base classifier's network a second, as the module that trains, in the fastest batch.

    Other work on the machine only makes batches slower, and may be gone in the hours that are foretold. Where it never pauses
    for as long as a batch takes, processor time leaves it out (several threads spend more of that than elapses).
    """
    shape = workspace.preprocess.output_shape
    with torch.inference_mode():
        batch = torch.rand(min(max(MEASURED_NUMBERS // math.prod(shape), 1), 64), *shape)
        network(batch)
        begin, fastest, rounds = time.monotonic(), math.inf, 0
        while rounds < LEAST_ROUNDS or time.monotonic() - begin < seconds:
            start, worked = time.monotonic(), time.process_time()
            network(batch)
            took, spent = time.monotonic() - start, time.process_time() - worked
            fastest, rounds = min(fastest, took, max(spent, CLOCK_STEP)), rounds + 1
    return len(batch) / fastest


def untrained_network(workspace: Workspace) -> nn.Module | None:
    """The network with fresh weights and without the statistics of the frames, in eval mode; it may be large, so build it once.

    None for code from elsewhere, which is not run before the user says so.
    """
    asked, shape = workspace.config.base, workspace.preprocess.output_shape
    if asked.factory or asked.onnx or asked.black_box:
        return None
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


def memory_note(workspace: Workspace, network: nn.Module | None) -> str:
    """What the preprocessed frames take on disk, and a training step of `untrained_network` in memory."""
    shape, known, asked = workspace.preprocess.output_shape, workspace.data.catalogue, workspace.config.base
    disk = len(known) * math.prod(shape) * (4 if workspace.preprocess.resizes else 1)
    said = f"{disk / 2**20:,.0f} MiB of preprocessed frames on disk"
    if network is None:
        return said
    weights = sum(weight.numel() for weight in network.parameters())
    copies = max(copies_of_view(workspace, recipe) for recipe in recipes(workspace))
    step = asked.batch_size * copies * _kept_numbers(network, shape)
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
