"""What every engine shares: a labeller with its own checks of a first batch, the forms of the classifier, and its refusals."""

from __future__ import annotations

import importlib
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rrise.trainer.brought.onnx_files import refuse_references
from rrise.trainer.brought.user_code import describe_error, user_code
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.classifier import check_logits, labels_from_logits
from rrise.trainer.montecarlo.neighbours import check_alone


@dataclass(frozen=True)
class ClassifierForms:
    """The base classifier in the forms that there are. onnx: bytes of base.onnx; module: the network, in evaluation mode."""

    onnx: bytes | None = None
    module: nn.Module | None = None


class EngineLabeller:
    """A labeller (see `classifier.Labeller`) of one engine. Subclasses give `_run`.

    engine: name, version, precision and device type, as a store's identity names them. concurrent: whether calls may come
    from several threads, each of which is then to be one processor's. capturable: whether a CUDA graph can hold a call.
    """

    concurrent = True
    capturable = True

    def __init__(self, name: str, version: str, num_classes: int, dtype: str, device: torch.device) -> None:
        self.name, self.dtype, self.device, self.num_classes = name, dtype, device, num_classes
        self.engine = f"{name} {version} {dtype} {device_name(device)}"
        self._checked, self._lock = False, threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        if not self._checked:
            with self._lock:
                if not self._checked:
                    check_logits(self.logits(x), x, self.num_classes)
                    check_alone(self.logits, x, coarse=self.dtype != "float32")
                    self._checked = True
        return labels_from_logits(self.logits(x), self.num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Logits [B, K] of float32 [B, C, H, W] on the engine's device. Raises: TrainerError, or memory runs out."""
        with user_code(
            f"engine {self.engine!r} fails on float32 {list(x.shape)}",
            "; does the base classifier take what the preprocessing delivers?",
        ):
            return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def device_name(device: torch.device) -> str:
    """Type of a device: "cpu x86_64", or "cuda" and the name of the GPU."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {platform.machine()}"


def in_batches(run: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """`run` on batches of exactly `rows`, the last one filled up with zeros that are cut off again."""
    parts = []
    for part in x.split(rows):
        short = rows - len(part)
        full = torch.cat([part, torch.zeros(short, *part.shape[1:], device=part.device)]) if short else part
        parts.append(run(full)[: len(part)])
    return torch.cat(parts)


def whole_file(source: ClassifierForms, name: str) -> bytes:
    """The bytes of base.onnx for the engine `name`, which needs no other file. Raises: TrainerError: there is none."""
    if source.onnx is None:
        raise TrainerError(
            f"engine {name!r}: runs base.onnx, which this base classifier has not; make it with `rrise-train base --again`, "
            "or take the engine torch"
        )
    return refuse_references(source.onnx, "base.onnx")


def expect_float32(labeller: EngineLabeller) -> None:
    """Raises: TrainerError: another precision is asked of an engine that runs the file as it is."""
    if labeller.dtype != "float32":
        raise TrainerError(
            f"engine {labeller.name!r}: runs base.onnx in float32, got dtype {labeller.dtype!r}; take torch or openvino, "
            "or set [targets] dtype"
        )


def imported(name: str) -> Any:
    """The module of a runtime. Raises: TrainerError: it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrainerError(f"engine {name!r}: cannot be imported ({error})") from error


def loaded(load: Callable[[], Any]) -> Any:
    """What `load` makes of base.onnx. Raises: TrainerError: it cannot be loaded."""
    try:
        return load()
    except TrainerError:
        raise
    except Exception as error:  # runtimes raise classes of their own
        raise TrainerError(f"base.onnx: cannot be loaded ({describe_error(error)})") from error
