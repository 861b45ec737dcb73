"""The base classifier: trained here under Gaussian noise, or the user's own (module, ONNX file or any callable)."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rrise.calibration.storage.digests import file_digest
from rrise.trainer.base_classifier.checks import BaseCheck, check_base
from rrise.trainer.base_classifier.specs import (
    base_spec,
    load_start,
    saved_folder,
    session_for,
    start_files,
    start_weights,
)
from rrise.trainer.base_classifier.training import DEFAULTS, Choice, train_under_noise
from rrise.trainer.brought.network_checks import check_answers, check_trainable
from rrise.trainer.brought.onnx_files import embedded
from rrise.trainer.classifiers import base_file
from rrise.trainer.classifiers.blackbox import BlackBoxModule, label_function, onnx_spec, open_black_box
from rrise.trainer.data.settings import plain
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning import Session
from rrise.trainer.learning.feed import seeded
from rrise.trainer.networks import (
    build_network,
    differences,
    load_network,
    read_header,
    save_network,
    with_defaults,
)
from rrise.trainer.workspace import Workspace

FILE_FRAMES = 64
"""Noisy frames on which base.onnx is compared with the network."""


@dataclass(frozen=True)
class BaseResult:
    """digest: of the base classifier (base.onnx; base.safetensors where it is no such file).

    noisy_accuracy: of single noisy evaluations on the tuning split, at sigma.

    kept: whether a finished base classifier with the same settings was found and left as it is. attention: what looks
    like a mistake (near chance, one class, permuted classes, random answers). recipe: by which it was trained, empty for
    one that is taken as it is. candidates: all recipes that were tried, judged on the tuning split.
    """

    digest: str
    noisy_accuracy: float
    seconds: float
    kept: bool
    attention: tuple[str, ...] = ()
    recipe: str = ""
    candidates: tuple[Choice, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def train_base(
    workspace: Workspace,
    *,
    again: bool = False,
    allow_code: bool = False,
    device: str = "",
    minutes: float | None = None,
) -> BaseResult:
    """Make base.safetensors: train the configured network under noise of standard deviation sigma, or take the user's own.

    That is a PyTorch network ([base] factory and weights), an ONNX file ([base] onnx) or any callable ([base] black_box).

    A training that was interrupted continues from its checkpoint.

    again: make it anew although there is one. Targets and surrogate of the old one then no longer fit.
    allow_code: let a configured factory execute its code. device: instead of [training] device. minutes: how long this call
    may work.

    Raises Interrupted where `minutes` did not suffice, with everything saved; TrainerError where a base.safetensors or a
    checkpoint of other settings or of another own classifier exists, or weights are not finite.
    """
    start = time.monotonic()
    settings = base_settings(workspace)
    path, asked = workspace.base_path, workspace.config.base
    session = session_for(workspace, device=device, minutes=minutes, again=again)
    kept = path.exists() and not again
    if kept:
        _check_settings(path, settings)
    elif asked.onnx or asked.black_box:
        _take_black_box(workspace, settings, allow_code)
    elif how_to_train(workspace) == "none":
        _take_own(workspace, settings, allow_code)
    else:
        train_under_noise(workspace, session, settings, _weights(workspace), allow_code=allow_code)
    attention = _as_file(workspace, kept, allow_code) if session.first else ()
    session.crew.wait()
    network = workspace.base(allow_code=allow_code)
    found = _judgement(workspace, network.module, session)
    return BaseResult(
        network.digest,
        found.accuracy,
        time.monotonic() - start,
        kept,
        attention + found.attention,
        str(network.metadata.get("recipe", "")),
        tuple(Choice(**item) for item in network.metadata.get("candidates", ())),
    )


def base_settings(workspace: Workspace) -> dict[str, Any]:
    """Everything that decides what the base classifier is."""
    settings = {**workspace.fingerprint(), "settings": plain(asdict(workspace.config.base))}
    if workspace.config.base.recipe != "gaussian":
        # What its recipe is chosen for.
        asked = workspace.config.guarantee
        settings |= plain({"radius": asked.radius, **({"weights": asked.weights} if asked.weights else {})})
    return settings | _own_file(workspace)


def how_to_train(workspace: Workspace) -> str:
    """What [base] train says, or what its "auto" means: "none", "fine-tune" or "scratch"."""
    asked = workspace.config.base
    if asked.train != "auto":
        return asked.train
    if not start_files(workspace):
        return "scratch"
    return "none" if asked.factory else "fine-tune"


def _weights(workspace: Workspace) -> tuple[dict[str, Tensor], str] | None:
    """The weights that fine-tuning starts from, and where they come from."""
    return start_weights(workspace) if how_to_train(workspace) == "fine-tune" else None


def _take_own(workspace: Workspace, settings: dict[str, Any], allow_code: bool) -> None:
    asked = workspace.config.base
    spec = base_spec(workspace)
    network = build_network(spec, allow_code=allow_code).eval()
    load_start(network, *start_weights(workspace), new_head=False)
    name = asked.factory or asked.network
    _check_own(workspace, network, name)
    save_network(workspace.base_path, network, spec, settings)
    workspace.record_cost("base")


def _check_own(workspace: Workspace, network: nn.Module, origin: str) -> None:
    example, classes = workspace.inputs("tuning")[:4], len(workspace.dataset.class_names)
    check_answers(network, example, classes, origin)
    with torch.inference_mode():
        label_function(network, classes, "float32")(example)
    check_trainable(network, example, origin)


def _take_black_box(workspace: Workspace, settings: dict[str, Any], allow_code: bool) -> None:
    asked = workspace.config.base

    def check(network: BlackBoxModule) -> None:
        label_function(network, len(workspace.dataset.class_names), "float32")(workspace.inputs("tuning")[:4])

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
        base_file.forget_base(folder)
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


def _judgement(workspace: Workspace, network: nn.Module, session: Session) -> BaseCheck:
    """What it answers on noisy tuning frames: what smoothing starts from."""
    classes = workspace.dataset.class_names
    answer = label_function(network, len(classes), workspace.config.targets.dtype, session.device)
    sigma = workspace.config.smoothing.sigma
    return check_base(answer, workspace.inputs("tuning"), workspace.labels("tuning"), classes, sigma)


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    for name, got, expected in differences(with_defaults(read_header(path)[1], DEFAULTS), settings):
        raise TrainerError(
            f"{path}: {name}: got {got}, expected {expected} from rrise.toml; restore the settings, or "
            "train a new base classifier with --again (its targets and surrogate must then be made again, too)"
        )


def _own_file(workspace: Workspace) -> dict[str, str]:
    """Digest of the user's own weights or ONNX file: a new one under the old name is not the classifier that was taken."""
    saved = saved_folder(workspace)
    if saved is not None:
        own = workspace.config.base.weights
        also = {"weights_digest": file_digest(workspace.path / own)} if own else {}
        return {"own_classifier_digest": saved.digest, **also}
    name = workspace.config.base.weights or workspace.config.base.onnx
    path = workspace.path / name
    if not name or not path.is_file():
        return {}
    # The weights of an ONNX file may lie in other files: they are part of what was taken.
    digest = (
        file_digest(path) if workspace.config.base.weights else hashlib.sha256(embedded(path)).hexdigest()
    )
    return {"own_classifier_digest": digest}
