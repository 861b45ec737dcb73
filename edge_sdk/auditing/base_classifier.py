"""The base classifier of an audit: read once, and held against the digest that the bundle's references were drawn with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from rrise.calibration.storage.digests import PathLike
from rrise.calibration.storage.files import parse_json
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.errors import BundleError, EdgeError
from rrise.edge_sdk.runtime.onnx_file import read_metadata

METADATA_KEY = "rrise"
"""Where `rrise-train` describes a network in the header of its safetensors file."""
BASE_ENTRY = "rrise.base"
_HEADER_LIMIT = 16 << 20


@dataclass(frozen=True)
class BaseModel:
    """A base classifier as ONNX. `data` is what was checked and what is run, whatever happens to the file.

    proof: in words, why it is the bundle's, or that it was accepted without proof.
    """

    data: bytes
    digest: str
    proven: bool
    proof: str

    @classmethod
    def bundled(cls, bundle: Bundle) -> "BaseModel":
        """The base classifier that the bundle carries: its digest is the bundle's base digest, which `Bundle.open` checked.

        Raises:
            BundleError: the bundle carries none (`rrise-export onnx --with-base`), or its file was changed.
        """
        return cls(
            bundle.base_model(),
            bundle.manifest.base_digest,
            True,
            "it lies in the bundle, with its base_digest",
        )

    @classmethod
    def load(
        cls,
        path: PathLike,
        bundle: Bundle,
        *,
        record: Optional[PathLike] = None,
        accept: Optional[str] = None,
    ) -> "BaseModel":
        """Read the file and find out whether it is the classifier that the bundle's guarantee speaks of.

        It is, where its SHA-256 is the bundle's `base_digest`; or where `record`, the workspace's base.safetensors,
        has that digest and names this ONNX file by its own. A network that was trained in PyTorch and converted later
        has another digest than its weights, and nothing in a file proves that both compute the same: it must be
        accepted by its SHA-256, which says that the caller has compared them.

        Args:
            record: the workspace's base.safetensors, for a base classifier that was an ONNX file from the beginning.
            accept: SHA-256 of an ONNX file that is accepted without proof.

        Raises:
            BundleError: neither proven nor accepted, or the file says of itself that it is another classifier's.
            EdgeError: a file cannot be read.
        """
        data = _read(Path(path))
        digest, wanted = hashlib.sha256(data).hexdigest(), bundle.manifest.base_digest
        if digest == wanted:
            return cls(data, digest, True, "its digest is the bundle's base_digest")
        claimed = read_metadata(data).get(BASE_ENTRY)
        if claimed is not None and claimed != wanted:
            raise BundleError(
                f"{path}: says it was made from base classifier {claimed[:12]}, expected {wanted[:12]}; take the base"
                " classifier that this bundle's references were drawn with"
            )
        if record is not None and _named_onnx(Path(record), wanted) == digest:
            return cls(data, digest, True, f"{Path(record).name} has the bundle's base_digest and names it")
        if accept is not None and accept.strip().lower() == digest:
            return cls(data, digest, False, "accepted by the caller, not proven to be the bundle's")
        raise BundleError(
            f"{path}: got SHA-256 {digest}, expected the bundle's base classifier {wanted}; pass the workspace's"
            " base.safetensors as the base record if it names this file, or compare the two classifiers yourself and"
            f" accept this file by its digest {digest}"
        )


def _named_onnx(record: Path, wanted: str) -> str:
    """The digest of the ONNX file that a base record names. Raises: BundleError, EdgeError."""
    data = _read(record)
    if hashlib.sha256(data).hexdigest() != wanted:
        raise BundleError(
            f"{record}: is not the bundle's base classifier, expected SHA-256 {wanted}; take base.safetensors from the"
            " workspace that the bundle was exported from"
        )
    try:
        size = int.from_bytes(data[:8], "little")
        if size > _HEADER_LIMIT:
            raise ValueError("header too long")
        header = parse_json(data[8 : 8 + size])["__metadata__"][METADATA_KEY]
        spec: Any = parse_json(header, finite=False)["spec"]
        return str(spec["sha256"]) if spec["kind"] == "onnx" else ""
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{record}: not a base classifier of rrise-train ({error!r})") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EdgeError(f"{path}: cannot be read ({error}); expected the base classifier") from error
