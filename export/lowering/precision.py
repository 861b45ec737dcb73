"""Precisions of the backbone: float32, float16 by casts in the graph, int8 by static QDQ quantisation.

Preprocessing and the certificate head stay in float32: a lower precision begins inside the network, which is then
simply the surrogate that is calibrated.
"""

from __future__ import annotations

import logging
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterator, Optional

import numpy as np

from rrise.edge_sdk.formats.contract import FRAME, NOISE
from rrise.edge_sdk.formats.noise import ReplayNoise
from rrise.export.errors import ExportError
from rrise.export.lowering.lower import clean_model

if TYPE_CHECKING:
    import onnx

PRECISIONS = ("fp32", "fp16", "int8")
PREPROCESS_LAYER = "preprocess"
QUANTISED = ("Conv", "Gemm", "MatMul")


def convert_precision(
    network: "onnx.ModelProto", precision: str, tuning: np.ndarray, noise: Optional[ReplayNoise] = None
) -> "onnx.ModelProto":
    """The lowered float32 graph in another precision; `frame`, `noise` and `logits` keep their types.

    Args:
        network: from `lower`, with nodes named after their layers.
        precision: one of `PRECISIONS`.
        tuning: frames [n, ...] from which int8 ranges are taken; never calibration frames (calibration/README.md, "Conditions").
        noise: guarded tier: of the tuning frames.

    Raises:
        ExportError: the network cannot be converted.
    """
    if precision == "fp32":
        return network
    try:
        with _quiet():
            parts = split_preprocessing(network)
            fp16 = precision == "fp16"
            converted = _to_fp16(parts.network) if fp16 else _to_int8(parts, tuning, noise)
            whole = _joined(parts.preprocessing, converted)
    except ExportError:
        raise
    except Exception as error:  # the converters raise whatever they meet
        raise ExportError(
            f"{precision}: the network cannot be converted: {type(error).__name__}: {error}"
        ) from error
    return clean_model(whole)


@dataclass(frozen=True)
class Parts:
    """A graph cut where preprocessing hands the float32 tensor x to the network."""

    preprocessing: "onnx.ModelProto"
    network: "onnx.ModelProto"


def split_preprocessing(model: "onnx.ModelProto") -> Parts:
    """Cut a lowered graph in two.

    Raises:
        ExportError: preprocessing and network share more or fewer tensors than one.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    inside = [node for node in inferred.graph.node if node.name.split("/")[0] == PREPROCESS_LAYER]
    made = {name for node in inside for name in node.output}
    outside = [node for node in inferred.graph.node if node.name.split("/")[0] != PREPROCESS_LAYER]
    border = sorted(made & {name for node in outside for name in node.input})
    if len(border) != 1:
        raise ExportError(
            f"preprocessing hands the network {border or 'nothing'}, expected one tensor; export in fp32"
        )
    extractor = onnx.utils.Extractor(inferred)
    return Parts(
        extractor.extract_model([tensor.name for tensor in model.graph.input], border),
        extractor.extract_model(border, [output.name for output in model.graph.output]),
    )


def _joined(preprocessing: "onnx.ModelProto", network: "onnx.ModelProto") -> "onnx.ModelProto":
    import onnx

    border = network.graph.input[0].name
    prefixed = onnx.compose.add_prefix(preprocessing, f"{PREPROCESS_LAYER}.", rename_nodes=False)
    _sort_nodes(network)
    whole = onnx.compose.merge_models(prefixed, network, io_map=[(prefixed.graph.output[0].name, border)])
    for tensor in [*whole.graph.input, *whole.graph.output]:
        _rename(whole, tensor.name, tensor.name.removeprefix(f"{PREPROCESS_LAYER}."))
    return whole


def _rename(model: "onnx.ModelProto", old: str, new: str) -> None:
    for tensor in [*model.graph.input, *model.graph.output]:
        tensor.name = new if tensor.name == old else tensor.name
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _sort_nodes(model: "onnx.ModelProto") -> None:
    """Put every node behind those it reads from, which ONNX asks for and the float16 converter forgets."""
    made = {name for node in model.graph.node for name in node.output}
    waiting, ready = list(model.graph.node), []
    while waiting:
        free = [node for node in waiting if not made.intersection(node.input)]
        if not free:
            raise ExportError("the converted graph has a cycle")
        waiting = [node for node in waiting if made.intersection(node.input)]
        made -= {name for node in free for name in node.output}
        ready += free
    del model.graph.node[:]
    model.graph.node.extend(ready)


def _to_fp16(network: "onnx.ModelProto") -> "onnx.ModelProto":
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # keep_io_types leaves x and logits in float32, so all before and behind the network stays in float32.
    converted: onnx.ModelProto = convert_float_to_float16(network, keep_io_types=True)
    return converted


def _to_int8(parts: Parts, tuning: np.ndarray, noise: Optional[ReplayNoise]) -> "onnx.ModelProto":
    """Symmetric int8, per-channel weights, float32 bias: the settings that TensorRT's parser accepts.

    Logits are not quantised: 256 levels of a logit would squeeze the confidence that the radius is made of.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="rrise-int8-") as folder:
        target = Path(folder) / "int8.onnx"
        quantize_static(
            parts.network,
            str(target),
            _Reader(parts, tuning, noise),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(QUANTISED),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
            },
        )
        return onnx.load(target)


class _Reader:
    """Feeds preprocessed tuning frames to ONNX Runtime's range finder, in batches of the graph's size."""

    def __init__(self, parts: Parts, frames: np.ndarray, noise: Optional[ReplayNoise]) -> None:
        from onnxruntime import InferenceSession

        batch = _batch_size(parts.preprocessing)
        if len(frames) < batch:
            raise ExportError(
                f"int8: got {len(frames)} tuning frames, expected at least one batch of {batch}"
            )
        session = InferenceSession(
            parts.preprocessing.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        name = parts.network.graph.input[0].name

        def inputs(start: int) -> Dict[str, np.ndarray]:
            part = np.ascontiguousarray(frames[start : start + batch])
            return {FRAME: part} if noise is None else {FRAME: part, NOISE: noise.of(part)}

        self._batches = (
            {name: session.run(None, inputs(start))[0]} for start in range(0, len(frames) - batch + 1, batch)
        )

    def get_next(self) -> Optional[Dict[str, np.ndarray]]:
        return next(self._batches, None)


def _batch_size(model: "onnx.ModelProto") -> int:
    return int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


@contextmanager
def _quiet() -> Iterator[None]:
    """The converters log advice about other tools of theirs on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
