"""What an export needs of a workspace, read and checked once."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Dict, FrozenSet, Optional, Tuple

import numpy as np

from rrise.calibration.promise.fit import calibrate
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.maps import RadiusMap
from rrise.calibration.promise.record import Calibration
from rrise.calibration.statistics.probit import probit_from_logits
from rrise.calibration.storage.digests import json_digest
from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores
from rrise.edge_sdk.formats.bundled_base import BundledBase
from rrise.edge_sdk.formats.noise import ReplayNoise
from rrise.export.base import bundled_base
from rrise.export.errors import ExportError
from rrise.export.gating.compare import TOLERANCES, Tolerance
from rrise.export.gating.gate import Reference
from rrise.export.gating.policy import NO_POLICY, Policy
from rrise.export.lowering.precision import PREPROCESS_LAYER

if TYPE_CHECKING:
    import torch

    from rrise.trainer.data.preprocess import Preprocess

REFERENCE_BATCH = 64
SPLITS = ("train", "tuning", "calibration", "verification", "test")


@dataclass(frozen=True)
class ExportSource:
    """A trained workspace, as export sees it.

    Attributes:
        module: preprocessing and surrogate in one: uint8 [B, H, W, C] -> logits float32 [B, K], or logits and difficulty.
        outputs: names of what it returns.
        map, guarantee, difficulty, threshold, offsets: what `calibrate` is called with, chosen without the calibration counts.
        tuning, calibration, verification: reference packs.
        training_digests: of every frame that the surrogate, the map or a quantiser may have seen.
        attempt: which use of the calibration split this is.
        policy: what a release must reach.
        plan_note: why the plan is not the one that `rrise-train calibrate` wrote; empty where it is.
        base_model: bytes of base.onnx, where the bundle is to carry it; base: what the manifest then says of it.
        copies: noisy copies of the frame that the module asks the base classifier about, 0 without.
        foreign_code: whether the network is a factory of the user's, whose code no digest of ours covers.

    In the guarded tier (`guarantee.guard`) the module takes frames and noise.
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
    outputs: Tuple[str, ...] = ("logits",)
    difficulty: bool = False
    threshold: Optional[float] = None
    offsets: Tuple[float, ...] = ()
    attempt: int = 1
    policy: Policy = NO_POLICY
    foreign_code: bool = False
    plan_note: str = ""
    base_model: Optional[bytes] = None
    base: Optional[BundledBase] = None
    copies: int = 0

    def calibrate(self, scores: Scores) -> Calibration:
        """The record of an artefact with these scores of the calibration split, as this workspace asks for it."""
        return calibrate(
            scores,
            self.guarantee,
            self.map,
            training_digests=self.training_digests,
            attempt=self.attempt,
            difficulty=self.difficulty,
            threshold=self.threshold,
            offsets=self.offsets,
        )

    @property
    def replay(self) -> Optional[ReplayNoise]:
        """The draw of noise that each recorded frame gets in the guarded tier; None for a plain pass.

        One draw per frame, independent of the Monte Carlo, and the same whenever this surrogate is exported: another
        draw would be another look at the calibration frames.
        """
        if self.guarantee.guard is None:
            return None
        seed = json_digest({"surrogate": self.surrogate_digest, "splits": self.split_digests})
        return ReplayNoise(self.guarantee.guard.noise, seed, self.preprocess.output_shape)


def load_source(path: Path, *, allow_code: bool = False, with_base: bool = False) -> ExportSource:
    """Read a workspace.

    Args:
        with_base: whether the bundle is to carry base.onnx.

    Raises:
        ExportError: the base classifier is to travel and is no ONNX file, or does not fit.
        TrainerError, CalibrationError: a part is missing, damaged, or was made from other parts.
    """
    from rrise.trainer.networks.copies import copies_in
    from rrise.trainer.scores.calibrate import log_attempt, seen_digests
    from rrise.trainer.scores.settled import settled_plan
    from rrise.trainer.workspace import Workspace

    workspace = Workspace.open(path)
    base, surrogate = workspace.base(allow_code=allow_code), workspace.surrogate(allow_code=allow_code)
    settled = settled_plan(workspace, surrogate)
    plan = settled.plan
    guard = plan.guarantee.guard
    if (0.0 if guard is None else guard.noise) != surrogate.guard_noise:
        raise ExportError(
            f"{path}: the surrogate takes noise of standard deviation {surrogate.guard_noise:g}, the guarantee says {guard}; "
            "train the surrogate again with `rrise-train surrogate`"
        )
    base_model, described = bundled_base(workspace, base.digest) if with_base else (None, None)
    packs = {split: workspace.references(split) for split in ("tuning", "calibration", "verification")}
    return ExportSource(
        path=workspace.path,
        module=joined(workspace.preprocess, surrogate.module, guarded=guard is not None),
        outputs=("logits", "difficulty") if surrogate.has_difficulty else ("logits",),
        preprocess=workspace.preprocess,
        sigma=workspace.config.smoothing.sigma,
        class_names=tuple(workspace.dataset.class_names),
        map=plan.map,
        guarantee=plan.guarantee,
        difficulty=plan.difficulty,
        threshold=plan.threshold,
        offsets=plan.offsets,
        plan_note=settled.note,
        training_digests=frozenset(seen_digests(workspace)),
        split_digests={name: workspace.splits.digest(name) for name in SPLITS},
        base_digest=base.digest,
        surrogate_digest=surrogate.digest,
        frame_rate=workspace.config.guarantee.frame_rate,
        foreign_code="factory" in json.dumps(surrogate.spec),
        policy=Policy(**vars(workspace.config.acceptance)),
        attempt=log_attempt(workspace, surrogate, plan),
        base_model=base_model,
        base=described,
        copies=copies_in(surrogate.spec),
        **packs,
    )


