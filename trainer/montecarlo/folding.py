"""Batch normalisation folded into the convolution before it: the same function with fewer passes over memory."""

from __future__ import annotations

import logging

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

log = logging.getLogger(__name__)


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Fold every BatchNorm2d that follows a Conv2d into it (in place); an untraceable network is returned as it is.

    Logits agree with those of `module` up to float rounding.
    """
    try:
        graph = fx.symbolic_trace(module)
    except Exception as error:  # noqa: BLE001 - tracing runs the user's forward on symbols: it may raise anything
        log.info("batch normalisation is not folded: %s", error)
        return module
    parts = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        convolution = _convolution_before(graph, parts, node)
        if convolution is not None:
            _replace(graph, node, fuse_conv_bn_eval(convolution, parts[node.target]))
    graph.recompile()
    return graph


def _convolution_before(
    graph: fx.GraphModule, parts: dict[str, nn.Module], node: fx.Node
) -> nn.Conv2d | None:
    """The convolution whose output goes to the batch normalisation `node`, and nowhere else."""
    norm = parts[str(node.target)] if node.op == "call_module" else None
    if not isinstance(norm, nn.BatchNorm2d) or norm.training or norm.running_mean is None:
        return None  # no such node, or one that takes the statistics of the batch
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
        return None
    convolution = parts[str(source.target)]
    shared = (
        sum(other.op == "call_module" and other.target == source.target for other in graph.graph.nodes) > 1
    )
    return convolution if isinstance(convolution, nn.Conv2d) and not shared else None


def _replace(graph: fx.GraphModule, node: fx.Node, folded: nn.Module) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    owner, _, name = str(source.target).rpartition(".")
    setattr(graph.get_submodule(owner), name, folded)
    node.replace_all_uses_with(source)
    graph.graph.erase_node(node)
