"""Which stages of a workspace are done, as its files say; no network is built and no frame is read."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrise.calibration.errors import RriseError
from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.digests import file_digest
from rrise.calibration.storage.files import read_json
from rrise.trainer.networks import read_header
from rrise.trainer.networks.copies import copies_in
from rrise.trainer.workspace import SCORED_SPLITS, Workspace

DONE, NOT_YET, OPTIONAL, OUTDATED = "done", "not yet", "not drawn", "out of date"


@dataclass(frozen=True)
class Stage:
    """One stage: what it is called, how far it is, when its result was written, what came of it, and its command."""

    name: str
    state: str
    when: str
    what: str
    command: str


@dataclass(frozen=True)
class Found:
    """What a workspace holds.

    stages: in the order of the work. record: of the surrogate that is there now, None without; folder: of its scores.
    base_digest, surrogate_digest: empty where there is none. copies: of the frame that the surrogate asks about.
    bundle: its manifest as it lies there, unchecked; empty without one.
    """

    stages: tuple[Stage, ...]
    record: Calibration | None
    folder: Path | None
    base_digest: str
    surrogate_digest: str
    copies: int
    bundle: Mapping[str, Any]

    @property
    def next(self) -> str:
        """The command that comes next; empty where everything that a bundle needs is done."""
        waiting = [stage for stage in self.stages if stage.state in (NOT_YET, OUTDATED)]
        return waiting[0].command if waiting else ""


def look(workspace: Workspace) -> Found:
    """See what is there. Raises RriseError or OSError where a file is damaged."""
    base = workspace.base_digest if workspace.base_path.exists() else ""
    surrogate = ""
    spec: dict[str, Any] = {}
    made: dict[str, Any] = {}
    if workspace.surrogate_path.exists():
        surrogate = file_digest(workspace.surrogate_path)
        spec, made = read_header(workspace.surrogate_path)
    folder, record = _record(workspace, surrogate)
    bundle_path = workspace.path / "bundle" / "manifest.json"
    bundle = read_json(bundle_path, "manifest") if bundle_path.exists() else {}
    stages = (
        _base(workspace, base),
        _targets(workspace),
        _surrogate(workspace, base, made, copies_in(spec) if spec else 0),
        _calibration(workspace, record, folder),
        _comparison(workspace),
        *_attack(workspace),
        _export(workspace, bundle, surrogate),
    )
    copies = copies_in(spec) if spec else 0
    return Found(stages, record, folder, base, surrogate, copies, bundle)


def _stage(
    name: str, path: Path, what: str, command: str, *, absent: str = NOT_YET, old: bool = False
) -> Stage:
    if not path.exists():
        return Stage(name, absent, "", "", command)
    return Stage(name, OUTDATED if old else DONE, written(path), what, command)


def written(path: Path) -> str:
    """When a file was written, by this machine's clock, such as "2026-11-27 14:02"."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))


def _base(workspace: Workspace, digest: str) -> Stage:
    what = ""
    if digest:
        _, made = read_header(workspace.base_path)
        what = f"recipe {made['recipe']}" if made.get("recipe") else "your own, checked"
        accuracy = _last(workspace.path / "log" / "base.jsonl").get("noisy_accuracy")
        if made.get("recipe") and accuracy is not None:
            what += f", accuracy of one noisy pass {accuracy:.3f} while training"
    return _stage("base classifier", workspace.base_path, what, workspace.command("rrise-train base"))


def _last(path: Path) -> Mapping[str, Any]:
    """The last line of a training log; nothing where there is none or it was cut off."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return dict(json.loads(lines[-1])) if lines else {}
    except (OSError, ValueError):
        return {}


def _targets(workspace: Workspace) -> Stage:
    packs = [workspace.references_path(split) for split in SCORED_SPLITS if split != "test"]
    spent = sum(
        entry.passes
        for entry in workspace.cost().entries
        if entry.stage.startswith("targets-")
        and not entry.stage.startswith(("targets-certify", "targets-audit", "targets-selection"))
    )
    missing = [path for path in packs if not path.exists()]
    return _stage(
        "class counts",
        missing[0] if missing else packs[1],
        f"{spent:,} evaluations by Monte Carlo",
        workspace.command("rrise-train targets"),
    )


def _surrogate(workspace: Workspace, base: str, made: Mapping[str, Any], copies: int) -> Stage:
    what = ""
    if made:
        chosen = [item for item in made.get("candidates", []) if item.get("method") == made.get("method")]
        what = f"method {made.get('method', '')}"
        if chosen:
            what += f", label agreement {chosen[0]['agreement']:.3f} on tuning frames"
        what += f", {copies} copies" if copies else ""
    old = bool(made) and made.get("base_digest") != base
    what += "; of another base classifier" if old else ""
    return _stage(
        "surrogate", workspace.surrogate_path, what, workspace.command("rrise-train surrogate"), old=old
    )


def _record(workspace: Workspace, surrogate: str) -> tuple[Path | None, Calibration | None]:
    """The newest record of the PyTorch execution of this surrogate, and the folder of its scores."""
    records = sorted(
        workspace.path.glob("scores/pytorch-*/calibration.json"), key=lambda path: path.stat().st_mtime
    )
    for path in reversed(records):
        record = Calibration.load(path)
        if record.execution.artefact == surrogate:
            return path.parent, record
    return None, None


def _calibration(workspace: Workspace, record: Calibration | None, folder: Path | None) -> Stage:
    command = workspace.command("rrise-train calibrate")
    if record is None or folder is None:
        old = next(iter(workspace.path.glob("scores/pytorch-*/calibration.json")), None)
        return Stage(
            "calibration",
            OUTDATED if old else NOT_YET,
            written(old) if old else "",
            "of another surrogate" if old else "",
            command,
        )
    return _stage("calibration", folder / "calibration.json", record.message(), command)


def _comparison(workspace: Workspace) -> Stage:
    budgets = ", ".join(f"{budget:,}" for budget in sorted(workspace.config.targets.certify))
    what = f"CERTIFY with N = {budgets}, and the audit of certificates on test frames"
    command = workspace.command("rrise-train certify")
    return _stage("comparison (no bundle needs it)", workspace.certify_path, what, command, absent=OPTIONAL)


def _attack(workspace: Workspace) -> tuple[Stage, ...]:
    path = workspace.path / "attack.json"
    if not path.exists():
        return ()
    try:
        found = read_json(path, "attack")
        rate, rho = found["attacked"]["share"], found["rho"]
        what = f"false certificates on a share of {rate:.3f} of frames, moved by up to {rho:g} in L2"
    except (RriseError, KeyError, TypeError) as error:
        what = f"unreadable: {error}"
    return (_stage("attack", path, what, workspace.command("rrise-train attack")),)


def _export(workspace: Workspace, bundle: Mapping[str, Any], surrogate: str) -> Stage:
    what, old = "", False
    if bundle:
        what = ", ".join(sorted(bundle.get("artefacts", {})))
        what += f"; {bundle['copies']} copies in the graph" if bundle.get("copies") else ""
        what += "; with base.onnx" if bundle.get("base") else "; without base.onnx"
        old = bundle.get("surrogate_digest") != surrogate
        what += "; of another surrogate" if old else ""
    path = workspace.path / "bundle" / "manifest.json"
    return _stage("bundle", path, what, workspace.command("rrise-export onnx"), old=old)
