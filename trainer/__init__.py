"""Trains base classifiers and surrogates, draws their Monte Carlo counts, and calibrates on the server.

Importing this package loads nothing, PyTorch least of all: each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rrise.deprecations import older_names
from rrise.lazy import lazily
from rrise.names import stand_in

if TYPE_CHECKING:
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

_HOMES = {
    "Config": "settings.config",
    "Dataset": "data",
    "Network": "networks",
    "Preprocess": "data.preprocess",
    "Search": "attacks.search",
    "TrainerError": "errors",
    "Workspace": "workspace",
    "attack": "attacks.attack",
    "build_targets": "counts.targets",
    "calibrate_surrogate": "scores.calibrate",
    "certify_test_split": "counts.certify",
    "config_for": "settings.fitting",
    "load_config": "settings.config",
    "load_dataset": "data",
    "load_network": "networks",
    "too_few_frames": "scores.choice",
    "train_base": "base_classifier.stage",
    "train_surrogate": "surrogates.stage",
}

# In full: type checkers read it.
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
    _late, __dir__ = lazily(__name__, _HOMES)
    __getattr__ = older_names(__name__, {"calibrate": "calibrate_surrogate"}, _late)

if __name__ != "rrise.trainer":  # found in a checkout by the folder's own name
    stand_in(__name__)
