"""Learning: the one training loop that base classifiers and surrogates share, its schedules, recipes, losses and views."""

from rrise.trainer.learning.clock import Clock, Interrupted
from rrise.trainer.learning.engine import Trained, train_network
from rrise.trainer.learning.schedule import Schedule
from rrise.trainer.learning.session import Session, open_training_session

__all__ = ["Clock", "Interrupted", "Schedule", "Session", "Trained", "train_network", "open_training_session"]
