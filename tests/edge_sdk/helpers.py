"""Small bundles built by hand with onnx.parser: a linear classifier with the certificate head, calibrated for real."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rrise.calibration.promise.fit import calibrate
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.promise.record import Calibration
from rrise.calibration.statistics.probit import DENOMINATOR, LOGIT_LIMIT, MASKED_LOGIT, NUMERATOR
from rrise.calibration.storage.digests import file_digest, frame_digest
from rrise.calibration.tables.references import References
from rrise.edge_sdk import Certifier
from rrise.edge_sdk.bundles.probe import Expected, Probe
from rrise.edge_sdk.bundles.runtime_scores import run_all, score_runtime
from rrise.edge_sdk.formats.contract import GraphMetadata, preprocessing_digest
from rrise.edge_sdk.formats.manifest import Artefact, InputSpec, Manifest
from rrise.edge_sdk.formats.sealed import read_sealed, write_sealed
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime

NAMES = ("left", "straight", "right")
SIGMA = 0.25
BASE_DIGEST = "b" * 64
SURROGATE_DIGEST = "5" * 64
PREPROCESSING = {"scale": 255.0, "operator_norm": 0.5}


@dataclass(frozen=True)
class Spec:
    """What to build: frame (H, W, C), batch size, dtype and number of extra convolutions that only cost time."""

    frame: tuple[int, int, int] = (8, 8, 1)
    batch: int = 1
    dtype: str = "uint8"
    load: int = 0
    seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        height, width, channels = self.frame
        return (height, width, channels) if self.dtype == "uint8" else (channels, height, width)


def weights(spec: Spec) -> np.ndarray:
    """float32 [C*H*W, K]: the linear classifier on pixels in [0, 1]."""
    size = int(np.prod(spec.frame))
    return (np.random.default_rng(spec.seed).normal(size=(size, len(NAMES))) * 8 / np.sqrt(size)).astype(
        np.float32
    )


def graph(
    spec: Spec, offset: tuple[float, ...], metadata: dict[str, str] | None, sigma: float = SIGMA
) -> bytes:
    """An ONNX file that keeps the contract, written without any code of `export`."""
    import onnx
    from onnx import numpy_helper, parser

    channels = spec.frame[2]
    onnx_type = "uint8" if spec.dtype == "uint8" else "float"
    sides = ", ".join(map(str, (spec.batch, *spec.shape)))
    to_planes = (
        "cast = Cast<to: int = 1>(frame)\n scaled = Div(cast, full)\n planes = Transpose<perm = [0, 3, 1, 2]>(scaled)"
        if spec.dtype == "uint8"
        else "planes = Identity(frame)"
    )
    work = "\n".join(
        f"w{i} = Conv<pads = [1, 1, 1, 1]>({'planes' if i == 0 else f'w{i - 1}'}, k{'0' if i == 0 else 'n'})"
        for i in range(spec.load)
    )
    # Extra work reaches the logits with weight exactly zero: it costs time and changes nothing.
    join = (
        f"mean = ReduceMean<keepdims = 0>(w{spec.load - 1})\n nothing = Mul(mean, zero)\n"
        if spec.load
        else ""
    )
    gathered = "picked = Gather(offset, label)" if len(offset) > 1 else "picked = Identity(offset)"
    model = parser.parse_model(f"""
    <ir_version: 10, opset_import: ["" : 18]>
    hand_made ({onnx_type}[{sides}] frame) => (int64[{spec.batch}] label, float[{spec.batch}] radius,
        float[{spec.batch}] probit, float[{len(offset)}] offset, float[1] sigma) {{
      offset = Identity(offset_value)
      sigma = Identity(sigma_value)
      {to_planes}
      {work}
      {join}
      flat = Flatten(planes)
      bare = MatMul(flat, weights)
      logits = {"Add(bare, nothing)" if spec.load else "Identity(bare)"}
      label = ArgMax<axis = 1, keepdims = 0>(logits)
      top = ReduceMax<keepdims = 0>(logits, axis)
      column = Unsqueeze(label, axis)
      is_top = Equal(column, indices)
      others = Where(is_top, masked, logits)
      second = ReduceMax<keepdims = 1>(others, axis)
      shifted = Sub(others, second)
      powers = Exp(shifted)
      total = ReduceSum<keepdims = 0>(powers, axis)
      rest = Log(total)
      flat_second = Squeeze(second, axis)
      gap = Sub(top, flat_second)
      open_margin = Sub(gap, rest)
      t = Clip(open_margin, low, high)
      size = Abs(t)
      {_horner("n", "size", len(NUMERATOR))}
      {_horner("d", "size", len(DENOMINATOR))}
      product = Mul(t, n_0)
      probit = Div(product, d_0)
      plugin = Mul(sigma, probit)
      {gathered}
      left = Sub(plugin, picked)
      positive = Greater(left, zero)
      radius = Where(positive, left, zero)
    }}""")
    rng = np.random.default_rng(1)
    constants = {
        "full": np.float32(255),
        "weights": weights(spec),
        "axis": np.array([1]),
        "zero": np.zeros(1, np.float32),
        "indices": np.arange(len(NAMES)),
        "masked": np.float32(MASKED_LOGIT),
        "low": np.float32(-LOGIT_LIMIT),
        "high": np.float32(LOGIT_LIMIT),
        "offset_value": np.array(offset, np.float32),
        "sigma_value": np.array([sigma], np.float32),
        "k0": rng.normal(size=(16, channels, 3, 3)).astype(np.float32) / 10,
        "kn": rng.normal(size=(16, 16, 3, 3)).astype(np.float32) / 40,
    }
    constants |= {f"nc{i}": np.float32(value) for i, value in enumerate(NUMERATOR)}
    constants |= {f"dc{i}": np.float32(value) for i, value in enumerate(DENOMINATOR)}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used
    )
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _horner(letter: str, variable: str, count: int) -> str:
    lines, value = [], f"{letter}c{count - 1}"
    for i in reversed(range(count - 1)):
        lines += [
            f"{letter}_{i}m = Mul({value}, {variable})",
            f"{letter}_{i} = Add({letter}_{i}m, {letter}c{i})",
        ]
        value = f"{letter}_{i}"
    return "\n".join(lines)


def logits(spec: Spec, frames: np.ndarray) -> np.ndarray:
    """The linear classifier in float64, as an independent oracle."""
    planes = (
        frames.transpose(0, 3, 1, 2).astype(np.float64) / 255
        if spec.dtype == "uint8"
        else frames.astype(np.float64)
    )
    return planes.reshape(len(frames), -1) @ weights(spec).astype(np.float64)


def make_references(
    spec: Spec, split: str, count: int, seed: int, *, optimism: float = 0.0, num_samples: int = 1000
) -> References:
    """Random frames with counts drawn from a smoothed classifier that resembles the surrogate.

    `optimism` > 0 makes the surrogate claim more than those counts support.
    """
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, *spec.shape), dtype=np.uint8)
    scores = logits(spec, frames) * (1 - optimism) + rng.normal(size=(count, len(NAMES))) * 0.3
    odds = np.exp(scores - scores.max(1, keepdims=True))
    counts = np.stack([rng.multinomial(num_samples, row) for row in odds / odds.sum(1, keepdims=True)])
    return References.from_counts(
        frames,
        np.arange(count),
        counts.argmax(1).astype(np.int64),
        counts.astype(np.uint32),
        np.full(count, num_samples, np.uint32),
        split=split,
        sigma=SIGMA,
        class_names=NAMES,
        base_digest=BASE_DIGEST,
        beta=0.1,
    )


def metadata(spec: Spec, offset: tuple[float, ...], binding: str) -> dict[str, str]:
    encoding = {("uint8", 1): "mono8", ("uint8", 3): "rgb8"}.get((spec.dtype, spec.frame[2]), "float32")
    return GraphMetadata(
        SIGMA, offset, binding, BASE_DIGEST, NAMES, encoding, preprocessing_digest(PREPROCESSING)
    ).to_text()


def make_bundle(
    path: Path,
    spec: Spec = Spec(),
    *,
    calibrated: bool = True,
    num_frames: int = 300,
    references: References | None = None,
    guarantee: Guarantee | None = None,
    offsets: tuple[float, ...] = (),
    attempt: int = 0,
) -> Path:
    """A complete bundle with its own calibration on `num_frames` frames; also writes `<path>-references.npz`."""
    path.mkdir(parents=True)
    for folder in ("calibration", "recorded"):
        (path / folder).mkdir()
    record: Calibration | None = None
    offset: tuple[float, ...] = (0.0,)
    if calibrated:
        bare = OnnxRuntime.load(graph(spec, (0.0,), metadata(spec, (0.0,), "")))
        scores = score_runtime(
            bare, references or make_references(spec, "calibration", num_frames, 10 + spec.seed)
        )
        record = calibrate(scores, guarantee or Guarantee.of(error="0.1"), offsets=offsets, attempt=attempt)
        offset = record.head.offset
    model = graph(spec, offset, metadata(spec, offset, record.binding() if record else ""))
    (path / "surrogate.onnx").write_bytes(model)
    runtime = OnnxRuntime.load(model)
    if record:
        record = replace(record, execution=runtime.execution)
        record.save(path / "calibration" / "fp32.json")
    verification = "0" * 64
    if spec.dtype == "uint8":
        pack = make_references(spec, "verification", 200, 20 + spec.seed)
        pack.save(path.parent / f"{path.name}-references.npz")
        score_runtime(runtime, pack).save(path / "recorded" / "fp32-verification.npz")
        verification = pack.frames_digest
    save_probe(path, spec, runtime)
    write_manifest(path, spec, record, {"verification": verification})
    return path


def save_probe(path: Path, spec: Spec, runtime: OnnxRuntime, count: int = 4) -> None:
    frames: np.ndarray = np.random.default_rng(5).integers(0, 256, (count, *spec.shape), dtype=np.uint8)
    if spec.dtype == "float32":
        frames = frames.astype(np.float32) / np.float32(255)
    answers = run_all(runtime, frames)
    Probe(frames, {"fp32": Expected(answers.label, answers.radius, answers.probit)}).save(path / "probe.npz")


def write_manifest(path: Path, spec: Spec, record: Calibration | None, splits: dict[str, str]) -> None:
    """List whatever lies in the folder, as an exporter does at its end."""
    files = {
        file.relative_to(path).as_posix(): file_digest(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }
    text, layout = metadata(spec, (0.0,), ""), "NHWC" if spec.dtype == "uint8" else "NCHW"
    Manifest(
        sigma=SIGMA,
        class_names=NAMES,
        input=InputSpec(spec.dtype, (spec.batch, *spec.shape), layout, text["rrise.encoding"]),
        preprocessing=PREPROCESSING,
        base_digest=BASE_DIGEST,
        surrogate_digest=SURROGATE_DIGEST,
        splits=splits,
        artefacts={
            "fp32": Artefact(
                "surrogate.onnx", files["surrogate.onnx"], "calibration/fp32.json" if record else None
            )
        },
        probe="probe.npz",
        recorded={"fp32": "recorded/fp32-verification.npz"}
        if "recorded/fp32-verification.npz" in files
        else {},
        frame_rate=30.0,
        versions={"rrise": "0"},
        files=files,
    ).save(path / "manifest.json")


def relist(path: Path) -> None:
    """Write the manifest again with the digests of the files as they are now: a forger who keeps the books."""
    manifest = Manifest.load(path / "manifest.json")
    files = {name: file_digest(path / name) for name in manifest.files if (path / name).exists()}
    artefacts = {name: replace(entry, sha256=files[entry.file]) for name, entry in manifest.artefacts.items()}
    replace(manifest, files=files, artefacts=artefacts).save(path / "manifest.json")


def replace_graph(path: Path, model: bytes) -> None:
    """Put another graph in, with manifest and calibration record adapted to it in everything but content."""
    (path / "surrogate.onnx").write_bytes(model)
    record_file = path / "calibration" / "fp32.json"
    if record_file.exists():
        record = json.loads(record_file.read_text())
        record["execution"]["artefact"] = file_digest(path / "surrogate.onnx")
        record_file.write_text(json.dumps(record))
    relist(path)


def copy(bundle: Path, to: Path) -> Path:
    shutil.copytree(bundle, to)
    return to


def head_of(path: Path) -> CertificateHead:
    return Calibration.load(path / "calibration" / "fp32.json").head


def random_frames(spec: Spec, count: int, seed: int = 3) -> np.ndarray:
    frames = np.random.default_rng(seed).integers(0, 256, (count, *spec.shape), dtype=np.uint8)
    return frames if spec.dtype == "uint8" else frames.astype(np.float32) / np.float32(255)


def digest_of(frame: np.ndarray) -> str:
    return frame_digest(frame)


def rewrite_sealed(path: Path, **changes: object) -> None:
    """Change entries of a sealed record and seal it again: a forger with our own tools."""
    write_sealed(path, {**read_sealed(path, "record"), **changes})


def exchange(certifier: Certifier, **changes: Any) -> None:
    """Let a certifier answer from what it has loaded, changed: another runtime, another monitor."""
    certifier._loaded = replace(certifier._loaded, **changes)
