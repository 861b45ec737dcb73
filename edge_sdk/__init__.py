"""The edge SDK: open a bundle, certify camera frames in one forward pass, watch and verify the execution.

Importing this package is cheap; what needs a runtime is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rrise.lazy import lazily
from rrise.names import stand_in

if TYPE_CHECKING:
    from rrise.edge_sdk.bundles.bundle import Bundle
    from rrise.edge_sdk.certificate import Certificate, Status
    from rrise.edge_sdk.certifier import Certifier
    from rrise.edge_sdk.confirming.confirmation import Confirmation, Outcome
    from rrise.edge_sdk.confirming.settings import Confirm
    from rrise.edge_sdk.device.loading import State
    from rrise.edge_sdk.errors import BundleError, EdgeError, FrameError, RuntimeFault, RuntimeUnavailable
    from rrise.edge_sdk.formats.signing import Trust
    from rrise.edge_sdk.frames.inputs import Roi
    from rrise.edge_sdk.operate.recorder import flights, read_flight
    from rrise.edge_sdk.stream.captured import Captured
    from rrise.edge_sdk.stream.checks import CheckSettings
    from rrise.edge_sdk.stream.decisions import KOfN
    from rrise.edge_sdk.stream.stream import StreamSettings

_HOMES = {
    "Bundle": "bundles.bundle",
    "BundleError": "errors",
    "Captured": "stream.captured",
    "Certificate": "certificate",
    "Certifier": "certifier",
    "CheckSettings": "stream.checks",
    "Confirm": "confirming.settings",
    "Confirmation": "confirming.confirmation",
    "EdgeError": "errors",
    "FrameError": "errors",
    "KOfN": "stream.decisions",
    "Outcome": "confirming.confirmation",
    "Roi": "frames.inputs",
    "RuntimeFault": "errors",
    "RuntimeUnavailable": "errors",
    "State": "device.loading",
    "Status": "certificate",
    "StreamSettings": "stream.stream",
    "Trust": "formats.signing",
    "flights": "operate.recorder",
    "read_flight": "operate.recorder",
}

# In full: type checkers read it, for `from edge_sdk import Certifier` as well.
__all__ = [
    "Bundle",
    "BundleError",
    "Captured",
    "Certificate",
    "Certifier",
    "CheckSettings",
    "Confirm",
    "Confirmation",
    "EdgeError",
    "FrameError",
    "KOfN",
    "Outcome",
    "Roi",
    "RuntimeFault",
    "RuntimeUnavailable",
    "State",
    "Status",
    "StreamSettings",
    "Trust",
    "flights",
    "read_flight",
]

__getattr__, __dir__ = lazily(__name__, _HOMES)

if __name__ != "rrise.edge_sdk":  # found in a checkout by the folder's own name
    stand_in(__name__)
