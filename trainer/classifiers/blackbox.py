"""Base classifiers that are no PyTorch module: an ONNX file, or any Python callable on arrays."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rrise.calibration.storage.files import atomic_file
from rrise.trainer.brought.onnx_files import embedded
from rrise.trainer.brought.user_code import user_code
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.classifier import BlackBox, make_labeller
from rrise.trainer.montecarlo.onnx_classifier import OnnxClassifier

ONNX_NAME = "base.onnx"
KINDS = ("onnx", "black-box")


class BlackBoxModule(nn.Module):
    """Wraps a black box as a module without weights. It has no gradient, and only its labels are ever used."""

    def __init__(self, function: BlackBox) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self.function(np.ascontiguousarray(x.numpy()))))


def onnx_spec(
    source: Path, folder: Path, check: Callable[[BlackBoxModule], object] = lambda module: None
) -> dict[str, Any]:
    """Copy an ONNX file into a workspace, weights of other files put inside, and describe it.

    check: is called with it before anything is written. Raises TrainerError where ONNX Runtime cannot load it, weights are
    missing, or `check` does.
    """
    if not source.is_file():
        raise TrainerError(f"[base] onnx: {source}: no such file")
    data = embedded(source)
    check(BlackBoxModule(OnnxClassifier(data, origin=str(source))))
    with atomic_file(folder / ONNX_NAME) as file:
        file.write(data)
    return {"kind": "onnx", "file": ONNX_NAME, "sha256": hashlib.sha256(data).hexdigest()}


def open_black_box(spec: Mapping[str, Any], folder: Path, *, allow_code: bool) -> BlackBoxModule:
    """The black box that `spec` describes.

    spec: {"kind": "onnx", "file": name in `folder`, "sha256": digest}, or {"kind": "black-box", "function":
        "package.module:function", "version": text}.
    allow_code: a Python callable is code from outside rrise and runs only when this is true.
    """
    if spec["kind"] == "onnx":
        path = folder / spec["file"]
        # Read once: what was checked is what runs, whatever happens to the file.
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != spec["sha256"]:
            raise TrainerError(
                f"{path}: missing or changed since the base classifier was taken (expected SHA-256 {spec['sha256']}); "
                "restore it, or take the new one with `rrise-train base --again`"
            )
        return BlackBoxModule(OnnxClassifier(data, origin=str(path)))
    return BlackBoxModule(_import_function(spec["function"], allow_code))


def _import_function(name: str, allow_code: bool) -> BlackBox:
    if not allow_code:
        raise TrainerError(
            f"black box {name!r} executes code from outside rrise; if you trust it, pass --allow-code "
            "(in Python: allow_code=True)"
        )
    module_name, _, function_name = name.partition(":")
    with user_code(f"black box {name!r}: cannot import it; expected 'package.module:function' on PYTHONPATH"):
        function: Callable[[np.ndarray], np.ndarray] = getattr(
            importlib.import_module(module_name), function_name
        )
    if not callable(function):
        raise TrainerError(
            f"black box {name!r}: got {type(function).__name__}, expected a callable on arrays"
        )
    return function


def classifier_of(module: nn.Module) -> nn.Module | BlackBox:
    """What the Monte Carlo engine samples: the black box inside, or the module itself."""
    return module.function if isinstance(module, BlackBoxModule) else module


def label_function(
    module: nn.Module, num_classes: int, dtype: str, device: torch.device | None = None
) -> Callable[[Tensor], Tensor]:
    """A function from inputs float32 [B, C, H, W] to classes int64 [B], as fast as the Monte Carlo engine's.

    device: where the inputs are, and the network runs; a black box takes them from there to host memory.

    Raises TrainerError (when called) where an output is NaN, or is no class.
    """
    classifier = classifier_of(module)
    host = torch.device("cpu")
    where = (device or host) if isinstance(classifier, nn.Module) else host
    labeller = make_labeller(classifier, num_classes, dtype, where)

    def labels(x: Tensor) -> Tensor:
        found = labeller(x.to(where)).to(x.device)
        if bool((found == num_classes).any()):
            raise TrainerError(
                "the base classifier returned NaN; check its weights and its input range [0, 1] plus noise"
            )
        return found

    return labels