def joined(preprocess: "Preprocess", network: "torch.nn.Module", *, guarded: bool) -> "torch.nn.Module":
    """Preprocessing and network as the one module that is lowered.

    Raises:
        ExportError: guarded, and resized pixels are not on the grid of the noise, so that sums would be rounded.
    """
    import torch

    if not guarded:
        return torch.nn.Sequential(OrderedDict([(PREPROCESS_LAYER, preprocess), ("network", network)])).eval()
    from rrise.export.lowering.guarded import GuardedSurrogate

    if preprocess.size != preprocess.crop[2:] and not preprocess.grid:
        raise ExportError(
            "guarded tier: got a resize whose pixels are not rounded to the grid of the noise, expected Preprocess(grid=True); "
            "set [guard] noise in rrise.toml and train again"
        )
    return GuardedSurrogate(preprocess, network).eval()


def torch_reference(module: "torch.nn.Module", noise: Optional[ReplayNoise] = None) -> Reference:
    """The PyTorch surrogate as the gate asks it: frames uint8 [n, H, W, C] -> label, probit, difficulty or None.

    noise: guarded tier: of these frames.
    """

    def answer(frames: np.ndarray) -> Tuple[np.ndarray, np.ndarray, Optional[np.ndarray]]:
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(frames), REFERENCE_BATCH):
                outputs = module(*_inputs(frames[start : start + REFERENCE_BATCH], noise))
                heads = outputs if isinstance(outputs, tuple) else (outputs,)
                parts.append([head.numpy() for head in heads])
        logits, *rest = (np.concatenate(columns) for columns in zip(*parts))
        prediction = probit_from_logits(logits)
        return prediction.label, prediction.probit, rest[0] if rest else None

    return answer


def _inputs(frames: np.ndarray, noise: Optional[ReplayNoise]) -> "Tuple[torch.Tensor, ...]":
    import torch

    frame = torch.from_numpy(frames)
    return (frame,) if noise is None else (frame, torch.from_numpy(noise.of(frames)))


ROUNDING_FACTOR = 16.0
LEAST_TOLERANCE = 5e-6


def float32_tolerance(
    module: "torch.nn.Module", frames: np.ndarray, noise: Optional[ReplayNoise] = None
) -> Tolerance:
    """How far a float32 graph may be from PyTorch, from how far PyTorch's own float32 is from its float64.

    The same rounding in another order of summation is a few times that; a weight that is off by 1 % is usually a
    hundred times that. Never wider than the default tolerance, which is also taken where the network cannot compute in
    float64.
    """
    default = TOLERANCES["fp32"]
    try:
        double = _in_float64(module, frames, noise)
    except (RuntimeError, TypeError, AttributeError):  # a user's network may insist on float32
        return default
    single = torch_reference(module, noise)(frames)[1].astype(np.float64)
    rounding = float(np.max(np.abs(double - single)))
    limit = ROUNDING_FACTOR * rounding
    if not np.isfinite(limit):
        return default
    return replace(
        default,
        probit=min(max(limit, LEAST_TOLERANCE), default.probit),
        # The map between probit and radius may be steeper than one.
        radius_increase=min(max(2 * limit, LEAST_TOLERANCE), default.radius_increase),
    )


def _in_float64(module: "torch.nn.Module", frames: np.ndarray, noise: Optional[ReplayNoise]) -> np.ndarray:
    """Probits of the surrogate in float64, behind the float32 preprocessing that defines its input."""
    import copy

    import torch

    preprocess, network = (
        module.get_submodule(PREPROCESS_LAYER),
        copy.deepcopy(module.get_submodule("network")).double(),
    )
    parts = []
    with torch.inference_mode():
        for start in range(0, len(frames), REFERENCE_BATCH):
            inputs = _inputs(frames[start : start + REFERENCE_BATCH], noise)
            outputs = network(preprocess(*inputs).double())
            parts.append((outputs[0] if isinstance(outputs, tuple) else outputs).numpy())
    return probit_from_logits(np.concatenate(parts)).probit.astype(np.float64)
