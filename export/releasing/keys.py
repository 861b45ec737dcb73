"""Making keys and signing bundles and device records with them; checking is `rrise.edge_sdk.formats.signing`'s work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List

from rrise.edge_sdk.bundles.bundle import DEVICE_FOLDER, Bundle
from rrise.edge_sdk.formats.signing import (
    DEVICE_SIGNATURE,
    PrivateKey,
    PublicKey,
    Signature,
    sign_device_record,
    sign_release,
)
from rrise.export.errors import ExportError


def write_key_pair(file: Path) -> PublicKey:
    """Write a new private key to `file` (mode 600) and its public key to `file`.pub; neither may exist.

    Raises:
        ExportError: a file exists or cannot be written.
    """
    public_file = file.with_name(file.name + ".pub")
    key = PrivateKey.generate()
    try:
        for path, raw, mode in ((file, key.raw, 0o600), (public_file, key.public.raw, 0o644)):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "w", encoding="ascii") as target:
                target.write(raw.hex() + "\n")
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
    """Sign every record in the bundle's device folder with the device's key; returns what was signed."""
    found = [
        path for path in (bundle / DEVICE_FOLDER).rglob("*.json") if not path.name.endswith(DEVICE_SIGNATURE)
    ]
    if not found:
        raise ExportError(
            f"{bundle / DEVICE_FOLDER}: got no device records; run `rrise-edge verify` or `recalibrate` first"
        )
    for record in found:
        sign_device_record(record, key)
    return sorted(found)
