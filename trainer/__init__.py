"""Trains base classifiers and surrogates, draws their Monte Carlo counts, and calibrates on the server."""

from trainer.attack import attack
from trainer.base import train_base
from trainer.calibrate import calibrate
from trainer.certify import certify_test_split
from trainer.choice import too_few_frames
from trainer.config import Config, config_for, load_config
from trainer.data import Dataset, load_dataset
from trainer.errors import TrainerError
from trainer.networks import Network, load_network
from trainer.preprocess import Preprocess
from trainer.search import Search
from trainer.surrogate import train_surrogate
from trainer.targets import build_targets
from trainer.workspace import Workspace

__all__ = [
    "Config",
    "Dataset",
    "Network",
    "Preprocess",
    "Search",
    "TrainerError",
    "Workspace",
    "attack",
    "build_targets",
    "calibrate",
    "certify_test_split",
    "config_for",
    "load_config",
    "load_dataset",
    "load_network",
    "too_few_frames",
    "train_base",
    "train_surrogate",
]
