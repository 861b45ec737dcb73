"""The base classifier made ready for counting: a torch module or a black box, from noisy inputs to labels."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rrise.trainer.brought.user_code import user_code
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.folding import fold_batch_norm
from rrise.trainer.montecarlo.neighbours import check_alone

log = logging.getLogger(__name__)

#: float32 [B, C, H, W], C-contiguous -> logits [B, K], or labels int [B].
BlackBox = Callable[[np.ndarray], np.ndarray]


class Labeller(Protocol):
    """float32 [B, C, H, W] on a device -> int64 [B] there: the class, or num_classes where a logit is NaN.

    The first call checks the classifier (shape, dependence on the batch) and decides how it runs; after it, calls may
    come from several threads at once where `concurrent` is true.
    """

    concurrent: bool

    def __call__(self, x: Tensor) -> Tensor: ...


def make_labeller(
    classifier: nn.Module | BlackBox | Labeller, num_classes: int, dtype: str, device: torch.device
) -> Labeller:
    """A labeller for any kind of base classifier; one that is a labeller already is returned as it is."""
    if hasattr(classifier, "concurrent"):
        return classifier  # type: ignore[return-value]
    if isinstance(classifier, nn.Module):
        return ModuleLabeller(classifier, num_classes, getattr(torch, dtype), device)
    if dtype != "float32" or device.type != "cpu":
        raise TrainerError(
            f"a black box takes float32 arrays in host memory: got dtype {dtype!r} and device {str(device)!r}; leave "
            "both at their defaults (what the black box does inside is its own affair)"
        )
    return BlackBoxLabeller(classifier, num_classes)


class ModuleLabeller:
    """A copy of a torch module in evaluation mode, batch normalisation folded, channels_last, in `dtype`."""

    concurrent = True

    def __init__(
        self, classifier: nn.Module, num_classes: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        with user_code("the base classifier cannot be copied in evaluation mode"):
            self._original: nn.Module | None = (
                copy.deepcopy(classifier).eval().requires_grad_(False).to(device)
            )
            self.module = fold_batch_norm(copy.deepcopy(self._original))
        self.dtype, self._num_classes = dtype, num_classes
        self.memory_format = torch.channels_last

    def __call__(self, x: Tensor) -> Tensor:
        return labels_from_logits(self.logits(x), self._num_classes)

    def logits(self, x: Tensor) -> Tensor:
        """Logits [B, K] of float32 [B, C, H, W]; the first call checks the network, as a call of the labeller does."""
        with user_code(f"the base classifier fails on float32 {list(x.shape)}"), exact(self.dtype, x.device):
            if self._original is not None:
                self._check_once(x, self._original)
            return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module(x.to(self.dtype).contiguous(memory_format=self.memory_format))
        return logits

    def _check_once(self, x: Tensor, original: nn.Module) -> None:
        """Examine the first batch.

        Shape of the output, memory layout, dependence on the batch, and that folding did not change the function.
        """
        plain = x.contiguous()
        expected = original(plain.clone())
        check_logits(expected, plain, self._num_classes)
        random = check_alone(original, plain, cause=_suspects(original))
        if random:
            log.warning(
                "the base classifier's answers differ between two passes over the same frames (dropout left on?): its "
                "counts are those of a random classifier"
            )
        if not random and not torch.allclose(
            self.module(plain.clone()), expected, rtol=1e-3, atol=1e-3, equal_nan=True
        ):
            log.warning("folding the batch normalisation would change this network; it runs unfolded")
            self.module = original
        self.module.to(self.dtype)
        self._choose_format(self.module, x)
        check_logits(self._logits(x), x, self._num_classes)
        self._original = None

    def _choose_format(self, module: nn.Module, x: Tensor) -> None:
        """channels_last, unless the network (one with `x.view`, say) cannot take it."""
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            self._logits(x)
        except RuntimeError as error:
            if "view size is not compatible" not in str(error):
                raise
            self.memory_format = torch.contiguous_format


def _suspects(module: nn.Module) -> str:
    """What in a network in evaluation mode would mix the frames of a batch; empty where nothing known does."""
    norms = [
        (name, part)
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    for name, part in norms:
        if part.running_mean is None:
            return (
                f"{type(part).__name__} {name!r} has no running statistics and takes those of the batch: train it with "
                "track_running_stats=True."
            )
        if part.training:
            return f"{type(part).__name__} {name!r} stays in training mode after eval(): does train() override it?"
    return ""


class BlackBoxLabeller:
    """Any callable on numpy arrays: an ONNX session (OnnxClassifier), a remote service, another framework."""

    # It may not be safe to call twice at once, and may use all processors itself.
    concurrent = False

    def __init__(self, classifier: BlackBox, num_classes: int) -> None:
        self._classifier, self._num_classes = classifier, num_classes
        self._checked = False

    def __call__(self, x: Tensor) -> Tensor:
        if not self._checked:
            if check_alone(self._answer, x):
                log.warning("the black box answers differently on two passes over the same frames")
            self._checked = True
        output = self._answer(x)
        return labels_from_logits(output, self._num_classes) if output.is_floating_point() else output

    def _answer(self, x: Tensor) -> Tensor:
        """Logits [B, K], or classes int64 [B]."""
        with user_code(f"the base classifier fails on float32 {list(x.shape)}"):
            output = torch.from_numpy(np.asarray(self._classifier(np.ascontiguousarray(x.numpy()))))
        if output.ndim == 1 and not output.is_floating_point() and len(output) == len(x):
            return self._labels(output.to(torch.int64))
        check_logits(output, x, self._num_classes)
        return output if output.is_floating_point() else output.double()

    def _labels(self, labels: Tensor) -> Tensor:
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= self._num_classes:
            raise TrainerError(
                f"the base classifier returned labels from {lowest} to {highest}, expected 0 to "
                f"{self._num_classes - 1}"
            )
        return labels


@contextmanager
def exact(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Inside, float32 on a GPU is float32: by default its convolutions would round their inputs to the 10 bits of TF32."""
    if dtype is not torch.float32 or device.type != "cuda":
        yield
        return
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def labels_from_logits(logits: Tensor, num_classes: int) -> Tensor:
    """argmax int64 [B] of logits [B, K]; K where one of them is NaN, so that it can be counted without a branch."""
    # The maximum of a row with a NaN is NaN: one pass finds both. The number is filled in, not made a tensor in host memory,
    # which a CUDA graph could not copy.
    top = logits.max(dim=1)
    return top.indices.masked_fill(top.values.isnan(), num_classes)


def check_logits(logits: object, x: Tensor, num_classes: int) -> None:
    """Refuse an output that is not [B, num_classes]."""
    got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if got != [len(x), num_classes]:
        raise TrainerError(
            f"the base classifier returned {got} for {len(x)} inputs of shape {list(x.shape[1:])}, expected logits of "
            f"shape {[len(x), num_classes]}: one value for each of the {num_classes} classes"
        )
