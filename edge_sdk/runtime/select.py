"""Which runtime runs an artefact on this machine, and why."""

from __future__ import annotations

from typing import Optional

from edge_sdk.bundle import Bundle
from edge_sdk.errors import RuntimeUnavailable
from edge_sdk.runtime.base import Runtime


def load_runtime(
    bundle: Bundle, artefact: str, *, runtime: str = "auto", provider: Optional[str] = None, threads: int = 1
) -> Runtime:
    """Load an artefact of a bundle.

    Args:
        runtime: "onnxruntime", or "auto".
        provider: of ONNX Runtime; by default the one that the artefact was calibrated on, else "cpu".

    Raises:
        RuntimeUnavailable: unknown, not installed, or not working on this machine.
    """
    if runtime not in ("auto", "onnxruntime"):
        raise RuntimeUnavailable(f"runtime: got {runtime!r}, expected auto or onnxruntime")
    from edge_sdk.runtime.onnxruntime import OnnxRuntime

    return OnnxRuntime.load(bundle.model(artefact), provider=provider or "cpu", threads=threads)
