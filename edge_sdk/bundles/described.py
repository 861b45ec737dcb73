"""What is said to people about what a bundle carries beside the surrogate: copies in its graph, and the base classifier."""

from __future__ import annotations

from typing import List, Optional, Tuple

from rrise.edge_sdk.formats.bundled_base import BundledBase, EngineDifference
from rrise.edge_sdk.formats.manifest import Manifest


def base_sentence(digest: str, base: Optional[BundledBase]) -> str:
    """Whether the base classifier of that digest travels in the bundle, its size, and who counted it."""
    if base is None:
        return (
            f"{digest[:16]}, not in the bundle, so nothing can be confirmed here"
            " (`rrise-export onnx WORKSPACE --with-base`)"
        )
    counted = base.engine or "an engine that is not recorded"
    return f"{digest[:16]}, in the bundle as {base.file}, {base.size:,} bytes; counted by {counted}"


def copies_rows(copies: int) -> List[Tuple[str, str]]:
    """One row where the graph asks about noisy copies of the frame; none for a surrogate alone."""
    if not copies:
        return []
    return [
        (
            "copies",
            f"{copies}: beside the surrogate the graph asks the base classifier about {copies} noisy"
            f" {'copy' if copies == 1 else 'copies'} of the frame, in the same pass and with noise that is fixed in it",
        )
    ]


def base_rows(manifest: Manifest, here: EngineDifference) -> List[Tuple[str, str]]:
    """Rows for `info`. here: between the engine of this machine and the one that counted."""
    rows = [("base classifier", base_sentence(manifest.base_digest, manifest.base))]
    return rows + ([("base engine here", here.sentence)] if manifest.base is not None else [])
