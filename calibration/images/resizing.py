"""The one triangle filter: what resizing does to pixels, in the trainer, in the graph and on the robot."""

from __future__ import annotations

import numpy as np


def triangle_filter(source: int, target: int) -> np.ndarray:
    """Weights float64 [target, source] of an antialiased linear resize of `source` to `target` pixels.

    Output pixel i is the normalised triangle-filter average around (i + 1/2) source / target; when shrinking, the
    triangle is as wide as two output pixels. Rows sum to one.
    """
    scale = source / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(source)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.maximum(1.0 - distance, 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
