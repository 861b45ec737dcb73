"""ONNX contract, version 1: which tensors and which metadata a certifying graph has.

A graph of the guarded tier has a second input: `noise` float32 [B, C, h, w], in 8-bit pixel levels, of the shape that
frames have after crop and resize. Whoever runs the graph draws it anew for every frame from N(0, (255 s)^2), rounded to
multiples of 2^-10, with a generator seeded by the operating system: `edge_sdk.formats.noise.FreshNoise`. rho and s are in the
metadata; a graph that has the tensor and not the metadata, or the other way round, is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.storage.digests import json_digest
from rrise.calibration.storage.files import parse_json
from rrise.edge_sdk.errors import BundleError

CONTRACT_VERSION = 1

FRAME = "frame"
NOISE = "noise"
LABEL = "label"
RADIUS = "radius"
PROBIT = "probit"
DIFFICULTY = "difficulty"
OFFSET = "offset"
SIGMA = "sigma"

ENCODINGS = ("rgb8", "bgr8", "mono8", "float32")
"""How the `frame` tensor codes colour: uint8 in RGB or BGR order, uint8 grey, or float32 in [0, 1] (NCHW)."""

_REQUIRED_OUTPUTS = {
    LABEL: "int64",
    RADIUS: "float32",
    PROBIT: "float32",
    OFFSET: "float32",
    SIGMA: "float32",
}
_REEXPORT = "export the bundle again with `rrise-export onnx`"


@dataclass(frozen=True)
class TensorInfo:
    """Name, numpy dtype name and shape of a graph's input or output; an unknown side is None."""

    name: str
    dtype: str
    shape: Tuple[Optional[int], ...]


@dataclass(frozen=True)
class GraphSignature:
    """What a graph that keeps the contract takes and gives.

    Attributes:
        batch_size: B, fixed.
        frame_shape: of one frame: (H, W, C) for uint8, (C, H, W) for float32.
        dtype: "uint8" or "float32".
        difficulty: whether there is a `difficulty` output.
        noise_shape: (B, C, h, w) of the `noise` input of the guarded tier; None for a plain pass.
    """

    batch_size: int
    frame_shape: Tuple[int, ...]
    dtype: str
    difficulty: bool
    noise_shape: Optional[Tuple[int, ...]] = None


