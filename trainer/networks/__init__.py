"""Networks: built in, from model libraries by name, or the user's own; and their safetensors files."""

from rrise.trainer.networks.copies import WithCopies, fixed_noise
from rrise.trainer.networks.difficulty import DIFFICULTY_FLOOR, WithDifficulty
from rrise.trainer.networks.ensemble import Ensemble
from rrise.trainer.networks.factory import build_network, load_factory
from rrise.trainer.networks.files import (
    METADATA_KEY,
    Network,
    differences,
    load_network,
    load_weights,
    read_header,
    read_safetensors,
    save_network,
    with_defaults,
)
from rrise.trainer.networks.resnet import Block, ResNet, Standardise

__all__ = [
    "DIFFICULTY_FLOOR",
    "METADATA_KEY",
    "Block",
    "Ensemble",
    "Network",
    "ResNet",
    "Standardise",
    "WithCopies",
    "WithDifficulty",
    "build_network",
    "differences",
    "fixed_noise",
    "load_factory",
    "load_network",
    "load_weights",
    "read_header",
    "read_safetensors",
    "save_network",
    "with_defaults",
]
