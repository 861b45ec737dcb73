"""The trainer's one exception class."""

from rrise.calibration.errors import RriseError


class TrainerError(RriseError):
    """Something the trainer was given does not fit; the message says got, expected and how to mend it."""
