"""The base classifier as ONNX, opened: what answers batches, its batch size, and which engine that is."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Callable, Optional, Tuple

import numpy as np

from rrise.edge_sdk.errors import EdgeError, RuntimeUnavailable
from rrise.edge_sdk.formats.bundled_base import EngineDifference, unknown_difference
from rrise.edge_sdk.formats.manifest import Manifest


@dataclass(frozen=True)
class OpenBase:
    """A base classifier that is ready to answer.

    classify: float32 [B, C, h, w] -> logits [B, K] or labels [B]; may be called from several threads. fixed: the B that
    the file insists on, or None. engine: see `engine_name`.
    """

    classify: Callable[[np.ndarray], np.ndarray]
    fixed: Optional[int]
    engine: str


def engine_name(provider: str) -> str:
    """ONNX Runtime with this provider as a targets store names an engine: "onnxruntime 1.30.0 float32 cpu x86_64".

    A GPU is not named, so that no engine that was compared on a server passes for the one on this GPU.

    Raises:
        RuntimeUnavailable: onnxruntime is not installed.
    """
    from rrise.edge_sdk.runtime.onnxruntime import import_onnxruntime

    place = f"cpu {platform.machine()}" if provider == "cpu" else f"{provider} of this machine"
    return f"onnxruntime {import_onnxruntime().__version__} float32 {place}"


def base_difference(manifest: Manifest, provider: str = "cpu") -> EngineDifference:
    """Between the engine of this machine and the one that counted the references, as far as the bundle knows."""
    try:
        engine, base = engine_name(provider), manifest.base
    except RuntimeUnavailable:
        engine, base = "onnxruntime, which is not installed here,", manifest.base
    return unknown_difference("", engine) if base is None else base.difference(engine)


def open_base(
    model: bytes, provider: str, input_shape: Tuple[int, int, int], classes: int, *, threads: int = 1
) -> OpenBase:
    """Open the base classifier and ask it once.

    Raises:
        EdgeError: it takes or gives something else. BundleError, RuntimeUnavailable: it cannot be loaded.
    """
    from rrise.edge_sdk.runtime.onnxruntime import open_session

    session = open_session(model, provider, threads, {})
    inputs, outputs = session.get_inputs(), session.get_outputs()
    got = [f"{one.name} {one.type} {one.shape}" for one in inputs]
    fits = len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(inputs[0].shape) == 4
    if not fits or not all(
        not isinstance(side, int) or side == wanted for side, wanted in zip(inputs[0].shape[1:], input_shape)
    ):
        raise EdgeError(
            f"audit: the base classifier takes {got}, expected one float32 [batch, {', '.join(map(str, input_shape))}]"
        )
    fixed = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else None
    name, output = inputs[0].name, outputs[0].name

    def classify(x: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([output], {name: x})[0])

    try:
        answer = classify(np.zeros((fixed or 1, *input_shape), np.float32))
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise EdgeError(f"audit: the base classifier fails on a black frame ({error})") from error
    if answer.ndim == 2 and answer.shape[1] != classes:
        raise EdgeError(
            f"audit: the base classifier has {answer.shape[1]} classes, the bundle {classes}; take the bundle's own"
        )
    return OpenBase(classify, fixed, engine_name(provider))


def labels_from_output(output: np.ndarray, batch_size: int) -> np.ndarray:
    """Labels int [batch_size] from what a base classifier returned: logits [batch_size, K], or labels. Raises: EdgeError."""
    values = np.asarray(output)
    if values.ndim == 1 and values.dtype.kind in "iu" and len(values) == batch_size:
        return values
    if values.ndim != 2 or len(values) != batch_size:
        raise EdgeError(
            f"verify: the base classifier returned {values.dtype} {list(values.shape)}, expected logits "
            f"[{batch_size}, K] or labels [{batch_size}]"
        )
    if np.isnan(values).any():
        raise EdgeError(
            "verify: the base classifier returned NaN; check its weights and its input range [0, 1]"
        )
    return np.asarray(values.argmax(axis=1))
