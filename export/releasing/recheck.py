"""What `rrise-export check` asks beyond the gate: does a bundle state what its workspace would state today?

The gate takes manifest and record at their word, since export has just written them. A bundle from elsewhere may have
been edited with every digest made to fit; a signature proves who released it, and this module that nothing is off.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any, Dict, List, Mapping

import numpy as np

from rrise.calibration.errors import RriseError
from rrise.calibration.promise.record import Calibration
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import run_all, score_runtime
from rrise.edge_sdk.formats.manifest import AGAIN
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.export.gating.gate_report import Check
from rrise.export.releasing.bundle import preprocessing_record
from rrise.export.source import ExportSource

MANIFEST, RECORD, RECORDED = (
    "manifest says what the workspace says",
    "record is what calibrating these answers gives",
    "recorded scores are this artefact's answers",
)


def against_workspace(bundle: Bundle, name: str, source: ExportSource) -> List[Check]:
    """The checks of one artefact of an opened bundle; the workspace decides what is right."""
    checks = [_check_manifest(bundle, source)]
    try:
        with closing(OnnxRuntime.load(bundle.model(name))) as runtime:
            checks += [
                _check_record(bundle, name, source, runtime),
                _check_recorded(bundle, name, source, runtime),
            ]
    except RriseError as error:
        checks.append(Check(RECORD, False, str(error), "an artefact that runs here"))
    return checks


def _check_manifest(bundle: Bundle, source: ExportSource) -> Check:
    manifest = bundle.manifest
    frame_shape = tuple(source.preprocess.frame_shape)
    wanted: Dict[str, Any] = {
        "sigma": source.sigma,
        "class_names": tuple(source.class_names),
        "preprocessing": preprocessing_record(source),
        "base_digest": source.base_digest,
        "surrogate_digest": source.surrogate_digest,
        "splits": dict(source.split_digests),
        "frame_rate": source.frame_rate,
        "guard": source.guarantee.guard,
        "base": source.base,
        "frame shape": frame_shape,
        "encoding": source.preprocess.encoding,
    }
    got = {key: getattr(manifest, key) for key in wanted if hasattr(manifest, key)}
    got.update({"frame shape": manifest.input.frame_shape, "encoding": manifest.input.encoding})
    return _equal(MANIFEST, got, wanted)


def _check_record(bundle: Bundle, name: str, source: ExportSource, runtime: OnnxRuntime) -> Check:
    """Calibrated once more on the shipped file's own answers: same guarantee, map, rank, frames, offset and attempt."""
    record = bundle.calibrations[name]
    try:
        again = source.calibrate(score_runtime(runtime, source.calibration, noise=source.replay))
    except RriseError as error:
        return Check(RECORD, False, str(error), "a calibration")
    found = _equal(RECORD, _flat(record), _flat(replace(again, execution=record.execution)))
    if not found.passed and record.issued is None:
        # Records of before that field was kept were calibrated by the rules of their time: that is no edit.
        older = "a record that an older version of rrise made, by the rules of then"
        return replace(found, got=f"{older} ({found.got})", limit=f"{found.limit}; {AGAIN} --force")
    return found


def _flat(record: Calibration) -> Dict[str, Any]:
    value = record.to_json()
    head = value.pop("head")
    return {**value, **{f"head {key}": entry for key, entry in head.items()}}


def _check_recorded(bundle: Bundle, name: str, source: ExportSource, runtime: OnnxRuntime) -> Check:
    """Devices replay these frames against these scores, so larger ones would hide a larger certificate."""
    try:
        scores = bundle.recorded(name)
        mine = run_all(runtime, source.verification.frames, noise=source.replay)
    except RriseError as error:
        return Check(RECORDED, False, str(error), "the workspace's verification frames")
    limit = "the same frames, labels and probits, bit for bit"
    if scores is None or not np.array_equal(scores.digest, source.verification.digest):
        return Check(RECORDED, False, "no scores" if scores is None else "other frames", limit)
    differing = (scores.label != mine.label) | (scores.probit.view(np.uint32) != mine.probit.view(np.uint32))
    if scores.difficulty is not None and mine.difficulty is not None:
        differing |= scores.difficulty != mine.difficulty
    return Check(RECORDED, not differing.any(), f"{int(differing.sum())} frames differ", limit)


def _equal(name: str, got: Mapping[str, Any], wanted: Mapping[str, Any]) -> Check:
    differing = sorted(key for key in wanted if got.get(key) != wanted[key])
    if not differing:
        return Check(name, True, "the same", "no difference")
    return Check(
        name,
        False,
        "; ".join(f"{key} {_short(got.get(key))}" for key in differing),
        "; ".join(f"{key} {_short(wanted[key])}" for key in differing),
    )


def _short(value: Any, limit: int = 120) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
