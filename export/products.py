"""What a bundle is made of: the surrogate lowered, converted to each precision, and calibrated on its own outputs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Optional, Sequence, Tuple

from rrise.calibration.console import Progress
from rrise.calibration.errors import CheckFailed, RriseError
from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores
from rrise.edge_sdk.bundles.runtime_scores import run_all, score_runtime
from rrise.edge_sdk.formats.contract import GraphMetadata, preprocessing_digest
from rrise.edge_sdk.formats.noise import ReplayNoise
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.export.errors import ExportError
from rrise.export.gating.compare import Answers
from rrise.export.lowering.head import attach_head
from rrise.export.lowering.lower import check_model, lower
from rrise.export.lowering.precision import convert_precision
from rrise.export.releasing.bundle import (
    Product,
    preprocessing_record,
)
from rrise.export.releasing.cache import Cache, conversion_key
from rrise.export.source import ExportSource

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class LeftOut:
    """A precision that failed. failed: whether a check ran and said no, or it could not be made at all."""

    precision: str
    why: str
    failed: bool


def make_products(
    source: ExportSource,
    precisions: Sequence[str],
    batch_size: int,
    cache: Cache,
    *,
    keep_going: bool = False,
) -> Tuple[Tuple[Product, ...], Tuple[LeftOut, ...]]:
    """Lower the surrogate, convert it to each precision, and calibrate each on its own outputs.

    keep_going: a precision other than fp32 that cannot be made is left out, and told.
    """
    network = cache.graph(
        conversion_key(source, "fp32", batch_size), lambda: lower_source(source, batch_size)
    )
    products, left_out = [], []
    for precision in precisions:
        key = conversion_key(source, precision, batch_size)
        converted = network
        try:
            if precision != "fp32":
                converted = cache.graph(
                    key, partial(convert_precision, network, precision, source.tuning.frames, source.replay)
                )
            products.append(make_product(source, converted, precision))
        except RriseError as error:
            if not keep_going or precision == "fp32":
                raise
            left_out.append(LeftOut(precision, str(error), isinstance(error, CheckFailed)))
    return tuple(products), tuple(left_out)


def lower_source(source: ExportSource, batch_size: int) -> "onnx.ModelProto":
    """Preprocessing and surrogate as one float32 graph from `frame` (and `noise`) to `logits`."""
    import torch

    frame = torch.zeros((batch_size, *source.preprocess.frame_shape), dtype=torch.uint8)
    if source.replay is None:
        return lower(source.module, frame, source.outputs)
    return lower(source.module, (frame, torch.zeros((batch_size, *source.replay.shape))), source.outputs)


def make_product(source: ExportSource, converted: "onnx.ModelProto", precision: str) -> Product:
    """Score the calibration frames, calibrate, and embed the offset."""
    head = CertificateHead(source.sigma, source.map)
    unfinished = _with_metadata(attach_head(converted, head, uncalibrated=True), source, head, "")
    scored, _ = _score(unfinished, source.calibration, source.replay, f"scoring {precision}, calibration")
    record = source.calibrate(scored)
    if not record:
        raise ExportError(
            f"{precision}: {record.message()}; add calibration frames or ask for a larger error level"
        )
    final = _with_metadata(attach_head(converted, record.head), source, record.head, record.binding())
    recorded, answers = _score(
        final, source.verification, source.replay, f"scoring {precision}, verification"
    )
    record = replace(record, execution=recorded.execution)
    return Product(precision, final, record, recorded, answers, scored)


def _with_metadata(
    model: "onnx.ModelProto", source: ExportSource, head: CertificateHead, binding: str
) -> bytes:
    """Bytes of the checked graph, with the contract's metadata."""
    from onnx import helper

    metadata = GraphMetadata(
        sigma=head.sigma,
        offset=head.offset,
        calibration=binding,
        base_digest=source.base_digest,
        class_names=source.class_names,
        encoding=source.preprocess.encoding,
        preprocessing=preprocessing_digest(preprocessing_record(source)),
        guard=source.guarantee.guard,
    )
    helper.set_model_props(model, dict(sorted(metadata.to_text().items())))
    check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _score(
    model: bytes, references: References, noise: Optional[ReplayNoise], label: str
) -> Tuple[Scores, Answers]:
    with (
        closing(OnnxRuntime.load(model)) as runtime,
        Progress(2 * len(references), "frames", label) as progress,
    ):
        scores = score_runtime(runtime, references, noise=noise, advance=progress.advance)
        outputs = run_all(runtime, references.frames, noise=noise, advance=progress.advance)
    return scores, Answers(outputs.label, outputs.radius, outputs.probit, outputs.difficulty)
