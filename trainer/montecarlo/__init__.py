"""The Monte Carlo engine: class counts of the base classifier under noise, stored so that no run is lost."""

from rrise.trainer.montecarlo.onnx_classifier import OnnxClassifier
from rrise.trainer.montecarlo.sampler import count_inputs, sample_counts
from rrise.trainer.montecarlo.storage.store import CountStore
from rrise.trainer.montecarlo.verified import verify_proposals

__all__ = [
    "CountStore",
    "OnnxClassifier",
    "count_inputs",
    "sample_counts",
    "verify_proposals",
]
