"""What is settled before calibration: the guarantee that rrise.toml asks for, and what the tuning split chooses."""

from __future__ import annotations

import numpy as np

from rrise.calibration.promise.crossfit import STAIRS
from rrise.calibration.promise.fit import too_few
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.promise.maps import IDENTITY, clopper_pearson_map
from rrise.calibration.promise.plan import Plan, choose_plan, planning_radii
from rrise.calibration.promise.selective import choose_threshold
from rrise.calibration.tables.scores import Scores
from rrise.trainer.data.splits import Splits
from rrise.trainer.networks import Network
from rrise.trainer.scores.surrogate_scores import score_surrogate
from rrise.trainer.settings.config import Config
from rrise.trainer.workspace import Workspace


def guarantee_for(workspace: Workspace, noise: float) -> Guarantee:
    """The guarantee of [guarantee], guarded by [guard] rho where the surrogate takes noise of that deviation."""
    return promised(workspace.config, noise)


def promised(config: Config, noise: float) -> Guarantee:
    """The same, from settings alone."""
    asked = config.guarantee
    guard = Guard(config.guard.rho, noise) if noise else None
    return Guarantee.of(asked.kind, asked.error, asked.confidence, asked.beta, guard)


def tuning_scores(workspace: Workspace, surrogate: Network) -> Scores:
    """Scores of the PyTorch execution on the tuning split."""
    references = workspace.references("tuning")
    return score_surrogate(
        surrogate.module, workspace.preprocess, references, surrogate.digest, surrogate.guard_noise
    )


def settle_plan(workspace: Workspace, tuning: Scores, noise: float) -> Plan:
    """Guarantee, map, difficulty and threshold: as rrise.toml says, and where it says "auto" as the tuning split does.

    No calibration count is looked at.
    """
    return plan_for(workspace.config, tuning, noise, calibration_units(workspace))


def plan_for(config: Config, tuning: Scores, noise: float, units: int) -> Plan:
    """The same, from settings alone. units: independent frames or clips of the calibration split."""
    asked, guarantee, size = config.guarantee, promised(config, noise), units
    objective = asked.objective
    if asked.map in ("auto", "staircase"):
        return choose_plan(
            tuning,
            guarantee,
            radius=objective.radii or None,
            weights=objective.weights,
            num_calibration=size,
            names=STAIRS if asked.map == "staircase" else (),
        )
    if asked.map == "identity":
        curve = IDENTITY
    else:
        samples = config.targets.calibration
        curve = clopper_pearson_map(tuning.sigma, samples, float(guarantee.beta))
    threshold = None
    if guarantee.rules.among_issued:
        threshold = choose_threshold(tuning, guarantee, curve, radius=objective.radius, num_calibration=size)
    scaled = tuning.difficulty is not None and not guarantee.rules.among_issued
    return Plan(guarantee, curve, scaled, threshold, objective, planning_radii(tuning.sigma), ())


def worth(workspace: Workspace, tuning: Scores, noise: float) -> float:
    """What a surrogate is compared by: the best objective of any plan on the tuning split (mean radius by default).

    0 where the calibration split is too small for the level, which a guard with too little noise tightens beyond reach.
    """
    guarantee, units = guarantee_for(workspace, noise), calibration_units(workspace)
    if guarantee.spent(1).rank(units) is None:
        return 0.0
    objective = workspace.config.guarantee.objective
    plan = choose_plan(
        tuning, guarantee, radius=objective.radii or None, weights=objective.weights, num_calibration=units
    )
    return max(candidate.objective for candidate in plan.candidates)


def too_few_frames(workspace: Workspace, foretold: Splits | None = None) -> str:
    """Why no certificate can come of this workspace, said before anything is spent on it; empty where one can.

    foretold: the splits, where they are not drawn yet.
    """
    units = calibration_units(workspace, foretold)
    guarantees = [
        guarantee_for(workspace, noise).spent(1) for noise in workspace.config.guard.noise or (0.0,)
    ]
    if any(guarantee.rank(units) is not None for guarantee in guarantees):
        return ""
    chosen = min(guarantees, key=lambda guarantee: guarantee.frames_needed())
    return (
        f"{too_few(units, chosen)}, so nothing would be certified; raise [guarantee] error, or start a new "
        "workspace with more frames or a larger [splits] calibration"
    )


def calibration_units(workspace: Workspace, foretold: Splits | None = None) -> int:
    """Independent units of the calibration split: its clips."""
    splits = workspace.splits if foretold is None else foretold
    return len(np.unique(splits.clips[splits.calibration]))
