"""The former place of `rrise.trainer.data.splits`."""

from rrise.trainer.data.splits import SPLIT_NAMES, Splits, join_groups, make_splits  # noqa: F401
