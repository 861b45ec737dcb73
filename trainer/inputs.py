"""The former place of `rrise.trainer.data.inputs`."""

from rrise.trainer.data.inputs import Inputs  # noqa: F401
