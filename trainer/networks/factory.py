"""From a spec to a module: the built-in networks, those of model libraries by name, and the user's own factory."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from rrise.trainer.brought.network_checks import prepare_network
from rrise.trainer.brought.user_code import user_code
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks.copies import WithCopies
from rrise.trainer.networks.difficulty import WithDifficulty
from rrise.trainer.networks.ensemble import Ensemble
from rrise.trainer.networks.pretrained import library_network
from rrise.trainer.networks.resnet import ResNet


def build_network(spec: Mapping[str, Any], *, allow_code: bool = False) -> nn.Module:
    """Build the network that `spec` describes, with fresh weights.

    spec: {"kind": "resnet", ...arguments of ResNet}, {"kind": "factory", "factory": "package.module:function",
        "arguments": {...}}, {"kind": "library", ...arguments of library_network}, {"kind": "ensemble",
        "members": [spec, ...]}, {"kind": "copies", "network": spec, "base": spec, ...further arguments of WithCopies}, or
        {"kind": "difficulty", "network": spec, "num_features": F, "hidden": H}.
    allow_code: a factory is code from outside rrise and runs only when this is true.
    """
    arguments = {key: value for key, value in spec.items() if key != "kind"}
    if spec.get("kind") == "resnet":
        return ResNet(**arguments)
    if spec.get("kind") == "factory":
        return load_factory(spec["factory"], spec.get("arguments", {}), allow_code=allow_code)
    if spec.get("kind") == "library":
        return library_network(**arguments)
    if spec.get("kind") == "ensemble":
        return Ensemble([build_network(member, allow_code=allow_code) for member in spec["members"]])
    if spec.get("kind") == "copies":
        network, base = (
            build_network(arguments.pop(name), allow_code=allow_code) for name in ("network", "base")
        )
        return WithCopies(network, base, **arguments)
    if spec.get("kind") == "difficulty":
        inner = build_network(spec["network"], allow_code=allow_code)
        return WithDifficulty(inner, spec["num_features"], spec["hidden"])
    raise TrainerError(
        f"network kind {spec.get('kind')!r}: expected 'resnet', 'factory', 'library', 'ensemble', 'copies' or "
        "'difficulty'"
    )


def load_factory(
    name: str, arguments: Mapping[str, Any] | None = None, *, allow_code: bool = False
) -> nn.Module:
    """Call the user's "package.module:function", which returns a torch module: [B, C, H, W] in [0, 1] -> logits.

    Importing it executes code, hence the explicit `allow_code`.
    """
    if not allow_code:
        raise TrainerError(
            f"network factory {name!r} executes code from outside rrise; if you trust it, pass --allow-code "
            "(in Python: allow_code=True)"
        )
    module_name, separator, function_name = name.partition(":")
    if not separator or not module_name or not function_name:
        raise TrainerError(f"network factory {name!r}: expected 'package.module:function'")
    with user_code(f"network factory {name!r}: cannot import it (is its folder on PYTHONPATH?)"):
        factory = getattr(importlib.import_module(module_name), function_name)
    with user_code(f"network factory {name!r}: fails when called with {dict(arguments or {})}"):
        network = factory(**(arguments or {}))
    if not isinstance(network, nn.Module):
        raise TrainerError(
            f"network factory {name!r}: returned {type(network).__name__}, expected a torch.nn.Module"
        )
    return prepare_network(network, f"network factory {name!r}")
