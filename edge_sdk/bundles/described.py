"""What is said to people about the base classifier in a bundle."""

from __future__ import annotations

from typing import List, Tuple

from rrise.edge_sdk.formats.bundled_base import EngineDifference
from rrise.edge_sdk.formats.manifest import Manifest


def base_sentence(manifest: Manifest) -> str:
    """Whether it travels in the bundle, its size and digest, and who counted it."""
    base = manifest.base
    if base is None:
        return (
            f"{manifest.base_digest[:16]}, not in the bundle, so nothing can be confirmed here"
            " (`rrise-export onnx WORKSPACE --with-base`)"
        )
    counted = base.engine or "an engine that is not recorded"
    return f"{manifest.base_digest[:16]}, in the bundle as {base.file}, {base.size:,} bytes; counted by {counted}"


def base_rows(manifest: Manifest, here: EngineDifference) -> List[Tuple[str, str]]:
    """Rows for `info`. here: between the engine of this machine and the one that counted."""
    rows = [("base classifier", base_sentence(manifest))]
    return rows + ([("base engine here", here.sentence)] if manifest.base is not None else rows[1:])
