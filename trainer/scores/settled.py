"""The plan that `calibrate` settled, for everybody after it: read where it still belongs, else chosen anew and said."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.plan import Plan
from rrise.calibration.storage.digests import json_digest
from rrise.calibration.storage.files import read_json, write_json
from rrise.calibration.tables.scores import Scores
from rrise.trainer.networks import Network
from rrise.trainer.scores.choice import calibration_units, guarantee_for, settle_plan, tuning_scores
from rrise.trainer.scores.surrogate_scores import pytorch_execution
from rrise.trainer.workspace import Workspace

MADE_FROM = "made_from"


@dataclass(frozen=True)
class Settled:
    """A plan, and why it is not the one that `calibrate` wrote; empty where it is."""

    plan: Plan
    note: str = ""


def plan_path(workspace: Workspace, network: Network) -> Path:
    """Where the plan of a surrogate lies, beside the scores that it was chosen on."""
    name = pytorch_execution(network.digest, network.guard_noise).name
    return workspace.scores_path(name, "calibration").with_name("plan.json")


def save_plan(workspace: Workspace, network: Network, plan: Plan, tuning: Scores) -> None:
    """Write a plan with the digest of itself, of the scores it was chosen on, and of what was asked."""
    made_from = _made_from(workspace, network, plan, tuning)
    write_json(plan_path(workspace, network), {**plan.to_json(), MADE_FROM: made_from})


def settled_plan(workspace: Workspace, network: Network) -> Settled:
    """The plan for every execution of this surrogate.

    The one that `calibrate` wrote is taken where it belongs to the surrogate, its tuning scores, the counts and the
    settings as they are now; nothing is scored or fitted again then. Else it is chosen anew on the tuning split.
    No calibration count is looked at, and whichever plan it is, it is logged as an attempt before it is used.
    """
    try:
        return Settled(_stored(workspace, network))
    except (CalibrationError, OSError) as error:
        chosen = settle_plan(workspace, tuning_scores(workspace, network), network.guard_noise)
        return Settled(
            chosen, f"the plan was chosen anew on the tuning split: {error}; `rrise-train calibrate` keeps it"
        )


def _stored(workspace: Workspace, network: Network) -> Plan:
    path = plan_path(workspace, network)
    if not path.exists():
        raise CalibrationError(f"{path} is not there")
    plan, tuning = Plan.load(path), Scores.load(path.with_name("tuning.npz"))
    pack = workspace.references("tuning")
    if (
        tuning.execution.artefact != network.digest
        or tuning.base_digest != pack.base_digest
        or not np.array_equal(tuning.digest, pack.digest)
        or not np.array_equal(tuning.counts, pack.counts)
    ):
        raise CalibrationError(
            f"{path.with_name('tuning.npz')} is not of this surrogate and these references"
        )
    if read_json(path, "plan").get(MADE_FROM) != _made_from(workspace, network, plan, tuning):
        raise CalibrationError(f"{path} is not what these scores and settings gave")
    return plan


def _made_from(workspace: Workspace, network: Network, plan: Plan, tuning: Scores) -> str:
    asked = workspace.config.guarantee
    return json_digest(
        {
            "plan": plan.to_json(),
            "tuning": tuning.content_digest,
            "guarantee": guarantee_for(workspace, network.guard_noise).to_json(),
            "map": asked.map,
            "objective": asked.objective.to_json(),
            "units": calibration_units(workspace),
            "samples": asdict(workspace.config.targets)["calibration"],
        }
    )
