"""The Monte Carlo engine: class counts of the base classifier under noise, stored so that no run is lost."""

from trainer.montecarlo.adaptive import sample_in_stages, staged_radius
from trainer.montecarlo.onnx_classifier import OnnxClassifier
from trainer.montecarlo.sampler import sample_counts
from trainer.montecarlo.store import CountStore
from trainer.montecarlo.verified import verify_proposals

__all__ = [
    "CountStore",
    "OnnxClassifier",
    "sample_counts",
    "sample_in_stages",
    "staged_radius",
    "verify_proposals",
]
