"""Drives the Monte Carlo engine for every stream of a workspace, and writes the reference packs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrise.calibration.console import Progress
from rrise.calibration.statistics.levels import parse_level
from rrise.calibration.tables.references import References
from rrise.trainer.counts.counting import Counting, counting_for
from rrise.trainer.counts.forecast import forecast
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import CountStore, sample_counts
from rrise.trainer.streams import (
    AUDIT,
    PROMISED,
    REFERENCE_SPLITS,
    MonteCarloStream,
    bundle_streams,
    in_stages,
    miss_levels,
    open_stream,
    stages,
)
from rrise.trainer.workspace import Workspace


@dataclass(frozen=True)
class TargetsResult:
    """What `build_targets` did: evaluations drawn now, those that were there before, and the seconds it took.

    engine: what counted, and why. refined: frames that went on to [targets] refine draws.
    """

    drawn: int
    found: int
    seconds: float
    engine: str = ""
    refined: int = 0

    @property
    def rate(self) -> float:
        """Evaluations of the base classifier a second."""
        return self.drawn / max(self.seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "per_second": self.rate}


def build_targets(
    workspace: Workspace,
    streams: Iterable[MonteCarloStream] | None = None,
    *,
    device: str = "",
    engine: str = "",
    allow_code: bool = False,
    announce: Callable[[str], object] | None = None,
) -> TargetsResult:
    """Sample class counts until every stream has its configured samples, then write the reference packs.

    It continues where an earlier run stopped and repeats nothing; started by torchrun, the processes share the work.
    streams: by default those that a bundle needs. device: where the base classifier runs, see
    `counting_device`. engine: instead of [targets] engine.
    announce: told beforehand what it will take, after a short measurement.

    Raises TrainerError where targets.zarr holds counts of another base classifier, sigma, seed or frames, and at Ctrl-C, to
    say what is stored.
    """
    start = time.monotonic()
    base = workspace.base(allow_code=allow_code)
    chosen = tuple(bundle_streams(workspace) if streams is None else streams)
    counting = counting_for(workspace, base, device=device, engine=engine)
    stores = [open_stream(workspace, stream, base.digest, counting.engine) for stream in chosen]
    for store, stream in zip(stores, chosen, strict=True):
        store.check_num_samples(stream.num_samples)
    _keep_plans(workspace, chosen, stores)
    run = _Run(workspace, counting, announce)
    drawn = run.draw(
        [_Wanted(stream, store, stream.num_samples) for stream, store in zip(chosen, stores, strict=True)]
    )
    refining = [
        _Wanted(stream, store, _refined(workspace, stream, store))
        for stream, store in zip(chosen, stores, strict=True)
        if in_stages(workspace, stream)
    ]
    drawn += run.draw(refining, ", frames that their first draws leave undecided")
    refined = sum(int(np.count_nonzero(item.num_samples > item.stream.num_samples)) for item in refining)
    found = -drawn
    # Once more: another process with other settings may have come before the first draw.
    _keep_plans(workspace, chosen, stores)
    for stream, store in zip(chosen, stores, strict=True):
        counts = store.counts()
        passes = int(counts.sum(dtype=np.int64))
        found += passes
        workspace.record_cost(f"targets-{stream.name}", passes=passes)
        if stream.name in (*REFERENCE_SPLITS, AUDIT):
            level = _level(workspace, stream, store, counts)
            _write_references(workspace, stream.split, counts, level, base.digest)
    return TargetsResult(drawn, max(found, 0), time.monotonic() - start, counting.sentence, refined)


@dataclass(frozen=True)
class _Wanted:
    """A stream, its counts, and the draws that it shall have: one N, or int64 [n]."""

    stream: MonteCarloStream
    store: CountStore
    num_samples: int | np.ndarray

    @property
    def missing(self) -> int:
        return self.store.missing(self.num_samples)


@dataclass(frozen=True)
class _Run:
    """What draws the counts of one call."""

    workspace: Workspace
    counting: Counting
    announce: Callable[[str], object] | None

    def draw(self, wanted: Sequence[_Wanted], note: str = "") -> int:
        """Bring every store to what is wanted; returns the evaluations that were drawn. note: which frames are meant."""
        if not wanted:
            return 0
        todo = [item.missing for item in wanted]
        total = sum(todo)
        if self.announce is not None and total:
            names = ", ".join(item.stream.name for item, missing in zip(wanted, todo, strict=True) if missing)
            takes = forecast(self.workspace, self.counting, total)
            self.announce(f"{names}{note}: {takes}")
        try:
            with Progress(total, "evaluations", "Monte Carlo") as progress:
                for item in wanted:
                    self._sample(item, progress)
        except KeyboardInterrupt:
            left = sum(item.missing for item in wanted)
            raise TrainerError(
                f"stopped: {total - left:,} of {total:,} evaluations were drawn now and are stored; the same command "
                "continues"
            ) from None
        return total

    def _sample(self, item: _Wanted, progress: Progress) -> None:
        sample_counts(
            self.counting.labeller,
            self.workspace.preprocess,
            self.workspace.split_inputs(item.stream.split),
            item.store,
            item.num_samples,
            batch_size=self.workspace.config.targets.batch_size or None,
            device=self.counting.device,
            progress=progress.advance,
        )


def _keep_plans(
    workspace: Workspace, streams: Sequence[MonteCarloStream], stores: Sequence[CountStore]
) -> None:
    """Over what beta is split, fixed before the first draw. Raises TrainerError where that was something else."""
    asked = workspace.config.targets
    for store, stream in zip(stores, streams, strict=True):
        if stream.name in PROMISED:
            store.plans.fix_looks(asked.looks, stream.num_samples)
            store.plans.fix_refinement(stream.num_samples, asked.refine)


def _beta(workspace: Workspace) -> float:
    return float(parse_level(workspace.config.guarantee.beta, "beta"))


def _refined(workspace: Workspace, stream: MonteCarloStream, store: CountStore) -> np.ndarray:
    """Draws int64 [n] of each frame, once every frame has those of the first stage.

    Killed between and started again it comes to the same: a frame between the stages was chosen to go on before.
    """
    counts, config = store.counts(), workspace.config
    radii = [radius + config.guard.rho for radius in config.guarantee.objective.radii]
    both, sigma = stages(workspace, stream), config.smoothing.sigma
    samples = counts.sum(axis=1, dtype=np.int64)
    undecided = both.undecided(counts, sigma, _beta(workspace), radii)
    going_on = (samples > both.first) | undecided
    return np.asarray(np.where(going_on, np.maximum(samples, both.last), samples))


def _level(
    workspace: Workspace, stream: MonteCarloStream, store: CountStore, counts: np.ndarray
) -> np.ndarray | None:
    """Each frame's share of beta, float64 [n], where it is split over stages or looks at which the counts may be read."""
    beta = _beta(workspace)
    levels = miss_levels(workspace, stream, store, counts.sum(axis=1, dtype=np.int64), beta)
    return levels if (levels < beta).any() else None


def _write_references(
    workspace: Workspace, split: str, counts: np.ndarray, level: np.ndarray | None, base_digest: str
) -> None:
    index = workspace.splits.indices(split)
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
        beta=_beta(workspace),
        level=level,
    )
    pack.save(workspace.references_path(split))
