"""Which runtimes can run an artefact on this machine, in the order of preference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Callable, List, Optional

from rrise.deprecations import older_names
from rrise.edge_sdk.errors import RuntimeUnavailable
from rrise.edge_sdk.runtime.base import Runtime

if TYPE_CHECKING:
    from rrise.edge_sdk.bundles.bundle import Bundle

RUNTIMES = ("auto", "onnxruntime", "tensorrt")


@dataclass(frozen=True)
class RuntimeCandidate:
    """A runtime that may be tried: its name for people, and how to load it (raises RuntimeUnavailable)."""

    name: str
    load: Callable[[], Runtime]


def candidates(
    bundle: Bundle, artefact: str, *, runtime: str = "auto", provider: Optional[str] = None, threads: int = 1
) -> List[RuntimeCandidate]:
    """What to try, best first: an engine built on this device, ONNX Runtime on a GPU, ONNX Runtime on the processor.

    Args:
        runtime: "onnxruntime" (with `provider`, by default "cpu"), "tensorrt", or "auto" for all of them.
        provider: of ONNX Runtime; naming one excludes everything else.

    Raises:
        RuntimeUnavailable: an unknown runtime, or a provider for TensorRT.
    """
    if runtime not in RUNTIMES:
        raise RuntimeUnavailable(f"runtime: got {runtime!r}, expected one of {', '.join(RUNTIMES)}")
    if runtime == "tensorrt" and provider is not None:
        raise RuntimeUnavailable(f"provider: got {provider!r} with runtime tensorrt, expected none")
    engine = RuntimeCandidate("tensorrt", lambda: _tensorrt(bundle, artefact))
    if runtime == "tensorrt":
        return [engine]
    providers = [provider] if provider else ["cpu"] if runtime == "onnxruntime" else ["cuda", "cpu"]
    sessions = [
        RuntimeCandidate(f"onnxruntime {name}", partial(_onnxruntime, bundle, artefact, name, threads))
        for name in providers
    ]
    return sessions if runtime == "onnxruntime" or provider else [engine, *sessions]


def _onnxruntime(bundle: Bundle, artefact: str, provider: str, threads: int) -> Runtime:
    from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime

    return OnnxRuntime.load(bundle.model(artefact), provider=provider, threads=threads)


def _tensorrt(bundle: Bundle, artefact: str) -> Runtime:
    from rrise.edge_sdk.runtime.tensorrt import TensorRTRuntime

    return TensorRTRuntime.load(bundle, artefact)


if not TYPE_CHECKING:
    __getattr__ = older_names(__name__, {"Candidate": "RuntimeCandidate"})
