"""What an export needs of a workspace, read and checked once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Dict, FrozenSet, Optional, Tuple

import numpy as np

from calibration.guarantee import Guarantee
from calibration.maps import RadiusMap
from calibration.probit import probit_from_logits
from calibration.references import References
from export.gate import Reference
from export.policy import NO_POLICY, Policy
from export.precision import PREPROCESS_LAYER

if TYPE_CHECKING:
    import torch

    from trainer.preprocess import Preprocess

REFERENCE_BATCH = 64


@dataclass(frozen=True)
class Source:
    """A trained workspace, as export sees it.

    Attributes:
        module: preprocessing and surrogate in one: uint8 [B, H, W, C] -> logits float32 [B, K].
        map: chosen without the calibration counts.
        tuning, calibration, verification: reference packs.
        training_digests: of every frame that the surrogate, the map or a quantiser may have seen.
        attempt: which use of the calibration split this is.
        policy: what a release must reach.
    """

    path: Path
    module: "torch.nn.Module"
    preprocess: "Preprocess"
    sigma: float
    class_names: Tuple[str, ...]
    map: RadiusMap
    guarantee: Guarantee
    tuning: References
    calibration: References
    verification: References
    training_digests: FrozenSet[bytes]
    split_digests: Dict[str, str]
    base_digest: str
    surrogate_digest: str
    frame_rate: float
    attempt: int = 1
    policy: Policy = NO_POLICY


def load_source(path: Path, *, allow_code: bool = False) -> Source:
    """Read a workspace.

    Raises:
        TrainerError, CalibrationError: a part is missing, damaged, or was made from other parts.
    """
    import torch

    from trainer.calibrate import configured_guarantee, configured_map, log_attempt
    from trainer.workspace import Workspace

    workspace = Workspace.open(path)
    base, surrogate = workspace.base(allow_code=allow_code), workspace.surrogate(allow_code=allow_code)
    splits = workspace.splits
    seen = [splits.digests[splits.indices(name)] for name in ("train", "tuning")]
    guarantee, radius_map = configured_guarantee(workspace), configured_map(workspace)
    packs = {split: workspace.references(split) for split in ("tuning", "calibration", "verification")}
    return Source(
        path=workspace.path,
        module=torch.nn.Sequential(
            OrderedDict([(PREPROCESS_LAYER, workspace.preprocess), ("network", surrogate.module)])
        ).eval(),
        preprocess=workspace.preprocess,
        sigma=workspace.config.smoothing.sigma,
        class_names=tuple(workspace.dataset.class_names),
        map=radius_map,
        guarantee=guarantee,
        training_digests=frozenset(np.concatenate(seen).tolist()),
        split_digests={
            name: splits.digest(name) for name in ("train", "tuning", "calibration", "verification", "test")
        },
        base_digest=base.digest,
        surrogate_digest=surrogate.digest,
        frame_rate=workspace.config.guarantee.frame_rate,
        policy=Policy(**vars(workspace.config.acceptance)),
        attempt=log_attempt(workspace, surrogate, guarantee, radius_map),
        **packs,
    )


def torch_reference(module: "torch.nn.Module") -> Reference:
    """The PyTorch surrogate as the gate asks it: frames uint8 [n, H, W, C] -> label, probit, difficulty or None."""

    def answer(frames: np.ndarray) -> Tuple[np.ndarray, np.ndarray, Optional[np.ndarray]]:
        import torch

        with torch.inference_mode():
            parts = [
                module(torch.from_numpy(frames[start : start + REFERENCE_BATCH])).numpy()
                for start in range(0, len(frames), REFERENCE_BATCH)
            ]
        prediction = probit_from_logits(np.concatenate(parts))
        return prediction.label, prediction.probit, None

    return answer
