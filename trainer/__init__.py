"""Trains base classifiers and surrogates, draws their Monte Carlo counts, and calibrates on the server."""

from typing import TYPE_CHECKING

from rrise.deprecations import older_names
from rrise.names import stand_in
from rrise.trainer.attacks.attack import attack
from rrise.trainer.attacks.search import Search
from rrise.trainer.base_classifier.stage import train_base
from rrise.trainer.counts.certify import certify_test_split
from rrise.trainer.counts.targets import build_targets
from rrise.trainer.data import Dataset, load_dataset
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import Network, load_network
from rrise.trainer.scores.calibrate import calibrate_surrogate
from rrise.trainer.scores.choice import too_few_frames
from rrise.trainer.settings.config import Config, load_config
from rrise.trainer.settings.fitting import config_for
from rrise.trainer.surrogates.stage import train_surrogate
from rrise.trainer.workspace import Workspace

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
    "calibrate_surrogate",
    "certify_test_split",
    "config_for",
    "load_config",
    "load_dataset",
    "load_network",
    "too_few_frames",
    "train_base",
    "train_surrogate",
]

if not TYPE_CHECKING:
    __getattr__ = older_names(__name__, {"calibrate": "calibrate_surrogate"})

if __name__ != "rrise.trainer":  # found in a checkout by the folder's own name
    stand_in(__name__)
