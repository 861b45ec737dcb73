"""The verified tier on a device: proposals of the surrogate, confirmed on fresh noise, in full batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rrise.calibration.statistics.proposals import ProposalQueue, Verified
from rrise.calibration.statistics.sequential import SequentialTest
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.classifier import BlackBox, make_labeller

BATCH_SIZE = 256


def verify_proposals(
    classifier: nn.Module | BlackBox,
    x: Tensor,
    label: np.ndarray,
    radius: np.ndarray,
    test: SequentialTest,
    *,
    num_classes: int,
    batch_size: int = BATCH_SIZE,
    max_samples: int = 100_000,
    generator: torch.Generator | None = None,
) -> Verified:
    """Confirm proposed (label, radius) pairs of preprocessed frames.

    Args:
        classifier: the base classifier, a torch module or a callable on numpy arrays.
        x: float32 [n, C, H, W] in [0, 1], on the device where the classifier shall run.
        label: int [n]; radius: [n] >= 0 in [0, 1] pixel units, for instance the surrogate's raw radius minus
            `test.margin` sigma. Chosen without the samples drawn here.
        batch_size: evaluations per forward pass; open frames share it.
        generator: of the noise, on the device of `x`; None = unpredictable.

    **Guarantee**: for each frame, the returned radius exceeds the true radius of the label with probability at most
    test.alpha, over the noise drawn here. Run it once per frame: a second run needs a level of its own.

    Raises:
        TrainerError: the classifier returns NaN, or another shape than [B, num_classes].
    """
    if len(x) != len(label):
        raise TrainerError(
            f"verify: got {len(x)} frames and {len(label)} labels, expected one label per frame"
        )
    if generator is None:
        generator = torch.Generator(x.device)
        generator.seed()
    labeller = make_labeller(classifier, num_classes, "float32", x.device)
    queue = ProposalQueue(test, label, radius, max_samples)
    with torch.inference_mode():
        while not queue.done:
            rows = queue.next_batch(batch_size)
            noisy = x[torch.from_numpy(rows).to(x.device)]
            noisy = noisy + test.sigma * torch.randn(
                noisy.shape, generator=generator, device=x.device, dtype=torch.float32
            )
            labels = labeller(noisy).cpu().numpy()
            if (labels == num_classes).any():
                raise TrainerError(
                    "verify: the base classifier returned NaN; check its weights and its input range"
                )
            queue.record(rows, labels)
    return queue.result()
