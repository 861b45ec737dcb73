"""Classifiers of transformers: a folder that `save_pretrained` wrote, and weights under the names of other versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rrise.calibration.storage.digests import combined_digest, file_digest
from rrise.trainer.brought.user_code import user_code
from rrise.trainer.errors import TrainerError

if TYPE_CHECKING:
    from types import ModuleType

CONFIGURATION, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PREFIX = "transformers/"

LEFT_OUT = (
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "model_type",
    "num_channels",
    "num_labels",
    "problem_type",
    "torch_dtype",
    "transformers_version",
)
"""Entries of a configuration that say nothing of the architecture, or that the frames decide."""


@dataclass(frozen=True)
class SavedFolder:
    """name: the architecture, "transformers/TYPE"; arguments: of its configuration.

    mean, std: of each channel in [0, 1] pixel units, as the folder's image processor says. files: those that decide what the
    classifier is.
    """

    name: str
    arguments: dict[str, Any]
    mean: list[float]
    std: list[float]
    files: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """One digest of configuration, processor and weights."""
        return combined_digest(file_digest(path) for path in self.files)

    @property
    def weights(self) -> tuple[Path, ...]:
        """The safetensors files among them."""
        return tuple(path for path in self.files if path.suffix == ".safetensors")


def folder_of(network: str, root: Path) -> Path | None:
    """The folder that "transformers/FOLDER" names, a path from `root`; None where it names a model type."""
    path = root / network.removeprefix(PREFIX)
    return path if network.startswith(PREFIX) and path.is_dir() else None


def read_folder(folder: Path) -> SavedFolder:
    """Look at a folder that `save_pretrained` wrote, without its weights.

    Raises TrainerError where configuration, image processor or safetensors weights are missing, or where the model needs code
    of its own or colours that differ from RGB in [0, 1].
    """
    configuration = dict(_json(folder / CONFIGURATION, "model.save_pretrained"))
    if "auto_map" in configuration or "model_type" not in configuration:
        raise TrainerError(
            f"{folder / CONFIGURATION}: not a model type of transformers itself (code of its own is never run); bring it by "
            "[base] factory and weights"
        )
    mean, std = _normalisation(folder / PROCESSOR)
    arguments = {key: value for key, value in configuration.items() if key not in LEFT_OUT}
    files = (folder / CONFIGURATION, folder / PROCESSOR, *_weights(folder))
    return SavedFolder(PREFIX + configuration["model_type"], arguments, mean, std, files)


def _normalisation(path: Path) -> tuple[list[float], list[float]]:
    """Without the processor's file one would have to guess, and the network would see other colours without a word."""
    found = _json(path, "AutoImageProcessor.from_pretrained(...).save_pretrained")
    scale = found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else None
    if (
        scale is None
        or abs(scale * 255 - 1) > 1e-6
        or found.get("rescale_offset")
        or found.get("do_flip_channel_order")
    ):
        raise TrainerError(
            f"{path}: got rescale_factor {scale}, rescale_offset {found.get('rescale_offset', False)}, do_flip_channel_order "
            f"{found.get('do_flip_channel_order', False)}; expected RGB in [0, 1] and then mean and standard deviation; bring "
            "this network by [base] factory, with its own scaling inside"
        )
    if not found.get("do_normalize", "image_mean" in found):
        return [0.0] * 3, [1.0] * 3
    if not found.get("image_mean") or not found.get("image_std"):
        raise TrainerError(f"{path}: got no image_mean and image_std, expected a number for each channel")
    return list(found["image_mean"]), list(found["image_std"])


def _weights(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        names = sorted(set(_json(folder / INDEX, "model.save_pretrained").get("weight_map", {}).values()))
        if all(Path(name).name == name for name in names):
            return [folder / INDEX, *(folder / name for name in names)]
    raise TrainerError(
        f"{folder}: got no {WEIGHTS}, expected what model.save_pretrained(FOLDER) writes (pickles such as "
        "pytorch_model.bin are never opened: save it again with safe_serialization=True)"
    )


def _json(path: Path, writer: str) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainerError(f"{path}: {error}; expected what {writer}(FOLDER) writes") from error
    if not isinstance(value, dict):
        raise TrainerError(f"{path}: got {type(value).__name__}, expected a JSON object")
    return value


def renamed(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Weights as some version of transformers saved them, under the names that `network` of this version has.

    Files keep the names of the version that first wrote a model type; the library's own loader knows how to read them. Returns
    what it found in the file; a last layer of another shape, and what is missing, is left out.
    """
    own = network.state_dict()
    if set(tensors) <= set(own):
        return dict(tensors)
    import transformers

    with (
        _silent(transformers),
        torch.random.fork_rng(devices=[]),
        user_code(f"{origin}: transformers cannot load these weights"),
    ):
        loaded, seen = type(network).from_pretrained(  # type: ignore[attr-defined]
            None,
            config=network.config,
            state_dict=dict(tensors),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if seen["unexpected_keys"] or seen["error_msgs"]:
        return dict(tensors)  # whoever checks them against the network names what does not fit
    absent = {*seen["missing_keys"], *(item[0] for item in seen["mismatched_keys"])}
    return {name: value for name, value in loaded.float().state_dict().items() if name not in absent}


@contextmanager
def _silent(library: ModuleType) -> Iterator[None]:
    """Without the library's progress bar and its table of what is missing: rrise says what is wrong itself."""
    log = library.logging
    before, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bar:
            log.enable_progress_bar()
