"""Drives the Monte Carlo engine for every stream of a workspace, and writes the reference packs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrise.calibration.console import Progress
from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.statistics.levels import parse_level
from rrise.calibration.tables.references import References
from rrise.trainer.counts.counting import Counting, counting_for
from rrise.trainer.counts.forecast import forecast
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import CountStore, sample_counts
from rrise.trainer.montecarlo.distributed import team
from rrise.trainer.streams import AUDIT, REFERENCE_SPLITS, MonteCarloStream, bundle_streams, open_stream
from rrise.trainer.workspace import Workspace

PROMISED = ("calibration", "verification")
"""Streams on whose bounds a promise or its check rests: how often their N may be raised is fixed beforehand."""


@dataclass(frozen=True)
class TargetsResult:
    """What `build_targets` did: evaluations drawn now, those that were there before, and the seconds it took.

    engine: what counted, and why.
    """

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


def build_targets(
    workspace: Workspace,
    streams: Iterable[MonteCarloStream] | None = None,
    *,
    device: str = "cpu",
    engine: str = "",
    allow_code: bool = False,
    announce: Callable[[str], object] | None = None,
) -> TargetsResult:
    """Sample class counts until every stream has its configured samples, then write the reference packs.

    It continues where an earlier run stopped and repeats nothing; started by torchrun, the processes share the work.
    streams: by default those that a bundle needs. device: where the base classifier runs. engine: instead of [targets] engine.
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
    for store, stream in zip(stores, chosen, strict=True):
        if stream.name in PROMISED:
            store.plan_looks(workspace.config.targets.looks, stream.num_samples)
    todo = [store.missing(stream.num_samples) for store, stream in zip(stores, chosen, strict=True)]
    total = sum(todo)
    if announce is not None and total:
        names = ", ".join(stream.name for stream, missing in zip(chosen, todo, strict=True) if missing)
        announce(f"{names}: {forecast(workspace, counting, team().device(device), total)}")
    try:
        with Progress(total, "evaluations", "Monte Carlo") as progress:
            for store, stream in zip(stores, chosen, strict=True):
                _sample(workspace, counting, store, stream, device, progress)
    except KeyboardInterrupt:
        left = sum(store.missing(stream.num_samples) for store, stream in zip(stores, chosen, strict=True))
        raise TrainerError(
            f"stopped: {total - left:,} of {total:,} evaluations were drawn now and are stored; the same command "
            "continues"
        ) from None
    for stream, store in zip(chosen, stores, strict=True):
        counts = store.counts()
        workspace.record_cost(f"targets-{stream.name}", passes=int(counts.sum(dtype=np.int64)))
        if stream.name in (*REFERENCE_SPLITS, AUDIT):
            _write_references(workspace, stream.split, counts, _looks(workspace, stream, store), base.digest)
    wanted = sum(stream.num_samples * len(workspace.splits.indices(stream.split)) for stream in chosen)
    seconds = time.monotonic() - start
    return TargetsResult(total, max(wanted - total, 0), seconds, counting.sentence)


def _sample(
    workspace: Workspace,
    counting: Counting,
    store: CountStore,
    stream: MonteCarloStream,
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


def _looks(workspace: Workspace, stream: MonteCarloStream, store: CountStore) -> int:
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
