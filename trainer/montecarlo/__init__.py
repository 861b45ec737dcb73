"""The Monte Carlo engine: class counts of the base classifier under noise, stored so that no run is ever lost."""

from trainer.montecarlo.sampler import sample_counts
from trainer.montecarlo.store import CountStore

__all__ = ["CountStore", "sample_counts"]
