"""Networks as safetensors files: weights, the spec that builds them, and what they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rrise.calibration.storage.digests import file_digest
from rrise.calibration.storage.files import atomic_file, parse_json
from rrise.calibration.storage.formats import check_format
from rrise.trainer.brought.network_checks import check_finite, fitted
from rrise.trainer.brought.user_code import user_code
from rrise.trainer.classifiers.blackbox import KINDS, open_black_box
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks.factory import build_network

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
"""Suffixes of files that torch.save wrote."""
METADATA_KEY = "rrise"
FORMATS = ("rrise-network/1", "rrise-network/2")
"""The first was not named."""


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


def differences(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Each entry of `wanted` that a network file does not have: its name, what the file has, what is wanted.

    Of two tables only the keys whose values differ, for a message that a person can read.
    """
    for name, expected in wanted.items():
        if metadata.get(name) != expected:
            yield (name, *_differing(metadata.get(name), expected))


def with_defaults(found: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says, whose version may be older than some of the `defaults`: those it had; of tables, key by key."""
    tables = {
        name: {**default, **found[name]}
        for name, default in defaults.items()
        if isinstance(default, Mapping) and isinstance(found.get(name), Mapping)
    }
    return {**defaults, **found, **tables}


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
    content = {
        "format": FORMATS[-1],
        "spec": spec,
        "metadata": metadata,
        "weights": _weights_digest(tensors),
    }
    header = {METADATA_KEY: json.dumps(content, sort_keys=True)}
    with atomic_file(path) as file:
        file.write(save(tensors, header))
    return file_digest(path)


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Spec and metadata of a file that `save_network` wrote, without its weights.

    Raises TrainerError where another program wrote it.
    """
    return _content(path, read_safetensors(path, weights=False)[1])


def _content(path: Path, header: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    if METADATA_KEY not in header:
        raise TrainerError(
            f"{path}: a safetensors file, but not written by rrise-train (no {METADATA_KEY!r} metadata)"
        )
    content = _parsed(path, header)
    again = "run the stage that writes it with --again"
    check_format(str(path), content.get("format", FORMATS[0]), FORMATS, again, TrainerError)
    if not isinstance(content.get("spec"), dict) or not isinstance(content.get("metadata"), dict):
        raise TrainerError(f"{path}: its header has no spec or no metadata; restore it, or {again}")
    return content["spec"], content["metadata"]


def _parsed(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    try:
        content = parse_json(header[METADATA_KEY], finite=False)
    except ValueError as error:
        raise TrainerError(f"{path}: its header is no JSON ({error}); restore it, or train again") from error
    if not isinstance(content, dict):
        raise TrainerError(f"{path}: its header is {type(content).__name__}, expected a table; restore it")
    return content


def _check_weights(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Safetensors has no checksum: a flipped bit of a weight is another network, under a digest of its own."""
    written = _parsed(path, header).get("weights")  # None in files of before it was kept
    if written is not None and written != _weights_digest(tensors):
        raise TrainerError(
            f"{path}: its weights were changed after they were written; restore the file or train again"
        )


def _weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """One digest of names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def load_network(path: Path, *, allow_code: bool = False) -> Network:
    """Read a network that `save_network` wrote, in eval mode."""
    tensors, header = read_safetensors(path)
    spec, metadata = _content(path, header)
    _check_weights(path, tensors, header)
    if spec["kind"] in KINDS:
        module: nn.Module = open_black_box(spec, path.parent, allow_code=allow_code)
    else:
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn and thrown away
            module = build_network(spec, allow_code=allow_code)
        load_weights(module, tensors, str(path))
    return Network(module.eval(), spec, metadata, file_digest(path))


WRITTEN_BY = {"base.safetensors": "base", "surrogate.safetensors": "surrogate"}
"""The stage that writes each network of a workspace."""


def read_safetensors(path: Path, *, weights: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; the metadata alone without `weights`."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys()) if weights else []
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except FileNotFoundError as error:
        stage = WRITTEN_BY.get(path.name)
        advice = f"run `rrise-train {stage} {path.parent}` first" if stage else "expected a safetensors file"
        raise TrainerError(f"{path}: no such file; {advice}") from error
    except (SafetensorError, OSError) as error:
        raise TrainerError(f"{path}: not a readable safetensors file ({error}){_conversion(path)}") from error


def _conversion(path: Path) -> str:
    """How a pickle of PyTorch becomes safetensors; rrise unpickles nothing, since a pickle runs what its maker wrote."""
    if path.suffix not in PICKLES:
        return ""
    target = path.with_suffix(".safetensors").name
    return (
        '; convert it once, where you trust it: python -c "import torch, safetensors.torch as s; w = torch.load('
        f"'{path.name}', map_location='cpu', weights_only=True); w = w.get('state_dict', w); "
        f"s.save_file({{k: v.clone().contiguous() for k, v in w.items()}}, '{target}')\""
    )


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load `tensors` into `module`; names (but for wrappers' prefixes), shapes and finiteness must fit."""
    named = fitted(module, tensors, origin)
    check_finite(module, named, origin)
    with user_code(f"{origin}: the weights do not fit the network"):
        module.load_state_dict(named)
