"""Suspension: certificates of a bundle stay withheld on this device, across restarts, until a person lifts it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Optional

from rrise.calibration.storage.files import present
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.manifest import DEVICE_FOLDER
from rrise.edge_sdk.formats.sealed import read_sealed

FILE = "suspension.json"
FORMATS = ("rrise-suspension/1",)


def suspend(bundle: Bundle, reason: str) -> None:
    """Withhold the bundle's certificates on this device from now on; the first reason stays.

    Raises:
        OSError: the device folder cannot be written, or is not this release's any more. The caller must then withhold
            them itself.
    """
    bundle.check_in_place()
    if not present(_path(bundle)):
        value = {"release": bundle.manifest.digest, "reason": reason, "time": time.time()}
        bundle.keep(_path(bundle), {"format": FORMATS[-1], **value})


def suspended_because(bundle: Bundle) -> Optional[str]:
    """The reason, or None where certificates may be issued. An unreadable suspension is a suspension."""
    try:
        os.lstat(_path(bundle))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # whether there is one cannot be seen: not a licence to go on
        return f"suspended, since {_path(bundle)} cannot be looked at ({error}); make it readable"
    mend = f"; find the cause, then `rrise-edge reset {bundle.path}` or recalibrate"
    try:
        found = read_sealed(_path(bundle), "suspension", formats=FORMATS, mend="look for the cause")
        return str(found["reason"]) + mend
    except (BundleError, KeyError) as error:
        return f"suspended, and its reason cannot be read ({error}){mend}"


def lift(bundle: Bundle) -> None:
    """End the suspension."""
    _path(bundle).unlink(missing_ok=True)


def _path(bundle: Bundle) -> Path:
    return bundle.path / DEVICE_FOLDER / FILE
