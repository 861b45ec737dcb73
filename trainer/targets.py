"""Drives the Monte Carlo engine for every stream of a workspace, and writes the reference packs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrise.calibration.console import Progress
from rrise.calibration.statistics.bounds import reference_radius, unproved
from rrise.calibration.statistics.levels import parse_level
from rrise.calibration.tables.references import References
from rrise.trainer.counting import Counting, counting_for
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import CountStore, sample_counts
from rrise.trainer.workspace import REFERENCE_SPLITS, Workspace

AUDIT = "audit"
"""The stream that judges certificates on the test split; the pack of that split carries its counts."""

PROMISED = ("calibration", "verification")
"""Streams on whose bounds a promise or its check rests: how often their N may be raised is fixed beforehand."""


@dataclass(frozen=True)
class Stream:
    """One independent run of Monte Carlo: name, the split whose frames it samples, and samples per frame."""

    name: str
    split: str
    num_samples: int


@dataclass(frozen=True)
class TargetsResult:
    """What `build_targets` did: evaluations drawn now, those that were there before, and the seconds it took.

    engine: what counted, and why."""

    drawn: int
    found: int
    seconds: float
    engine: str = ""

    @property
    def rate(self) -> float:
        """Evaluations of the base classifier a second."""
        return self.drawn / max(self.seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "per_second": self.rate}


def all_streams(workspace: Workspace) -> tuple[Stream, ...]:
    """Every stream of a workspace. Streams never share noise, so the audit judges certificates independently."""
    asked = workspace.config.targets
    streams = [Stream("train", "train", asked.train)]
    streams += [Stream(split, split, getattr(asked, split)) for split in REFERENCE_SPLITS]
    return (*streams, *certify_streams(workspace), Stream(AUDIT, "test", asked.audit))


def certify_streams(workspace: Workspace) -> tuple[Stream, ...]:
    """The streams of Cohen's CERTIFY on the test split: label selection, and one estimation run per budget."""
    asked = workspace.config.targets
    selection = Stream("selection", "test", asked.selection)
    return (selection, *(Stream(f"certify-{size}", "test", size) for size in asked.certify))


def build_targets(
    workspace: Workspace,
    streams: Iterable[Stream] | None = None,
    *,
    device: str = "cpu",
    engine: str = "",
    allow_code: bool = False,
) -> TargetsResult:
    """Sample class counts until every stream has its configured samples, then write the reference packs.

    It continues where an earlier run stopped and repeats nothing; started by torchrun, the processes share the work.
    streams: all by default. device: where the base classifier runs. engine: instead of [targets] engine.

    Raises TrainerError where targets.zarr holds counts of another base classifier, sigma, seed or frames.
    """
    start = time.monotonic()
    base = workspace.base(allow_code=allow_code)
    chosen = tuple(all_streams(workspace) if streams is None else streams)
    counting = counting_for(workspace, base, device=device, engine=engine)
    stores = [open_stream(workspace, stream, base.digest, counting.engine) for stream in chosen]
    for store, stream in zip(stores, chosen, strict=True):
        store.check_num_samples(stream.num_samples)
    for store, stream in zip(stores, chosen, strict=True):
        if stream.name in PROMISED:
            store.plan_looks(workspace.config.targets.looks, stream.num_samples)
    todo = [store.missing(stream.num_samples) for store, stream in zip(stores, chosen, strict=True)]
    with Progress(sum(todo), "evaluations", "Monte Carlo") as progress:
        for store, stream in zip(stores, chosen, strict=True):
            _sample(workspace, counting, store, stream, device, progress)
    for stream, store in zip(chosen, stores, strict=True):
        counts = store.counts()
        workspace.record_cost(f"targets-{stream.name}", passes=int(counts.sum(dtype=np.int64)))
        if stream.name in (*REFERENCE_SPLITS, AUDIT):
            _write_references(workspace, stream.split, counts, _looks(workspace, stream, store), base.digest)
    total = sum(stream.num_samples * len(workspace.splits.indices(stream.split)) for stream in chosen)
    seconds = time.monotonic() - start
    return TargetsResult(sum(todo), max(total - sum(todo), 0), seconds, counting.sentence)


def open_stream(
    workspace: Workspace, stream: Stream, base_digest: str, engine: str | None = None
) -> CountStore:
    """The counts of one stream, which must belong to this workspace's base classifier, frames, sigma and seed, and to
    `engine` unless that is None."""
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
            f"`rrise-train {'certify' if name == 'selection' or name.startswith('certify-') else 'targets'} "
            f"{workspace.path}` (it continues)"
        )
    return store.counts()


def check_against_store(workspace: Workspace, pack: References) -> None:
    """A reference pack must say what the store of counts says, where that is there: every proof believes its counts.

    Raises TrainerError: other counts, radii that they do not prove, or a store of something else.
    """
    name = AUDIT if pack.split == "test" else pack.split
    if not (workspace.targets_path / name / "zarr.json").exists():
        return
    stream = next(item for item in all_streams(workspace) if item.name == name)
    counts = open_stream(workspace, stream, pack.base_digest).counts()
    path = workspace.references_path(pack.split)
    again = f"run `rrise-train targets {workspace.path}` again"
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
    beyond = unproved(pack.counts[rows, classes], samples, radius, pack.sigma, pack.beta)
    if beyond.any():
        raise TrainerError(
            f"{path}: {int(beyond.sum())} reference radii are larger than their counts prove; {again}"
        )


def _sample(
    workspace: Workspace,
    counting: Counting,
    store: CountStore,
    stream: Stream,
    device: str,
    progress: Progress,
) -> None:
    sample_counts(
        counting.labeller,
        workspace.preprocess,
        workspace.split_inputs(stream.split),
        store,
        stream.num_samples,
        batch_size=workspace.config.targets.batch_size or None,
        device=device,
        progress=progress.advance,
    )


def _looks(workspace: Workspace, stream: Stream, store: CountStore) -> int:
    """Over how many looks beta is split: the number that was fixed beforehand where a promise rests on the counts."""
    if stream.name in PROMISED:
        return workspace.config.targets.looks
    return max(len(store.looks()), 1)


def _write_references(
    workspace: Workspace, split: str, counts: np.ndarray, looks: int, base_digest: str
) -> None:
    """looks: over how many finished N beta is split."""
    index = workspace.splits.indices(split)
    beta = float(parse_level(workspace.config.guarantee.beta, "beta"))
    pack = References.from_counts(
        workspace.frames(split),
        workspace.splits.clips[index],
        workspace.labels(split),
        counts,
        counts.sum(axis=1, dtype=np.int64).astype(np.uint32),
        split=split,
        sigma=workspace.config.smoothing.sigma,
        class_names=workspace.dataset.class_names,
        base_digest=base_digest,
        beta=beta,
    )
    if looks > 1:
        radius = reference_radius(counts, pack.num_samples, pack.sigma, beta / looks)
        pack = dataclasses.replace(pack, radius=radius)
    pack.save(workspace.references_path(split))
