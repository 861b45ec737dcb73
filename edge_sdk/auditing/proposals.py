"""The verified tier on a robot: confirms a proposed (label, radius) on fresh noise with the base classifier.

numpy only; the base classifier is any callable, such as an ONNX session:

    session = onnxruntime.InferenceSession("base.onnx")
    classify = lambda x: session.run(None, {"x": x})[0]
    verified = confirm_proposals(classify, x, certificate.label, certificate.radius, SequentialTest(0.25, 0.001))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Optional

import numpy as np

from rrise.calibration.statistics.proposals import ProposalQueue, Verified
from rrise.calibration.statistics.sequential import SequentialTest
from rrise.deprecations import older_names
from rrise.edge_sdk.confirming.classifier import labels_from_output
from rrise.edge_sdk.errors import EdgeError


def confirm_proposals(
    classify: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    label: np.ndarray,
    radius: np.ndarray,
    test: SequentialTest,
    *,
    batch_size: int = 64,
    max_samples: int = 100_000,
    generator: Optional[np.random.Generator] = None,
) -> Verified:
    """Confirm proposals for preprocessed frames.

    Args:
        classify: float32 [batch_size, C, H, W] -> logits [batch_size, K] or labels int [batch_size]; always called
            with full batches, so a graph with a fixed batch size will do.
        x: float32 [n, C, H, W] in [0, 1], after preprocessing (noise is added here, in float32).
        label: int [n]; radius: [n] >= 0, [0, 1] pixel units. Chosen without the samples drawn here.
        max_samples: evaluations per frame, the time limit of the camera loop; then the frame gets the largest step of
            its proposal that is confirmed, or 0.
        generator: of the noise; None = seeded by the operating system. Noise that a sender of frames can predict
            voids the guarantee.

    **Guarantee**: for each frame, the returned radius exceeds the true radius of the label with probability at most
    test.alpha, over the noise drawn here; no exchangeability is needed. Run it once per frame.

    Raises:
        EdgeError: the classifier returns NaN, or neither logits nor labels.
    """
    frames = np.asarray(x, dtype=np.float32)
    if len(frames) != len(label):
        raise EdgeError(
            f"verify: got {len(frames)} frames and {len(label)} labels, expected one label per frame"
        )
    noise = generator if generator is not None else np.random.default_rng()
    queue = ProposalQueue(test, label, radius, max_samples)
    batch = np.zeros((batch_size, *frames.shape[1:]), dtype=np.float32)
    while not queue.done:
        rows = queue.next_batch(batch_size)
        noise.standard_normal(out=batch, dtype=np.float32)
        batch *= np.float32(test.sigma)
        batch[: len(rows)] += frames[rows]
        queue.record(rows, labels_from_output(classify(batch), batch_size)[: len(rows)])
    return queue.result()


if not TYPE_CHECKING:
    __getattr__ = older_names(__name__, {"verify_proposals": "confirm_proposals"})
