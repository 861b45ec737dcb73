"""The manifest of a bundle: what it holds, what it was made from, and the digest of every file."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.storage.digests import PathLike, json_digest
from rrise.calibration.storage.formats import check_format
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.bundled_base import BundledBase
from rrise.edge_sdk.formats.contract import ENCODINGS
from rrise.edge_sdk.formats.noise import ReplayNoise
from rrise.edge_sdk.formats.sealed import read_sealed, write_sealed

FORMAT = "rrise-bundle"
VERSION = 1
AGAIN = "export the workspace again: rrise-export onnx WORKSPACE"
DEVICE_FOLDER = "device"  # beside the manifest, outside what is released: what this device made
MANIFEST_FILE = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class InputSpec:
    """The `frame` tensor: dtype "uint8" or "float32", shape with batch, layout "NHWC" or "NCHW", and encoding."""

    dtype: str
    shape: Tuple[int, ...]
    layout: str
    encoding: str

    def __post_init__(self) -> None:
        layout = {"uint8": "NHWC", "float32": "NCHW"}.get(self.dtype)
        if (
            self.layout != layout
            or len(self.shape) != 4
            or min(self.shape) < 1
            or self.encoding not in ENCODINGS
        ):
            raise BundleError(
                f"manifest input: got {self.dtype} {list(self.shape)} {self.layout} {self.encoding}, expected uint8 NHWC or"
                f" float32 NCHW with four fixed sides and an encoding of {', '.join(ENCODINGS)}"
            )

    @property
    def frame_shape(self) -> Tuple[int, ...]:
        """Shape of one frame, without the batch."""
        return self.shape[1:]


@dataclass(frozen=True)
class Artefact:
    """One graph of a bundle.

    Attributes:
        file: path within the bundle.
        sha256: of that file.
        calibration: path of its calibration record within the bundle, or None: it then never issues a certificate.
    """

    file: str
    sha256: str
    calibration: Optional[str]


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says; `export` writes with it and the SDK reads with it.

    Attributes:
        sigma: noise standard deviation, [0, 1] pixel units.
        class_names: in the order of the labels.
        input: the `frame` tensor.
        preprocessing: as the trainer wrote it; "operator_norm" is an upper bound of the L2 norm of the linear map
            from frame / 255 to the network's input, and absent or null where none is known.
        base_digest, surrogate_digest: SHA-256 of the two weight files.
        splits: name -> combined digest of the frames.
        artefacts: name ("fp32", ...) -> graph.
        probe: path of the probe file.
        recorded: artefact name -> path of its scores on the verification frames.
        frame_rate: frames per second for which expected wrong certificates are stated.
        versions: name -> version of what made the bundle.
        files: path -> SHA-256 of every file of the bundle, this manifest and `device/` excepted.
        guard: of the guarded tier, whose graphs take `noise`; None for a plain pass.
        replay: seed of the noise that recorded frames were scored with (`ReplayNoise`); empty for a plain pass.
        references: split -> digests of the pack that the bundle was made with, "frames" and "content"; empty in bundles
            of before they were kept.
        base: the base classifier, where it travels in the bundle; None in others, and in bundles of before.
        copies: noisy copies of the frame that the graph asks the base classifier about, beside the surrogate and in the same
            pass; 0 = the surrogate alone, and in bundles of before.
    """

    sigma: float
    class_names: Tuple[str, ...]
    input: InputSpec
    preprocessing: Mapping[str, Any]
    base_digest: str
    surrogate_digest: str
    splits: Mapping[str, str]
    artefacts: Mapping[str, Artefact]
    probe: str
    recorded: Mapping[str, str]
    frame_rate: float
    versions: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    guard: Optional[Guard] = None
    replay: str = ""
    references: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    base: Optional[BundledBase] = None
    copies: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0 and math.isfinite(self.frame_rate)):
            raise BundleError(
                f"manifest: got sigma {self.sigma} and frame rate {self.frame_rate}, expected a positive and a finite number;"
                " export the bundle again"
            )
        odd = [name for name in self.artefacts if not _NAME.fullmatch(name)]
        if odd:
            raise BundleError(
                f"manifest artefacts: got the name {odd[0]!r}, expected letters, digits, '.', '_' and '-' as in fp32, since"
                " files of a device are named after it; export the bundle again"
            )
        if self.copies < 0:
            raise BundleError(
                f"manifest copies: got {self.copies}, expected a number from 0 on; export the bundle again"
            )
        if (self.guard is None) != (self.replay == ""):
            raise BundleError(
                f"manifest guard: got {self.guard} with replay seed {self.replay!r}, expected both or neither; export the"
                " bundle again"
            )

    def replay_noise(self) -> Optional[ReplayNoise]:
        """The noise that calibration, verification and probe frames were scored with; None for a plain pass.

        Raises:
            BundleError: the preprocessing does not say which shape it has.
        """
        if self.guard is None:
            return None
        size = self.preprocessing.get("size")
        if not (isinstance(size, (list, tuple)) and len(size) == 2 and self.input.dtype == "uint8"):
            raise BundleError(
                f"manifest preprocessing: got size {size!r} and {self.input.dtype} frames in the guarded tier, expected"
                " [height, width] and uint8; export the bundle again"
            )
        return ReplayNoise(self.guard.noise, self.replay, (self.input.shape[3], int(size[0]), int(size[1])))

    @property
    def digest(self) -> str:
        """The name of this release: everything a device adds refers to it."""
        return json_digest(self.to_json())

    def to_json(self) -> Dict[str, Any]:
        value: Dict[str, Any] = {"format": FORMAT, "version": VERSION, "sigma": self.sigma}
        value["class_names"] = list(self.class_names)
        value["input"] = dict(asdict(self.input), shape=list(self.input.shape))
        value["artefacts"] = {name: asdict(artefact) for name, artefact in self.artefacts.items()}
        for name in ("preprocessing", "splits", "recorded", "versions", "files"):
            value[name] = dict(getattr(self, name))
        for name in ("base_digest", "surrogate_digest", "probe", "frame_rate"):
            value[name] = getattr(self, name)
        if self.references:
            value["references"] = {split: dict(digests) for split, digests in self.references.items()}
        if self.base is not None:
            value["base"] = self.base.to_json()
        if self.copies:
            value["copies"] = self.copies
        if self.guard is not None:
            value["guard"] = {**self.guard.to_json(), "replay": self.replay}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Manifest":
        """Raises: BundleError: another format or version, or a missing or malformed entry."""
        check_format("manifest", value.get("format"), (FORMAT,), AGAIN, BundleError)
        check_format("manifest", value.get("version"), (VERSION,), AGAIN, BundleError)
        try:
            guard = value.get("guard")
            return cls(
                guard=None if guard is None else Guard.from_json(guard),
                replay="" if guard is None else str(guard["replay"]),
                sigma=float(value["sigma"]),
                class_names=tuple(str(name) for name in value["class_names"]),
                input=InputSpec(
                    **dict(value["input"], shape=tuple(int(side) for side in value["input"]["shape"]))
                ),
                preprocessing=dict(value["preprocessing"]),
                base_digest=str(value["base_digest"]),
                surrogate_digest=str(value["surrogate_digest"]),
                splits=dict(value["splits"]),
                artefacts={str(name): Artefact(**entry) for name, entry in value["artefacts"].items()},
                probe=str(value["probe"]),
                recorded=dict(value["recorded"]),
                frame_rate=float(value["frame_rate"]),
                versions=dict(value["versions"]),
                files=dict(value["files"]),
                base=BundledBase.from_json(value.get("base")),
                copies=int(value.get("copies", 0)),
                references={
                    str(split): dict(digests) for split, digests in value.get("references", {}).items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError, CalibrationError) as error:
            raise BundleError(
                f"manifest: {type(error).__name__}: {error}; export the bundle again"
            ) from error

    def save(self, path: PathLike) -> None:
        """Write the manifest, sealed and atomically."""
        write_sealed(path, self.to_json())

    @classmethod
    def load(cls, path: PathLike, *, data: Optional[bytes] = None) -> "Manifest":
        """Read a manifest; data: its bytes where they were read before.

        Raises:
            BundleError: missing, changed by as little as a byte, or malformed.
        """
        return cls.from_json(read_sealed(path, "manifest", data=data))
