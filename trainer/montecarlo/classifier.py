"""The base classifier made ready for counting: evaluation mode, batch normalisation folded, layout and precision."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from trainer.errors import TrainerError

log = logging.getLogger(__name__)

Logits = Callable[[Tensor], Tensor]


class Prepared:
    """A callable float32 [B, C, H, W] (channels_last) -> logits [B, K], checked once on its first batch."""

    def __init__(
        self, classifier: nn.Module, num_classes: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        module = copy.deepcopy(classifier).eval().requires_grad_(False).to(device)
        self._original = module
        self._module: nn.Module = fold_batch_norm(module).to(dtype)
        self._dtype, self._num_classes = dtype, num_classes
        self._format = torch.channels_last
        self._checked = False

    def __call__(self, x: Tensor) -> Tensor:
        if not self._checked:
            self._check(x)
        return self._run(self._module, x)

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        logits: Tensor = module(x.to(self._dtype).contiguous(memory_format=self._format))
        return logits

    def _check(self, x: Tensor) -> None:
        self._choose_format(x)
        logits = self._run(self._module, x)
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if got != [len(x), self._num_classes]:
            raise TrainerError(
                f"the base classifier returned {got} for {len(x)} inputs of shape {list(x.shape[1:])}, expected logits "
                f"of shape {[len(x), self._num_classes]}: one value for each of the {self._num_classes} classes"
            )
        if self._dtype == torch.float32 and not torch.allclose(
            logits, self._original(x), rtol=1e-3, atol=1e-3
        ):
            log.warning("folding the batch normalisation changes this network; it runs unfolded")
            self._module = self._original
        self._original = self._module
        self._checked = True

    def _choose_format(self, x: Tensor) -> None:
        """channels_last, unless the network (one with `x.view`, say) cannot take it."""
        try:
            self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._run(self._module, x)
        except RuntimeError as error:
            if "view size is not compatible" not in str(error):
                raise
            self._format = torch.contiguous_format


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Fold every BatchNorm2d that follows a Conv2d into it; a network that cannot be traced is returned as it is."""
    try:
        graph = fx.symbolic_trace(module)
    except Exception as error:  # tracing runs the user's forward on symbols: anything may be raised
        log.info("batch normalisation is not folded: %s", error)
        return module
    parts = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or not isinstance(parts[node.target], nn.BatchNorm2d):
            continue
        source = node.args[0]
        convolution = parts.get(source.target) if source.op == "call_module" else None
        if (
            not isinstance(convolution, nn.Conv2d)
            or len(source.users) > 1
            or _calls(graph, source.target) > 1
        ):
            continue
        folded = fuse_conv_bn_eval(convolution, parts[node.target])
        owner, _, name = str(source.target).rpartition(".")
        setattr(graph.get_submodule(owner), name, folded)
        parts[str(source.target)] = folded
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _calls(graph: fx.GraphModule, target: object) -> int:
    return sum(node.op == "call_module" and node.target == target for node in graph.graph.nodes)
