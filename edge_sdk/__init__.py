"""The edge SDK: open a bundle, certify camera frames in one forward pass, watch and verify the execution.

Importing this package is cheap; what needs a runtime is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from edge_sdk.bundle import Bundle
    from edge_sdk.certificate import Certificate, Status
    from edge_sdk.certifier import Certifier
    from edge_sdk.errors import BundleError, EdgeError, FrameError, RuntimeFault, RuntimeUnavailable
    from edge_sdk.inputs import Roi
    from edge_sdk.loading import State

_HOMES = {
    "Bundle": "bundle",
    "BundleError": "errors",
    "Certificate": "certificate",
    "Certifier": "certifier",
    "EdgeError": "errors",
    "FrameError": "errors",
    "Roi": "inputs",
    "RuntimeFault": "errors",
    "RuntimeUnavailable": "errors",
    "State": "loading",
    "Status": "certificate",
}

__all__ = [
    "Bundle",
    "BundleError",
    "Certificate",
    "Certifier",
    "EdgeError",
    "FrameError",
    "Roi",
    "RuntimeFault",
    "RuntimeUnavailable",
    "State",
    "Status",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"edge_sdk.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted(__all__)
