"""An attack on issued certificates: moves frames within an L2 budget until the radius issued exceeds the true one.

The plain tier promises nothing against it (a frame that an attacker has moved is not exchangeable with calibration
frames); the guarded tier does. Fresh Monte Carlo of the base classifier at the moved frame is the judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rrise.calibration.console import Progress
from rrise.calibration.promise.guarded import GRID, PIXEL_SCALE, NoiseSource
from rrise.calibration.promise.record import Calibration
from rrise.calibration.statistics.bounds import clopper_pearson_lower, clopper_pearson_upper
from rrise.calibration.storage.digests import frame_digests
from rrise.calibration.storage.files import write_json
from rrise.calibration.tables.evaluation import AuditVerdict, audit, issued_share
from rrise.calibration.tables.scores import Scores
from rrise.trainer.attacks.search import Search, search
from rrise.trainer.counts.counting import counting_device, counting_for
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import count_inputs
from rrise.trainer.networks import Network
from rrise.trainer.scores.calibrate import record_path
from rrise.trainer.scores.surrogate_scores import SPLIT_SEEDS, Predicted, predict_inputs, pytorch_execution
from rrise.trainer.workspace import Workspace

INTERVAL = 0.05
"""Two-sided level of the Clopper-Pearson interval of the rate."""


@dataclass(frozen=True)
class FalseCertificateRate:
    """False certificates among `frames` frames: the verdict, the share wrong, and its 95 % Clopper-Pearson interval."""

    verdict: AuditVerdict
    share: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        return {**vars(self.verdict), "share": self.share, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class AttackResult:
    """False-certificate rate without and with the attack.

    rho: L2 budget of the attack, [0, 1] pixel units. promised: error level that the record promises under this
    attack, or None where it promises nothing (plain tier, or a budget above the guard's).
    moved: mean L2 distance by which frames were moved.
    radii: 0, half of sigma and sigma. issued, issued_attacked: share of frames with a certificate of at least each. Few false
    certificates are no merit where hardly any is issued.
    """

    rho: float
    clean: FalseCertificateRate
    attacked: FalseCertificateRate
    promised: float | None
    moved: float
    radii: tuple[float, ...] = ()
    issued: tuple[float, ...] = ()
    issued_attacked: tuple[float, ...] = ()

    @property
    def broken(self) -> bool:
        """Whether the measured rate contradicts the promise beyond its interval."""
        return self.promised is not None and self.attacked.low > self.promised

    def to_json(self) -> dict[str, Any]:
        return {
            "rho": self.rho,
            "clean": self.clean.to_json(),
            "attacked": self.attacked.to_json(),
            "promised": self.promised,
            "moved": self.moved,
            "radii": list(self.radii),
            "issued": list(self.issued),
            "issued_attacked": list(self.issued_attacked),
        }


def attack(
    workspace: Workspace,
    settings: Search,
    *,
    num_samples: int = 10000,
    device: str = "",
    allow_code: bool = False,
) -> AttackResult:
    """Attack the PyTorch execution of the surrogate on the test frames, and write attack.json.

    The attacker knows all weights and the calibration record, but not the guard noise of the pass.

    Args:
        settings: budget and effort of the search.
        num_samples: fresh Monte Carlo samples at each moved frame, which judge its certificate.
        device: where the search runs, see `counting_device`. The judge runs there too where the counts of this workspace are from
            such a device, else where they are from. What is judged is the PyTorch execution, on the processor, as calibrated.

    Raises:
        TrainerError: the surrogate is not calibrated yet.
    """
    base, surrogate = workspace.base(allow_code=allow_code), workspace.surrogate(allow_code=allow_code)
    path = record_path(workspace, surrogate)
    if not path.exists():
        raise TrainerError(f"{path}: no such file; run `rrise-train calibrate {workspace.path}` first")
    scored = path.with_name("test.npz")
    if not scored.exists():
        raise TrainerError(
            f"{scored}: no such file; run `rrise-train certify {workspace.path}`, which draws the audit, and then "
            f"`rrise-train calibrate {workspace.path}` first"
        )
    record = Calibration.load(path)
    clean, before = workspace.inputs("test"), Scores.load(scored)
    place, begun = counting_device(workspace, base, device), counting_device(workspace, base, "auto")
    judge = place if place.type == begun.type else begun
    found = search(base.module, surrogate, record.head, clean, len(before.class_names), settings, place)
    moved = on_grid(found, clean, settings.rho)
    table = _judged(workspace, base, surrogate, moved, num_samples, judging_seed(settings.seed), str(judge))
    guard = record.guarantee.guard
    covered = guard is not None and settings.rho <= guard.rho
    radii = (0.0, record.head.sigma / 2, record.head.sigma)
    result = AttackResult(
        rho=settings.rho,
        clean=rate(before, record),
        attacked=rate(table, record),
        promised=float(record.guarantee.error) if covered or settings.rho == 0 else None,
        moved=float((moved - clean).flatten(1).norm(dim=1).mean()),
        radii=radii,
        issued=_issued(before, record, radii),
        issued_attacked=_issued(table, record, radii),
    )
    write_json(workspace.path / "attack.json", result.to_json())
    return result


def judging_seed(seed: int) -> int:
    """Seed of the guard noise under which moved frames are judged: no split was scored with that noise."""
    return 1 + max(SPLIT_SEEDS.values()) + seed


def on_grid(moved: Tensor, clean: Tensor, rho: float) -> Tensor:
    """`moved` with pixel values on the exact grid of the guarded tier, shrunk so that it stays within rho of `clean`."""
    steps = PIXEL_SCALE / GRID
    slack = 0.5 / steps * clean[0].numel() ** 0.5
    length = (moved - clean).flatten(1).norm(dim=1).clamp_min(1e-12)
    factor = (max(rho - slack, 0.0) / length).clamp_max(1.0)
    inside = clean + (moved - clean) * factor[:, None, None, None]
    return torch.round(inside * steps) / steps


def _issued(scores: Scores, record: Calibration, radii: tuple[float, ...]) -> tuple[float, ...]:
    radius = record.head.radius(scores.probit, scores.label, scores.difficulty)
    return tuple(float(value) for value in issued_share(radius, radii))


def rate(scores: Scores, record: Calibration) -> FalseCertificateRate:
    """False certificates of a record on judged scores."""
    radius = record.head.radius(scores.probit, scores.label, scores.difficulty)
    verdict = audit(scores, radius)
    wrong, frames = np.array([verdict.wrong]), np.array([verdict.frames])
    low = clopper_pearson_lower(wrong, frames, INTERVAL / 2)
    high = clopper_pearson_upper(wrong, frames, INTERVAL / 2)
    return FalseCertificateRate(verdict, verdict.wrong / verdict.frames, float(low[0]), float(high[0]))


def _judged(
    workspace: Workspace,
    base: Network,
    surrogate: Network,
    moved: Tensor,
    num_samples: int,
    seed: int,
    device: str,
) -> Scores:
    """One pass on every moved frame, with one draw of guard noise, beside fresh Monte Carlo counts at that frame."""
    delivered = moved.numpy()
    predicted = _one_pass(surrogate, delivered, seed)
    index = workspace.splits.indices("test")
    return Scores(
        digest=frame_digests(delivered),
        clip=workspace.splits.clips[index],
        target=workspace.labels("test"),
        label=predicted.label,
        probit=predicted.probit,
        difficulty=predicted.difficulty,
        counts=count_at(workspace, base, moved, num_samples, device),
        num_samples=np.full(len(delivered), num_samples, np.uint32),
        split="test",
        sigma=workspace.config.smoothing.sigma,
        class_names=workspace.dataset.class_names,
        base_digest=base.digest,
        execution=pytorch_execution(surrogate.digest, surrogate.guard_noise),
    )


def _one_pass(surrogate: Network, delivered: np.ndarray, seed: int) -> Predicted:
    if not surrogate.guard_noise:
        return predict_inputs(surrogate.module, delivered)
    noise = NoiseSource(surrogate.guard_noise, seed=seed).draw(delivered.shape)
    return predict_inputs(surrogate.module, delivered + noise / np.float32(PIXEL_SCALE))


def count_at(
    workspace: Workspace, base: Network, inputs: Tensor, num_samples: int, device: str = ""
) -> np.ndarray:
    """Class counts uint32 [n, K] of the base classifier around preprocessed frames float32 [n, C, h, w].

    Their noise is independent of every stream of the workspace.
    """
    counting = counting_for(workspace, base, device=device)
    with Progress(len(inputs) * num_samples, "evaluations", "judging") as progress:
        return count_inputs(
            counting.labeller,
            inputs,
            num_samples,
            num_classes=len(workspace.dataset.class_names),
            sigma=workspace.config.smoothing.sigma,
            seed=workspace.config.smoothing.seed,
            stream="attack",
            dtype=workspace.config.targets.dtype,
            device=counting.device,
            progress=progress.advance,
        )
