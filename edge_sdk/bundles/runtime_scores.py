"""Scores of a set of references on one execution: the table from which offsets are calibrated and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, List, Optional, Union

import numpy as np

from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores
from rrise.deprecations import older_names
from rrise.edge_sdk.errors import EdgeError, FrameError, RuntimeFault
from rrise.edge_sdk.formats.contract import same_float32
from rrise.edge_sdk.formats.noise import ReplayNoise
from rrise.edge_sdk.runtime.base import Outputs, Runtime

Noise = Union[np.ndarray, ReplayNoise, None]
"""Guarded tier: float32 [n, C, h, w], or the recorded draws; None is one fresh draw for each frame."""


def score_runtime(
    runtime: Runtime,
    references: References,
    *,
    noise: Noise = None,
    advance: Optional[Callable[[int], None]] = None,
) -> Scores:
    """Run every reference frame through a runtime.

    Args:
        runtime: the execution to be calibrated or checked.
        references: frames uint8 [n, H, W, C] with their Monte Carlo counts.
        noise: guarded tier: recorded draws for scores that are to be replayed; by default one fresh draw per frame.
        advance: called with the number of frames done since the last call.

    Returns:
        One row per frame, in the order of the references.

    Raises:
        EdgeError: the references were drawn at another sigma than the graph's.
        FrameError: the frames have another shape or type than the graph's input.
        RuntimeFault: the runtime failed, or gave a probit that is not finite.
    """
    if not same_float32([runtime.graph.sigma], [references.sigma]):
        raise EdgeError(
            f"references: drawn at sigma {references.sigma}, but the graph's is {runtime.graph.sigma};"
            " use the references of the workspace that the bundle was exported from"
        )
    outputs = run_all(runtime, references.frames, noise=noise, advance=advance)
    if not np.isfinite(outputs.probit).all():
        raise RuntimeFault(
            f"{int((~np.isfinite(outputs.probit)).sum())} of {len(outputs.probit)} frames gave a probit that is not finite;"
            " check the surrogate's weights, or choose another precision"
        )
    return references.scores(outputs.label, outputs.probit, outputs.difficulty, runtime.execution)


def run_all(
    runtime: Runtime,
    frames: np.ndarray,
    *,
    noise: Noise = None,
    advance: Optional[Callable[[int], None]] = None,
) -> Outputs:
    """Every output for any number of frames [n, ...], n >= 1; the last batch is filled up with its last frame.

    noise: guarded tier, as for `score_runtime`. A plain pass takes none.
    """
    signature = runtime.graph.signature
    if frames.dtype != signature.dtype or frames.shape[1:] != signature.frame_shape or not len(frames):
        raise FrameError(
            f"frames: got {frames.dtype} {frames.shape}, expected {signature.dtype} [n >= 1, "
            f"{', '.join(map(str, signature.frame_shape))}]"
        )
    parts: List[Outputs] = []
    for start in range(0, len(frames), signature.batch_size):
        part = frames[start : start + signature.batch_size]
        batch = padded(part, signature.batch_size)
        if noise is None:
            parts.append(runtime.run(batch))
        elif isinstance(noise, ReplayNoise):
            parts.append(runtime.run(batch, noise.of(batch)))
        else:
            drawn = padded(noise[start : start + signature.batch_size], signature.batch_size)
            parts.append(runtime.run(batch, drawn))
        if advance is not None:
            advance(len(part))
    difficulty = None
    if signature.difficulty:
        difficulty = np.concatenate([np.asarray(part.difficulty) for part in parts])[: len(frames)]
    label, radius, probit = (
        np.concatenate([getattr(part, name) for part in parts])[: len(frames)]
        for name in ("label", "radius", "probit")
    )
    return Outputs(label, radius, probit, difficulty)


def padded(frames: np.ndarray, size: int) -> np.ndarray:
    """At most `size` frames as one contiguous batch of exactly that size, filled up with the last frame."""
    missing = [frames[-1:]] * (size - len(frames))
    return np.ascontiguousarray(np.concatenate([frames, *missing]) if missing else frames)


if not TYPE_CHECKING:
    __getattr__ = older_names(__name__, {"score": "score_runtime"})
