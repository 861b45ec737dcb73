"""The edge SDK: open a bundle, certify camera frames in one forward pass, watch and verify the execution.

Importing this package is cheap; what needs a runtime is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from rrise.edge_sdk.bundles.bundle import Bundle
    from rrise.edge_sdk.certificate import Certificate, Status
    from rrise.edge_sdk.certifier import Certifier
    from rrise.edge_sdk.device.loading import State
    from rrise.edge_sdk.errors import BundleError, EdgeError, FrameError, RuntimeFault, RuntimeUnavailable
    from rrise.edge_sdk.formats.signing import Trust
    from rrise.edge_sdk.frames.inputs import Roi
    from rrise.edge_sdk.stream.captured import Captured
    from rrise.edge_sdk.stream.checks import CheckSettings
    from rrise.edge_sdk.stream.decisions import KOfN
    from rrise.edge_sdk.stream.stream import StreamSettings

_HOMES = {
    "Bundle": "bundle",
    "BundleError": "errors",
    "Captured": "stream.captured",
    "Certificate": "certificate",
    "Certifier": "certifier",
    "CheckSettings": "stream.checks",
    "EdgeError": "errors",
    "FrameError": "errors",
    "KOfN": "stream.decisions",
    "Roi": "inputs",
    "RuntimeFault": "errors",
    "RuntimeUnavailable": "errors",
    "State": "loading",
    "Status": "certificate",
    "StreamSettings": "stream.stream",
    "Trust": "signing",
}

__all__ = [
    "Bundle",
    "BundleError",
    "Captured",
    "Certificate",
    "Certifier",
    "CheckSettings",
    "EdgeError",
    "FrameError",
    "KOfN",
    "Roi",
    "RuntimeFault",
    "RuntimeUnavailable",
    "State",
    "Status",
    "StreamSettings",
    "Trust",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"edge_sdk.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted(__all__)
