"""Making keys and signing bundles and device records with them; checking is `rrise.edge_sdk.formats.signing`'s work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List

from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.device.device_calibration import CALIBRATION_FILE
from rrise.edge_sdk.device.drift import REFERENCE_FILE
from rrise.edge_sdk.device.verification_record import RECORD_FILE
from rrise.edge_sdk.formats.keys import PrivateKey, PublicKey
from rrise.edge_sdk.formats.manifest import DEVICE_FOLDER
from rrise.edge_sdk.formats.signing import DEVICE_SIGNATURE, Signature, sign_device_record, sign_release
from rrise.edge_sdk.runtime.engines import FOLDER as ENGINES_FOLDER
from rrise.export.errors import ExportError


def write_key_pair(file: Path) -> PublicKey:
    """Write a new private key to `file` (mode 600) and its public key to `file`.pub, as PEM; neither may exist.

    Raises:
        ExportError: a file exists or cannot be written.
    """
    public_file = file.with_name(file.name + ".pub")
    key = PrivateKey.generate()
    try:
        for path, text, mode in ((file, key.pem(), 0o600), (public_file, key.public.pem(), 0o644)):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "w", encoding="ascii") as target:
                target.write(text)
    except OSError as error:
        raise ExportError(
            f"{path}: cannot write the key ({error.strerror}); an existing key is never replaced"
        ) from error
    return key.public


def sign_bundle(bundle: Path, key: PrivateKey, release: int) -> Signature:
    """Check a bundle and sign it as release number `release`, replacing an earlier signature.

    Raises:
        BundleError: the bundle is damaged; a damaged bundle is not signed.
    """
    return sign_release(bundle, Bundle.open(bundle).manifest.digest, release, key)


def sign_device_records(bundle: Path, key: PrivateKey) -> List[Path]:
    """Sign every record in the bundle's device folder that is asked for one, with the device's key; returns them.

    What a running certifier changes itself (its monitor's memory, a suspension) is not signed: no key lies on the device.
    """
    names = (CALIBRATION_FILE, RECORD_FILE, REFERENCE_FILE)
    found = [path for name in names for path in (bundle / DEVICE_FOLDER).glob(f"*/{name}")]
    engines = (bundle / DEVICE_FOLDER / ENGINES_FOLDER).glob("*.json")
    found += [path for path in engines if not path.name.endswith(DEVICE_SIGNATURE)]
    if not found:
        raise ExportError(
            f"{bundle / DEVICE_FOLDER}: got no device records; run `rrise-edge verify` or `recalibrate` first"
        )
    for record in found:
        sign_device_record(record, key)
    return sorted(found)
