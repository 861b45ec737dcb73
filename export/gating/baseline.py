"""An older bundle as the measure of a new one: run on the same frames, or compared by what both recorded."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.tables.evaluation import RADII
from rrise.calibration.tables.references import References
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.export.errors import ExportError
from rrise.export.gating.compare import Answers, Comparison, compare_outputs
from rrise.export.gating.quality import Quality, measure


def baseline_qualities(path: Path, references: References, radii: Sequence[float]) -> Dict[str, Quality]:
    """Run every calibrated artefact of the bundle at `path` on the frames of `references`.

    Raises:
        ExportError: the bundle takes other frames or knows other classes.
        BundleError: it is damaged.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    for what, got, expected in (
        ("classes", manifest.class_names, references.class_names),
        ("frames", manifest.input.frame_shape, references.frames.shape[1:]),
    ):
        if tuple(got) != tuple(expected):
            raise ExportError(
                f"baseline {path}: its {what} are {got}, the new bundle's are {expected}; name another baseline"
            )
    if not bundle.calibrations:
        raise ExportError(f"baseline {path}: has no calibrated artefact; name another baseline")
    qualities = {}
    for name, record in bundle.calibrations.items():
        model = bundle.model(name)
        with closing(OnnxRuntime.load(model)) as runtime:
            outputs = run_all(runtime, references.frames, noise=manifest.replay_noise())
        answers = Answers(outputs.label, outputs.radius, outputs.probit, outputs.difficulty)
        qualities[name] = measure(name, len(model), record, answers, references, radii)
    return qualities


@dataclass(frozen=True)
class ArtefactDiff:
    """One artefact in two bundles.

    Attributes:
        common: verification frames that both recorded.
        comparison: of the new answers with the old ones on those frames; None without common frames.
    """

    artefact: str
    old: Quality
    new: Quality
    common: int
    comparison: Optional[Comparison]

    def to_json(self) -> Dict[str, Any]:
        return {
            "artefact": self.artefact,
            "old": self.old.to_json(),
            "new": self.new.to_json(),
            "common_frames": self.common,
            "comparison": None if self.comparison is None else self.comparison.to_json(),
        }


@dataclass(frozen=True)
class BundleDiff:
    """What differs between two bundles: settings as (name, old, new), and the artefacts that both have."""

    settings: Tuple[Tuple[str, str, str], ...]
    artefacts: Tuple[ArtefactDiff, ...]

    def largest_drop(self) -> float:
        """Largest loss of certified accuracy, over artefacts and radii; NaN where one has no frame with a known class."""
        return float(np.max([item.new.costs(item.old) for item in self.artefacts]))

    def to_json(self) -> Dict[str, Any]:
        return {
            "settings": [list(entry) for entry in self.settings],
            "artefacts": [item.to_json() for item in self.artefacts],
            "largest_drop": None if math.isnan(self.largest_drop()) else self.largest_drop(),
        }


def diff(old: Path, new: Path) -> BundleDiff:
    """Compare two bundles by their manifests, calibration records and recorded verification scores.

    Raises:
        ExportError: they have no calibrated artefact in common.
    """
    bundles = Bundle.open(old), Bundle.open(new)
    shared = [name for name in bundles[1].calibrations if name in bundles[0].calibrations]
    if not shared:
        before, after = (", ".join(sorted(bundle.calibrations)) or "none" for bundle in bundles)
        raise ExportError(
            f"diff: got calibrated artefacts {before} and {after}, expected one that both bundles have"
        )
    return BundleDiff(tuple(_settings(*bundles)), tuple(_artefact_diff(name, *bundles) for name in shared))


def _settings(old: Bundle, new: Bundle) -> List[Tuple[str, str, str]]:
    pairs = [("release", old.manifest.digest[:16], new.manifest.digest[:16])]
    before, after = old.manifest.to_json(), new.manifest.to_json()
    for name in (
        "sigma",
        "class_names",
        "input",
        "preprocessing",
        "base_digest",
        "surrogate_digest",
        "splits",
        "versions",
    ):
        pairs.append((name, str(before[name]), str(after[name])))
    pairs.append(("artefacts", ", ".join(sorted(before["artefacts"])), ", ".join(sorted(after["artefacts"]))))
    for name in sorted(set(old.calibrations) & set(new.calibrations)):
        records = [bundle.calibrations[name] for bundle in (old, new)]
        for what in ("guarantee", "execution"):
            before_after = [str(getattr(record, what).to_json()) for record in records]
            pairs.append((f"{what} of {name}", before_after[0], before_after[1]))
        pairs.append((f"map of {name}", records[0].head.map.describe(), records[1].head.map.describe()))
    return [pair for pair in pairs if pair[1] != pair[2]]


def _artefact_diff(name: str, old: Bundle, new: Bundle) -> ArtefactDiff:
    tables, answers, qualities = [], [], []
    for bundle in (old, new):
        scores = bundle.recorded(name)
        if scores is None:
            raise ExportError(
                f"{bundle.path}: artefact {name} has no recorded scores; export the bundle again"
            )
        record = bundle.calibrations[name]
        mine = Answers.of(scores.label, scores.probit, record.head, scores.difficulty)
        tables.append(scores)
        answers.append(mine)
        qualities.append(measure(name, len(bundle.model(name)), record, mine, scores, RADII))
    common, rows_old, rows_new = np.intersect1d(tables[0].digest, tables[1].digest, return_indices=True)
    comparison = (
        compare_outputs(_rows(answers[1], rows_new), _rows(answers[0], rows_old), new.manifest.sigma)
        if len(common)
        else None
    )
    return ArtefactDiff(name, qualities[0], qualities[1], len(common), comparison)


def _rows(answers: Answers, rows: np.ndarray) -> Answers:
    return Answers(answers.label[rows], answers.radius[rows], answers.probit[rows])
