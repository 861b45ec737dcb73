"""Every stream of a workspace's Monte Carlo counts, and the one truth about them: what the store holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rrise.calibration.statistics.bounds import unproved
from rrise.calibration.statistics.stages import Stages
from rrise.calibration.tables.references import References
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import CountStore

if TYPE_CHECKING:
    from rrise.trainer.workspace import Workspace

REFERENCE_SPLITS = ("tuning", "calibration", "verification")
PROMISED = ("calibration", "verification")
"""Streams on whose bounds a promise or its check rests: how often their N may be raised is fixed beforehand."""
AUDIT = "audit"
"""The stream that judges certificates on the test split; the pack of that split carries its counts."""


@dataclass(frozen=True)
class MonteCarloStream:
    """One independent run of Monte Carlo: name, the split whose frames it samples, and samples per frame."""

    name: str
    split: str
    num_samples: int


def all_streams(workspace: Workspace) -> tuple[MonteCarloStream, ...]:
    """Every stream of a workspace. Streams never share noise, so the audit judges certificates independently."""
    asked = workspace.config.targets
    return (
        MonteCarloStream("train", "train", asked.train),
        *_references(workspace),
        *comparison_streams(workspace),
    )


def bundle_streams(workspace: Workspace) -> tuple[MonteCarloStream, ...]:
    """The streams that a bundle needs. Counts of the training frames only where a way of training learns from them."""
    method, asked = workspace.config.surrogate.method, workspace.config.targets
    train = (MonteCarloStream("train", "train", asked.train),) if method in ("auto", "stored") else ()
    return (*train, *_references(workspace))


def comparison_streams(workspace: Workspace) -> tuple[MonteCarloStream, ...]:
    """The streams that only a comparison with Monte Carlo needs: CERTIFY on the test frames, and the audit of certificates."""
    return (*certify_streams(workspace), MonteCarloStream(AUDIT, "test", workspace.config.targets.audit))


def _references(workspace: Workspace) -> tuple[MonteCarloStream, ...]:
    return tuple(
        MonteCarloStream(split, split, getattr(workspace.config.targets, split)) for split in REFERENCE_SPLITS
    )


def certify_streams(workspace: Workspace) -> tuple[MonteCarloStream, ...]:
    """The streams of Cohen's CERTIFY on the test split: label selection, and one estimation run per budget."""
    asked = workspace.config.targets
    selection = MonteCarloStream("selection", "test", asked.selection)
    return (selection, *(MonteCarloStream(f"certify-{size}", "test", size) for size in asked.certify))


def open_stream(
    workspace: Workspace, stream: MonteCarloStream, base_digest: str, engine: str | None = None
) -> CountStore:
    """The counts of one stream.

    They must belong to this workspace's base classifier, frames, sigma and seed, and to `engine` unless that is None.
    """
    return CountStore.open(
        workspace.targets_path,
        stream=stream.name,
        digests=workspace.splits.digests[workspace.splits.indices(stream.split)],
        num_classes=len(workspace.dataset.class_names),
        sigma=workspace.config.smoothing.sigma,
        seed=workspace.config.smoothing.seed,
        base_digest=base_digest,
        dtype=workspace.config.targets.dtype,
        engine=engine,
    )


def stored_counts(workspace: Workspace, name: str, base_digest: str) -> np.ndarray:
    """Counts uint32 [n, K] of a finished stream; a stream that is not finished is refused."""
    stream = next(item for item in all_streams(workspace) if item.name == name)
    store = open_stream(workspace, stream, base_digest)
    missing = store.missing(stream.num_samples)
    if missing:
        raise TrainerError(
            f"{workspace.targets_path}, stream {name!r}: {missing} of its samples are still missing; run "
            f"`rrise-train {_drawn_by(name)} {workspace.path}` (it continues)"
        )
    return store.counts()


def _drawn_by(name: str) -> str:
    """The command that draws a stream."""
    return "targets" if name in ("train", *REFERENCE_SPLITS) else "certify"


def in_stages(workspace: Workspace, stream: MonteCarloStream) -> bool:
    """Whether frames of a stream that their first draws leave undecided go on."""
    return bool(workspace.config.targets.refine) and stream.name in REFERENCE_SPLITS


def stages(workspace: Workspace, stream: MonteCarloStream) -> Stages:
    """The draws of a stream whose frames go on."""
    return Stages(stream.num_samples, workspace.config.targets.refine)


def miss_levels(
    workspace: Workspace, stream: MonteCarloStream, store: CountStore, samples: np.ndarray, beta: float
) -> np.ndarray:
    """Miss probability of the bounds of each frame with so many `samples`, float64 [n]: its share of beta.

    Beta is split over the stages, or over the looks at which the counts may be read: as many as were fixed beforehand where a
    promise rests on them.
    """
    if in_stages(workspace, stream):
        return stages(workspace, stream).levels(samples, beta)
    looks = workspace.config.targets.looks if stream.name in PROMISED else max(len(store.plans.looks()), 1)
    return np.full(len(samples), beta / looks)


def _shared(workspace: Workspace, stream: MonteCarloStream) -> str:
    """Why they may prove less than they seem to."""
    shared = in_stages(workspace, stream) or workspace.config.targets.looks > 1
    return " at their share of beta" if shared else ""


def check_against_store(workspace: Workspace, pack: References) -> None:
    """A reference pack must say what the store of counts says, where that is there: every proof believes its counts.

    Raises TrainerError: other counts, radii that they do not prove, or a store of something else.
    """
    name = AUDIT if pack.split == "test" else pack.split
    if not (workspace.targets_path / name / "zarr.json").exists():
        return
    stream = next(item for item in all_streams(workspace) if item.name == name)
    store = open_stream(workspace, stream, pack.base_digest)
    counts = store.counts()
    path = workspace.references_path(pack.split)
    again = f"run `rrise-train {_drawn_by(name)} {workspace.path}` again"
    if not np.array_equal(counts, pack.counts):
        changed = (
            len(counts)
            if counts.shape != pack.counts.shape
            else int((counts != pack.counts).any(axis=1).sum())
        )
        raise TrainerError(
            f"{path}: {changed} frames have other counts than {workspace.targets_path}, expected the same; {again}"
        )
    rows, classes = np.nonzero(pack.radius > 0)
    radius, samples = pack.radius[rows, classes], pack.num_samples[rows]
    levels = miss_levels(workspace, stream, store, pack.num_samples, pack.beta)[rows]
    beyond = unproved(pack.counts[rows, classes], samples, radius, pack.sigma, levels)
    if beyond.any():
        raise TrainerError(
            f"{path}: {int(beyond.sum())} reference radii are larger than their counts prove{_shared(workspace, stream)}; {again}"
        )
