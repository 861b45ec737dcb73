"""The former place of `rrise.trainer.data.preprocess`."""

from rrise.trainer.data.preprocess import CHANNELS, STEPS, Preprocess, resize_matrix  # noqa: F401
