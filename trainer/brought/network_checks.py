"""What a user's own network and weights may get wrong, handled or refused with the cause before anything is paid for."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from rrise.trainer.brought.user_code import user_code
from rrise.trainer.errors import TrainerError

WRAPPERS = ("_orig_mod", "module")
"""Attributes by which `torch.compile`, DataParallel and their like hold the network that they wrap."""
SHOWN = 3
"""Names in a message."""


def prepare_network(network: nn.Module, origin: str) -> nn.Module:
    """The network inside a compiled or parallel one, on the CPU, with floating-point weights in float32.

    Half and double precision become float32, in which noise is added and base.onnx is written.
    """
    with user_code(f"{origin}: cannot be brought to float32 on the CPU"):
        while type(network).__name__ in ("OptimizedModule", "DataParallel", "DistributedDataParallel"):
            network = next(part for name, part in network.named_children() if name in WRAPPERS)
        return network.cpu().float()


def fitted(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """`tensors` under the names that `module` has: without the prefixes of wrappers, tied weights completed.

    Raises:
        TrainerError: names or shapes do not fit (each kind with examples), tied weights that differ, or NaN.
    """
    own = module.state_dict()
    found = _tied(module, own, _without_prefixes(tensors, own), origin)
    lacking, unknown = (
        [name for name in own if name not in found],
        [name for name in found if name not in own],
    )
    shapes = [
        f"{name} {list(found[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in found and found[name].shape != own[name].shape
    ]
    parts = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"
        for names, what in (
            (lacking, "missing"),
            (unknown, "unknown to the network"),
            (shapes, "of another shape"),
        )
        if names
    ]
    if parts:
        raise TrainerError(
            f"{origin}: the weights do not fit the network ({'; '.join(parts)}); got {len(tensors)} weights, expected the "
            f"{len(own)} of this network: save its own state_dict(), or give the network that they belong to"
        )
    return found


def _without_prefixes(tensors: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """The tensors without what compiling, parallel or averaging wrappers put before or into their names."""
    wanted, found = set(own), dict(tensors)
    if wanted & set(found):
        # Names of both kinds would leave open which of them is meant; compiled inner parts are unmistakable.
        stripped = {_without_orig_mod(name): value for name, value in found.items()}
        return stripped if len(stripped) == len(found) and set(stripped) == wanted else found
    if "n_averaged" in found and "n_averaged" not in wanted:  # of torch.optim.swa_utils.AveragedModel
        del found["n_averaged"]
    found = {_without_orig_mod(name): value for name, value in found.items()}
    while found and not wanted & set(found):
        first = {name.split(".", 1)[0] for name in found}
        if len(first) != 1 or not all("." in name for name in found):
            return dict(tensors)
        found = {name.split(".", 1)[1]: value for name, value in found.items()}
    return found if found else dict(tensors)


def _without_orig_mod(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _tied(
    module: nn.Module, own: Mapping[str, Tensor], tensors: dict[str, Tensor], origin: str
) -> dict[str, Tensor]:
    """Complete names whose tensor the module shares with a name that is there; refuse where both are and differ."""
    groups: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, value in own.items():
        if value.numel():
            groups.setdefault((value.data_ptr(), tuple(value.shape)), []).append(name)
    result = dict(tensors)
    for names in groups.values():
        there = [name for name in names if name in tensors]
        for name in there[1:]:
            if tensors[name].shape != tensors[there[0]].shape or not torch.equal(
                tensors[name], tensors[there[0]]
            ):
                raise TrainerError(
                    f"{origin}: {there[0]} and {name} are one weight in the network, but differ in the file; give the "
                    "network without the tie, or the weights that were saved from it"
                )
        if there:
            result |= {name: tensors[there[0]] for name in names if name not in tensors}
    return result


def check_finite(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse NaN anywhere and infinity in whatever is learned; constant buffers such as masks may hold infinities."""
    learned = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        statistics = name.endswith(("running_mean", "running_var"))
        wrong = ~torch.isfinite(tensor) if name in learned or statistics else torch.isnan(tensor)
        if bool(wrong.any()):
            raise TrainerError(
                f"{origin}: weight {name!r} holds {int(wrong.sum())} NaN or infinite values of {math.prod(tensor.shape)}; "
                "train again with a lower learning rate, or restore a sound checkpoint"
            )


def check_answers(module: nn.Module, example: Tensor, num_classes: int, origin: str) -> None:
    """Run `module` on `example`; refuse what it raises, a shape other than [B, num_classes], and NaN or infinity."""
    shape = list(example.shape[1:])
    with (
        torch.inference_mode(),
        user_code(f"{origin}: fails on a batch of float32 {shape}, which is what the preprocessing delivers"),
    ):
        logits = module(example.clone())
    expected = [len(example), num_classes]
    if not isinstance(logits, Tensor) or list(logits.shape) != expected:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise TrainerError(
            f"{origin}: returned {got}, expected logits of shape {expected} for {num_classes} classes"
        )
    if not bool(torch.isfinite(logits).all()):
        raise TrainerError(
            f"{origin}: returned NaN or infinite logits; check its weights and its input range [0, 1]"
        )


def check_trainable(module: nn.Module, example: Tensor, origin: str) -> None:
    """One training step's passes on a copy: the surrogate starts at these weights, and should fail here if it fails."""
    with (
        torch.random.fork_rng(devices=[]),
        user_code(f"{origin}: cannot be trained further, as the surrogate will be"),
    ):
        trial = copy.deepcopy(module).train().requires_grad_(True)
        trial(example.clone()).float().square().mean().backward()
        moved = [parameter.grad is not None for parameter in trial.parameters()]
    if moved and not any(moved):
        raise TrainerError(
            f"{origin}: no weight receives a gradient (is forward() under no_grad?), so no surrogate can start from it; "
            "give it as [base] onnx or black_box instead, whose surrogate is a network of its own"
        )
