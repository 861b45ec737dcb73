"""Networks of model libraries by name: "timm/NAME", "torchvision/NAME", "transformers/TYPE", normalisation inside.

Nothing is ever fetched: the architecture comes from the installed library, weights from a local file.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rrise.calibration.requirements import install
from rrise.trainer.brought.network_checks import prepare_network
from rrise.trainer.brought.user_code import describe_error, user_code
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks.resnet import Standardise
from rrise.trainer.networks.saved_folders import renamed

LIBRARIES = ("timm", "torchvision", "transformers")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEADS = ("head", "classifier", "fc", "heads")
"""Names that libraries give their last layer; where these do not fit the classes, they start anew."""


class Named(nn.Module):
    """A library's network as rrise wants one: float32 [B, C, H, W] in [0, 1] -> logits float32 [B, K].

    Standardisation sits inside, after the noise; an output with `.logits` (transformers) is unpacked.
    """

    def __init__(self, network: nn.Module, mean: list[float], std: list[float], packed: bool) -> None:
        super().__init__()
        self.standardise, self.network = Standardise(mean, std), network
        self.packed = packed  # known beforehand, since tracing could not ask the output

    def forward(self, x: Tensor) -> Tensor:
        found = self.network(self.standardise(x))
        logits: Tensor = found.logits if self.packed else found
        return logits


def library_network(
    name: str,
    num_classes: int,
    in_channels: int,
    arguments: Mapping[str, Any],
    mean: list[float],
    std: list[float],
) -> Named:
    """Build the network called `name`, with fresh weights.

    arguments: further ones of the library's own call, such as {"drop_path_rate": 0.1}; for transformers, of its
        configuration. mean, std: of each channel, in [0, 1] pixel units.

    Raises TrainerError where the library is not installed or does not know the name.
    """
    library, _, model = name.partition("/")
    package = _library(name, library)
    with user_code(f"network {name!r}: cannot be built with {dict(arguments)}"):
        made = _BUILDERS[library](package, model, num_classes, in_channels, dict(arguments))
    return Named(prepare_network(made, f"network {name!r}"), mean, std, packed=library == "transformers")


def normalisation(
    name: str, num_channels: int, arguments: Mapping[str, Any]
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation that the weights of `name` were trained with.

    The library's own configuration, or ImageNet's; the grey average of them for one channel.
    """
    library, _, model = name.partition("/")
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if library == "timm":
        timm = _library(name, library)
        with user_code(f"network {name!r}: unknown to timm"):
            settings = timm.get_pretrained_cfg(model)
        if settings is not None:
            mean, std = tuple(settings.mean), tuple(settings.std)
    return for_channels(mean, num_channels), for_channels(std, num_channels)


def for_channels(values: Sequence[float], num_channels: int) -> list[float]:
    """One value for each channel; the average of them for grey frames."""
    return list(values) if num_channels != 1 else [sum(values) / len(values)]


def fixed_size(name: str, arguments: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the only frames that a network takes, as transformers of images often do; None where any will do."""
    library, _, model = name.partition("/")
    wanted: Any = None
    if library == "timm":
        with user_code(f"network {name!r}: unknown to timm"):
            settings = _library(name, library).get_pretrained_cfg(model)
        if settings is not None and settings.fixed_input_size:
            wanted = arguments.get("img_size", settings.input_size[1:])
    if library == "transformers":
        with user_code(f"network {name!r}: unknown to transformers"):
            wanted = getattr(_configuration(_library(name, library), model, arguments), "image_size", None)
    if wanted is None:
        return None
    height, width = (wanted, wanted) if isinstance(wanted, int) else tuple(wanted)[-2:]
    return int(height), int(width)


def _configuration(transformers: Any, model: str, arguments: Mapping[str, Any]) -> Any:
    """`model` is a model type of the library ("vit", "swin", "convnextv2"); arguments go into its configuration."""
    if "/" in model or "." in model:
        raise TrainerError(
            f"network 'transformers/{model}': no such folder; expected a model type such as vit, or a folder that "
            "save_pretrained wrote (paths start at the workspace)"
        )
    return transformers.AutoConfig.for_model(model, **arguments)


def _library(name: str, library: str) -> Any:
    if library not in LIBRARIES:
        raise TrainerError(f"network {name!r}: expected timm/NAME, torchvision/NAME or transformers/NAME")
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise TrainerError(
            f"network {name!r}: {library} is not installed: {install(library)}, or bring the network "
            "by [base] factory"
        ) from error
    except Exception as error:  # compiled parts of another build raise what they like
        raise TrainerError(
            f"network {name!r}: {library} is installed, but cannot be imported ({describe_error(error)}). Most often torchvision "
            f"was built for another PyTorch than this one ({torch.__version__}): install the one of the same version and of "
            "the same build (CPU or CUDA), or bring the network by [base] factory"
        ) from error


def _timm(timm: Any, model: str, classes: int, channels: int, arguments: dict[str, Any]) -> nn.Module:
    network: nn.Module = timm.create_model(
        model, pretrained=False, num_classes=classes, in_chans=channels, **arguments
    )
    return network


def _torchvision(
    vision: Any, model: str, classes: int, channels: int, arguments: dict[str, Any]
) -> nn.Module:
    if channels != 3:
        raise TrainerError(
            f"network 'torchvision/{model}': got frames with {channels} channel, expected 3; timm takes others"
        )
    network: nn.Module = importlib.import_module("torchvision.models").get_model(
        model, weights=None, num_classes=classes, **arguments
    )
    return network


def _transformers(
    library: Any, model: str, classes: int, channels: int, arguments: dict[str, Any]
) -> nn.Module:
    settings = _configuration(library, model, {**arguments, "num_labels": classes, "num_channels": channels})
    network: nn.Module = library.AutoModelForImageClassification.from_config(settings)
    return network


_BUILDERS = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}


def pretrained_weights(
    network: Named, tensors: Mapping[str, Tensor], origin: str
) -> tuple[dict[str, Tensor], bool]:
    """Weights as a library saved them, under the names that `network` has; and whether its head has to start anew.

    A head of another number of classes (ImageNet's thousand, say), or one that the file does not have, is left as it was
    initialised; nothing else may be.
    """
    own = network.state_dict()
    given = {name.removeprefix("network."): value for name, value in tensors.items()}
    if network.packed:
        given = renamed(network.network, given, origin)
    found = {f"network.{name}": value for name, value in given.items() if not name.startswith("standardise.")}
    fresh = [
        name
        for name, value in own.items()
        if _is_head(name) and (name not in found or found[name].shape != value.shape)
    ]
    if len(fresh) == len([name for name in own if name.startswith("network.")]):
        fresh = []  # nothing fits: the weights of another network, which is to be said
    kept = {name: value for name, value in found.items() if name not in fresh}
    constants = {name: value for name, value in own.items() if name.startswith("standardise.")}
    return {**kept, **{name: own[name] for name in fresh}, **constants}, bool(fresh)


def _is_head(name: str) -> bool:
    return any(word in HEADS for word in name.split("."))
