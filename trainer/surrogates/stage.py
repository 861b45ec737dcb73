"""The surrogate: one network that predicts the smoothed classifier's class probabilities in a single pass.

All candidates start at the base classifier's own weights, which hold its mistakes (unless it is a black box, or settings say
otherwise). Candidate zero is those weights as they are; what training cannot improve is not kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from rrise.calibration.errors import CheckFailed
from rrise.calibration.storage.digests import file_digest
from rrise.calibration.tables.evaluation import label_agreement, probit_rmse
from rrise.trainer.base_classifier.specs import session_for
from rrise.trainer.data.settings import plain
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning import Session
from rrise.trainer.learning.kept import Kept
from rrise.trainer.networks import (
    Network,
    differences,
    load_network,
    read_header,
    save_network,
    with_defaults,
)
from rrise.trainer.scores.choice import worth
from rrise.trainer.scores.surrogate_scores import score_surrogate
from rrise.trainer.surrogates.copies import Copies, add_copies, core
from rrise.trainer.surrogates.difficulty import learn_difficulty
from rrise.trainer.surrogates.training import DEFAULTS, UNCHANGED, Way, Work
from rrise.trainer.workspace import Workspace

UNSAVED = "0" * 64

LARGEST_FALL = 0.05
"""By which training may lower label agreement below that of the unchanged base classifier before it is refused."""


@dataclass(frozen=True)
class SurrogateCandidate:
    """One way of training, judged on the tuning split.

    method: "stored", "fresh" or "unchanged" (the base classifier's weights as they are).
    guard_noise: standard deviation of the noise that it takes with every frame, 0 for a plain pass.
    agreement: share of frames where its label is the most frequent Monte Carlo class.
    probit_rmse: root mean square error of its probit.
    worth: mean radius (or share issued at the asked radius) under the guarantee, the criterion of the choice.
    passes and trained: base evaluations and training examples that it took.
    """

    method: str
    guard_noise: float
    agreement: float
    probit_rmse: float
    worth: float
    passes: int
    trained: int

    def row(self) -> tuple[str, str]:
        """Its line in a summary."""
        return (
            f"method {self.method}" + (f", noise {self.guard_noise:g}" if self.guard_noise else ""),
            f"label agreement {self.agreement:.3f}, probit RMSE {self.probit_rmse:.3f}, worth {self.worth:.4f}",
        )


@dataclass(frozen=True)
class SurrogateResult:
    """digest: of surrogate.safetensors; chosen: the candidate kept; candidates: all that were trained.

    kept: whether a finished surrogate with the same settings was found and left as it is. seconds: of this run. copies: of the
    frame that the base classifier sees beside it, None without.
    """

    digest: str
    chosen: SurrogateCandidate
    candidates: tuple[SurrogateCandidate, ...]
    kept: bool
    seconds: float
    copies: Copies | None = None

    @property
    def method(self) -> str:
        return self.chosen.method

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def train_surrogate(
    workspace: Workspace,
    *,
    again: bool = False,
    allow_code: bool = False,
    device: str = "",
    minutes: float | None = None,
) -> SurrogateResult:
    """Train surrogate.safetensors: by every configured method and guard noise, keeping what is worth most.

    The choice is made on the tuning split, which calibration never sees. A training that was interrupted continues. A finished
    surrogate whose settings differ in the copies alone keeps its weights and gets the new number of copies.

    again: train although a surrogate with these settings is there. A surrogate with other settings, or of another
        base classifier, is replaced only with `again`. device: instead of [training] device. minutes: how long this call may
        work.

    Raises CheckFailed where every training made the base classifier's labels worse, before anything is calibrated;
    Interrupted where `minutes` did not suffice, with everything saved.
    """
    start = time.monotonic()
    base = workspace.base(allow_code=allow_code)
    settings = _settings(workspace, base)
    if workspace.surrogate_path.exists() and not again:
        return _keep(workspace, base, settings, allow_code)
    session = session_for(workspace, device=device, minutes=minutes, again=again)
    kept = Kept(session, settings, DEFAULTS)
    work = Work(workspace, base, session, kept, settings, allow_code)
    made = [(work.network(way), way) for way in ways(workspace, work)]
    judged = [(module, _judge(workspace, module, way, session)) for module, way in made]
    candidates = tuple(candidate for _, candidate in judged)
    check_no_fall(candidates)
    network, best = max(judged, key=lambda pair: (pair[1].worth, -pair[1].probit_rmse))
    if session.first:
        spec = work.spec(Way(best.method, best.guard_noise))
        _save(workspace, base, network, spec, best, candidates, settings)
    kept.clear()
    return _result(workspace, best, candidates, kept=False, seconds=time.monotonic() - start)


def ways(workspace: Workspace, work: Work) -> list[Way]:
    """Every way that is tried; the unchanged base classifier first, where its weights are the start."""
    asked = workspace.config.surrogate.method
    methods = {"auto": ("stored", "fresh"), UNCHANGED: ()}.get(asked, (asked,))
    zero = (UNCHANGED,) if work.starts_at_base else ()
    if not zero and not methods:
        raise TrainerError(
            '[surrogate] method = "unchanged": this surrogate does not start at the base classifier\'s weights (a black box or '
            'ONNX file, start = "scratch", or other widths), expected method = "stored" or "fresh"'
        )
    return [
        Way(method, noise)
        for method, noise in product((*zero, *methods), workspace.config.guard.noise or (0.0,))
    ]


def check_no_fall(candidates: Sequence[SurrogateCandidate]) -> None:
    """Refuse where training lost what the base classifier knew: nothing good can be calibrated from it.

    Raises CheckFailed with the agreement before and after.
    """
    zero = [item.agreement for item in candidates if item.method == UNCHANGED]
    trained = [item.agreement for item in candidates if item.method != UNCHANGED]
    if zero and trained and max(trained) < max(zero) - LARGEST_FALL:
        raise CheckFailed(
            f"training the surrogate made it worse: label agreement on the tuning split fell from {max(zero):.3f} (the "
            f"unchanged base classifier) to {max(trained):.3f}; lower [surrogate] learning_rate (a tenth, or 0 for the rate "
            "that fits the network) and train again; the calibration split was not touched"
        )


def _judge(workspace: Workspace, module: nn.Module, way: Way, session: Session) -> SurrogateCandidate:
    module.cpu()
    table = score_surrogate(module, workspace.preprocess, workspace.references("tuning"), UNSAVED, way.noise)
    if session.first:
        table.save(candidate_path(workspace, way.method, way.noise))
        if way.method != UNCHANGED:
            workspace.record_cost(way.stage, passes=way.passes, trained=way.trained)
    return SurrogateCandidate(
        method=way.method,
        guard_noise=way.noise,
        agreement=label_agreement(table),
        probit_rmse=probit_rmse(table),
        worth=worth(workspace, table, way.noise),
        passes=way.passes,
        trained=way.trained,
    )


def _save(
    workspace: Workspace,
    base: Network,
    network: nn.Module,
    spec: dict[str, Any],
    best: SurrogateCandidate,
    candidates: Sequence[SurrogateCandidate],
    settings: dict[str, Any],
) -> None:
    """Give a trained network its copies and its difficulty head, where they are asked for, and write it."""
    asked = workspace.config.surrogate
    made: dict[str, Any] = {}
    if asked.copies or asked.budget_ms:
        network, spec, found = add_copies(workspace, base, network, spec)
        workspace.record_cost("surrogate-copies", passes=found.passes)
        made = {"copies": asdict(found)}
    if workspace.config.surrogate.difficulty:
        learned = learn_difficulty(workspace, base, network, spec, best.guard_noise)
        network, spec = learned.module, learned.spec
        workspace.record_cost("surrogate-difficulty", passes=learned.passes)
    metadata = {
        **settings,
        "method": best.method,
        "guard_noise": best.guard_noise,
        "candidates": [asdict(candidate) for candidate in candidates],
        **made,
    }
    save_network(workspace.surrogate_path, network, spec, metadata)


def _settings(workspace: Workspace, base: Network) -> dict[str, Any]:
    settings = {
        **workspace.fingerprint(),
        "base_digest": base.digest,
        "settings": plain(asdict(workspace.config.surrogate)),
        "guard": {"rho": workspace.config.guard.rho, "noise": list(workspace.config.guard.noise)},
        "train_samples": workspace.config.targets.train,
    }
    teacher = workspace.config.surrogate.teacher
    return settings | ({"teacher_digest": file_digest(workspace.path / teacher)} if teacher else {})


def _keep(workspace: Workspace, base: Network, settings: dict[str, Any], allow_code: bool) -> SurrogateResult:
    start, path = time.monotonic(), workspace.surrogate_path
    metadata = with_defaults(read_header(path)[1], DEFAULTS)
    candidates = tuple(SurrogateCandidate(**item) for item in metadata["candidates"])
    kept = (metadata["method"], metadata["guard_noise"])
    chosen = next(item for item in candidates if (item.method, item.guard_noise) == kept)
    if _only_copies_differ(metadata, settings):
        network, spec = core(load_network(path, allow_code=allow_code))
        session = session_for(workspace)
        if session.first:
            _save(workspace, base, network, spec, chosen, candidates, settings)
        session.crew.wait()
        return _result(workspace, chosen, candidates, kept=False, seconds=time.monotonic() - start)
    for name, got, expected in differences(metadata, settings):
        raise TrainerError(
            f"{path}: {name}: got {got}, expected {expected}; restore the settings, or train a "
            f"new surrogate with `rrise-train surrogate {workspace.path} --again`"
        )
    return _result(workspace, chosen, candidates, kept=True, seconds=0.0)


def _only_copies_differ(metadata: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a finished surrogate is the one that is asked for, but for the copies."""
    found = list(differences(metadata, settings))
    return [name for name, _, _ in found] == ["settings"] and set(found[0][2]) <= {"copies", "budget_ms"}


def _result(
    workspace: Workspace,
    chosen: SurrogateCandidate,
    candidates: tuple[SurrogateCandidate, ...],
    *,
    kept: bool,
    seconds: float,
) -> SurrogateResult:
    path = workspace.surrogate_path
    found = read_header(path)[1].get("copies")
    copies = None if found is None else Copies(**found)
    return SurrogateResult(file_digest(path), chosen, candidates, kept, seconds, copies)


def candidate_path(workspace: Workspace, method: str, noise: float) -> Path:
    """Tuning scores of a candidate, kept so that `rrise-calibrate guard` can show what each guard noise costs."""
    name = method + (f"-noise-{noise:g}" if noise else "")
    return workspace.scores_path("candidates", name)
