"""The former place of `rrise.trainer.data.augment`."""

from rrise.trainer.data.augment import augment  # noqa: F401