def check_signature(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> GraphSignature:
    """Check a graph's tensors against the contract.

    Raises:
        BundleError: a tensor is missing, unknown, of another type, or its shape is not fixed.
    """
    given = {tensor.name: tensor for tensor in inputs}
    if FRAME not in given or len(given) != len(inputs) or not set(given) <= {FRAME, NOISE}:
        raise BundleError(
            f"graph inputs: got {[tensor.name for tensor in inputs]}, expected ['{FRAME}'], or ['{FRAME}', '{NOISE}'] in the"
            f" guarded tier (contract {CONTRACT_VERSION}); {_REEXPORT}"
        )
    batch_size, frame_shape, dtype = _frame_tensor(given[FRAME])
    noise_shape = _noise_tensor(given[NOISE], batch_size, frame_shape, dtype) if NOISE in given else None
    found = {tensor.name: tensor for tensor in outputs}
    for name, wanted in _REQUIRED_OUTPUTS.items():
        if name not in found:
            raise BundleError(f"graph outputs: got {sorted(found)}, expected also '{name}'; {_REEXPORT}")
        if found[name].dtype != wanted:
            raise BundleError(
                f"graph output '{name}': got {found[name].dtype}, expected {wanted}; {_REEXPORT}"
            )
    per_frame = [LABEL, RADIUS, PROBIT] + ([DIFFICULTY] if DIFFICULTY in found else [])
    for name in per_frame:
        if found[name].shape != (batch_size,):
            raise BundleError(
                f"graph output '{name}': got shape {found[name].shape}, expected ({batch_size},); {_REEXPORT}"
            )
    if DIFFICULTY in found and found[DIFFICULTY].dtype != "float32":
        raise BundleError(
            f"graph output '{DIFFICULTY}': got {found[DIFFICULTY].dtype}, expected float32; {_REEXPORT}"
        )
    return GraphSignature(batch_size, frame_shape, dtype, DIFFICULTY in found, noise_shape)


def _frame_tensor(tensor: TensorInfo) -> Tuple[int, Tuple[int, ...], str]:
    sides = [side for side in tensor.shape if side is not None and side > 0]
    channels = {"uint8": 3, "float32": 1}.get(tensor.dtype)
    if channels is None or len(sides) != 4 or len(tensor.shape) != 4 or sides[channels] not in (1, 3):
        raise BundleError(
            f"graph input '{FRAME}': got {tensor.dtype} {list(tensor.shape)}, expected uint8 [B, H, W, 3 or 1] or"
            f" float32 [B, 3 or 1, H, W] with every side fixed; {_REEXPORT}"
        )
    return sides[0], tuple(sides[1:]), tensor.dtype


def _noise_tensor(
    tensor: TensorInfo, batch_size: int, frame_shape: Tuple[int, ...], frame_dtype: str
) -> Tuple[int, ...]:
    sides = [side for side in tensor.shape if side is not None and side > 0]
    # Float frames are on no grid, so that their float32 sum with the noise would not be a function of the sum.
    fits = tensor.dtype == "float32" and frame_dtype == "uint8" and len(sides) == len(tensor.shape) == 4
    if not fits or (sides[0], sides[1]) != (batch_size, frame_shape[-1]):
        raise BundleError(
            f"graph input '{NOISE}': got {tensor.dtype} {list(tensor.shape)} beside {frame_dtype} frames, expected float32"
            f" [{batch_size}, {frame_shape[-1]}, h, w] with every side fixed, beside uint8 frames; {_REEXPORT}"
        )
    return tuple(sides)


@dataclass(frozen=True)
class GraphMetadata:
    """The text that a certifying graph carries in `metadata_props`, under keys that begin with "rrise.".

    Attributes:
        sigma: noise standard deviation in [0, 1] pixel units, as float32.
        offset: what the graph subtracts, as float32 values: one, or one per class.
        calibration: `Calibration.binding()` of the record that the offset comes from; empty while uncalibrated.
        base_digest: of the base classifier.
        class_names: in the order of the labels.
        encoding: one of `ENCODINGS`.
        preprocessing: `json_digest` of the manifest's preprocessing.
        guard: of the guarded tier; None for a plain pass.
    """

    sigma: float
    offset: Tuple[float, ...]
    calibration: str
    base_digest: str
    class_names: Tuple[str, ...]
    encoding: str
    preprocessing: str
    guard: Optional[Guard] = None

    def to_text(self) -> Dict[str, str]:
        """The key-value pairs to store in the graph."""
        guard = (
            {} if self.guard is None else {"rrise.guard": json.dumps(self.guard.to_json(), sort_keys=True)}
        )
        return {
            **guard,
            "rrise.contract": str(CONTRACT_VERSION),
            "rrise.sigma": repr(float(np.float32(self.sigma))),
            "rrise.offset": json.dumps([float(np.float32(value)) for value in self.offset]),
            "rrise.calibration": self.calibration,
            "rrise.base": self.base_digest,
            "rrise.classes": json.dumps(list(self.class_names)),
            "rrise.encoding": self.encoding,
            "rrise.preprocessing": self.preprocessing,
        }

    @classmethod
    def from_text(cls, text: Mapping[str, str]) -> "GraphMetadata":
        """Read the pairs back.

        Raises:
            BundleError: a key is missing (several ONNX tools drop metadata silently), unreadable or of another contract.
        """
        try:
            version = text["rrise.contract"]
            if version != str(CONTRACT_VERSION):
                raise BundleError(
                    f"graph metadata: got contract {version}, expected {CONTRACT_VERSION}; install the rrise version"
                    f" that wrote the bundle, or {_REEXPORT}"
                )
            return cls(
                sigma=float(text["rrise.sigma"]),
                offset=tuple(float(value) for value in parse_json(text["rrise.offset"], finite=False)),
                calibration=text["rrise.calibration"],
                base_digest=text["rrise.base"],
                class_names=tuple(str(name) for name in parse_json(text["rrise.classes"])),
                encoding=text["rrise.encoding"],
                preprocessing=text["rrise.preprocessing"],
                guard=Guard.from_json(parse_json(text["rrise.guard"])) if "rrise.guard" in text else None,
            )
        except KeyError as error:
            raise BundleError(
                f"graph metadata: {error} is missing; a tool that rewrote the ONNX file probably dropped it; {_REEXPORT}"
            ) from error
        except (TypeError, ValueError, CalibrationError) as error:
            raise BundleError(f"graph metadata: unreadable ({error}); {_REEXPORT}") from error


def guard_of(signature: GraphSignature, metadata: Mapping[str, str]) -> Optional[Guard]:
    """What a graph says that its noise is drawn against; None for a plain pass.

    Raises:
        BundleError: the graph takes noise and its metadata does not say which, or the other way round.
    """
    told = "rrise.guard" in metadata
    if told != (signature.noise_shape is not None):
        got = "no input 'noise' but a guard" if told else "an input 'noise' but no guard"
        raise BundleError(
            f"graph: got {got} in the metadata, expected both (guarded tier) or neither; {_REEXPORT}"
        )
    return GraphMetadata.from_text(metadata).guard if told else None


def same_float32(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether two lists of numbers are the same float32 values, bit for bit (NaN equals nothing)."""
    mine, theirs = np.asarray(left, np.float32).ravel(), np.asarray(right, np.float32).ravel()
    return mine.shape == theirs.shape and bool(np.isfinite(mine).all()) and mine.tobytes() == theirs.tobytes()


def preprocessing_digest(preprocessing: Mapping[str, object]) -> str:
    """Digest of the manifest's preprocessing record, as the graph carries it."""
    return json_digest(dict(preprocessing))
