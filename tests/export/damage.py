"""What can go wrong with a bundle after it was made, as functions on a copy; `reseal` hides it from the digests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.digests import file_digest
from rrise.calibration.tables.scores import Scores
from rrise.edge_sdk.bundles.probe import Expected, Probe
from rrise.edge_sdk.formats.contract import preprocessing_digest
from rrise.edge_sdk.formats.manifest import MANIFEST_FILE, Manifest
from rrise.export.releasing.bundle import list_files


def copy_of(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "bundle"))


def reseal(bundle: Path) -> None:
    """Make all digests right again, as a careless tool chain (or an attacker without the key) would."""
    manifest = Manifest.load(bundle / MANIFEST_FILE)
    files = list_files(bundle)
    artefacts = {}
    for name, artefact in manifest.artefacts.items():
        artefacts[name] = replace(artefact, sha256=files[artefact.file])
        record = Calibration.load(bundle / artefact.calibration)
        replace(record, execution=replace(record.execution, artefact=files[artefact.file])).save(
            bundle / artefact.calibration
        )
    replace(manifest, artefacts=artefacts, files=list_files(bundle)).save(bundle / MANIFEST_FILE)


def change_graph(bundle: Path, file: str, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(bundle / file)
    change(model)
    (bundle / file).write_bytes(model.SerializeToString(deterministic=True))
    reseal(bundle)


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def set_values(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = initializer(model, name)
    values = np.asarray(change(numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def scale_largest_weight(factor: float) -> Callable[[onnx.ModelProto], None]:
    """One weight of the last layer, times `factor`."""

    def change(values: np.ndarray) -> np.ndarray:
        index = np.unravel_index(np.abs(values).argmax(), values.shape)
        values[index] *= factor
        return values

    return lambda model: set_values(model, "network.head.weight", change)


def scale_random_weight(factor: float, random: np.random.Generator) -> Callable[[onnx.ModelProto], None]:
    """One weight of all convolutions and the last layer, drawn uniformly, times `factor`."""

    def change(model: onnx.ModelProto) -> None:
        weights = [
            tensor
            for tensor in model.graph.initializer
            if tensor.name.startswith("network.") and tensor.name.endswith("weight") and len(tensor.dims) > 1
        ]
        sizes = np.array([np.prod(tensor.dims) for tensor in weights], float)
        chosen = weights[random.choice(len(weights), p=sizes / sizes.sum())]

        def scale(values: np.ndarray) -> np.ndarray:
            values.reshape(-1)[random.integers(values.size)] *= factor
            return values

        set_values(model, chosen.name, scale)

    return change


def swap_channels(model: onnx.ModelProto) -> None:
    """The first convolution reads blue where red is."""
    set_values(model, "network.stem.weight", lambda values: values[:, ::-1].copy())


def edit_everywhere(
    bundle: Path,
    name: str,
    record: Callable[[Calibration], Calibration] = lambda value: value,
    manifest: Callable[[Manifest], Manifest] = lambda value: value,
    probit: float = 0.0,
) -> None:
    """Change record, manifest or recorded probits; graph, metadata, probe and all digests are made to agree."""
    changed = manifest(Manifest.load(bundle / MANIFEST_FILE))
    changed.save(bundle / MANIFEST_FILE)
    artefact = changed.artefacts[name]
    assert artefact.calibration is not None
    mine = record(Calibration.load(bundle / artefact.calibration))
    mine.save(bundle / artefact.calibration)
    model = onnx.load(bundle / artefact.file)
    set_values(model, "head.offset", lambda _: np.array(mine.head.offset, np.float32))
    wanted = {
        "rrise.offset": json.dumps(list(mine.head.offset)),
        "rrise.calibration": mine.binding(),
        "rrise.classes": json.dumps(list(changed.class_names)),
        "rrise.preprocessing": preprocessing_digest(changed.preprocessing),
    }
    for entry in model.metadata_props:
        entry.value = wanted.get(entry.key, entry.value)
    (bundle / artefact.file).write_bytes(model.SerializeToString(deterministic=True))
    probe = Probe.load(bundle / "probe.npz")
    old = probe.expected[name]
    expected = dict(
        probe.expected, **{name: Expected(old.label, mine.head.radius(old.probit, old.label), old.probit)}
    )
    Probe(probe.frames, expected).save(bundle / "probe.npz")
    table = bundle / changed.recorded[name]
    scores = Scores.load(table)
    execution = replace(scores.execution, artefact=file_digest(bundle / artefact.file))
    replace(scores, execution=execution, probit=scores.probit + np.float32(probit)).save(table)
    reseal(bundle)


def lower_offset_everywhere(bundle: Path, name: str, by: float) -> None:
    """A smaller offset in graph, metadata, record and probe alike, with every digest right."""
    edit_everywhere(bundle, name, lambda record: with_offset_lower_by(record, by))


def with_offset_lower_by(record: Calibration, by: float) -> Calibration:
    return replace(record, head=record.head.with_offset([record.head.offset[0] - by]))
