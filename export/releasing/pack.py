"""A bundle as a single file: a zip with sorted names and fixed times, so that equal bundles give equal bytes."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path, PurePosixPath
from typing import Dict, Optional, Tuple

from rrise.calibration.errors import RriseError
from rrise.calibration.storage.digests import file_digest
from rrise.calibration.storage.files import atomic_file
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.manifest import DEVICE_FOLDER, MANIFEST_FILE, Manifest
from rrise.edge_sdk.formats.signing import SIGNATURE_FILE, Trust
from rrise.export.errors import ExportError
from rrise.export.releasing.bundle import whole_or_not_at_all

EARLIEST = 315532800
"""1980-01-01, the first second that a zip file can name."""
_FIRST = {MANIFEST_FILE: 16 << 20, SIGNATURE_FILE: 64 << 10}
"""What is read before anything else is unpacked, with the most bytes that it may have."""
_LEAST, _FACTOR = 256 << 20, 50
"""A bundle may unpack to 256 MiB, or to 50 times its size: networks and camera frames hardly shrink."""


def pack_bundle(bundle: Path, file: Path) -> str:
    """Write the release part of `bundle` to `file`, which must not exist; returns the file's SHA-256.

    What a device added is left out. Times are SOURCE_DATE_EPOCH, or 1980 where that is not set.

    Raises:
        BundleError: the bundle is damaged.
        ExportError: `file` exists or lies within the bundle, or SOURCE_DATE_EPOCH is not a number.
    """
    opened = Bundle.open(bundle)
    if bundle.resolve() in file.resolve().parents:
        raise ExportError(
            f"{file}: lies within the bundle, which may not change; choose a place outside {bundle}"
        )
    if file.exists():
        raise ExportError(f"{file}: exists already; remove it or choose another name")
    stamp = _stamp()
    signed = [SIGNATURE_FILE] if (bundle / SIGNATURE_FILE).is_file() else []
    names = sorted([MANIFEST_FILE, *signed, *opened.manifest.files])
    with atomic_file(file) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            member = zipfile.ZipInfo(name, date_time=stamp)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, (bundle / name).read_bytes())
    return file_digest(file)


def _stamp() -> Tuple[int, int, int, int, int, int]:
    text = os.environ.get("SOURCE_DATE_EPOCH", str(EARLIEST))
    try:
        moment = time.gmtime(max(int(text), EARLIEST))
    except (ValueError, OverflowError, OSError) as error:
        raise ExportError(f"SOURCE_DATE_EPOCH: got {text!r}, expected seconds since 1970") from error
    return moment[:6]


def unpack_bundle(file: Path, bundle: Path, *, trust: Optional[Trust] = None) -> str:
    """Unpack a packed bundle into the new folder `bundle`, check it, and return the manifest's digest.

    Raises:
        ExportError: not a packed bundle, a name that points outside or to what only a device adds, or the folder exists.
        BundleError: what was unpacked is damaged, or not signed by whom `trust` names.
    """
    with whole_or_not_at_all(bundle) as folder:
        try:
            with zipfile.ZipFile(file) as archive:
                members = _members(archive, file.stat().st_size)
                # Small and first: whoever signed nothing does not get to fill the disk.
                for name, limit in _FIRST.items():
                    if name in members:
                        (folder / name).write_bytes(_limited(archive, members[name], limit))
                manifest = Manifest.load(folder / MANIFEST_FILE)
                if trust is not None:
                    trust.check_release(folder, manifest.digest)
                for name, member in members.items():
                    if name not in _FIRST and name not in manifest.files:
                        raise BundleError(
                            f"{file}: {name} is not in the manifest; copy it again from its release"
                        )
                    if name not in _FIRST:
                        archive.extract(member, folder)
        except RriseError:
            raise
        except Exception as error:  # of the system, zipfile and zlib, which have no common base
            raise ExportError(
                f"{file}: not a readable packed bundle ({error}); copy it again from its release"
            ) from error
        return Bundle.open(folder, trust=trust).manifest.digest


def _members(archive: zipfile.ZipFile, size: int) -> Dict[str, zipfile.ZipInfo]:
    """The members by name. Raises: ValueError: one of them belongs in no release, or all together are too large."""
    found: Dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename or member.is_dir():
            raise ValueError(f"member {member.filename!r} is no plain file inside the bundle")
        # No signature of the release covers these, and a robot may have been told to accept what lies there.
        if path.parts[:1] == (DEVICE_FOLDER,):
            raise ValueError(
                f"member {member.filename!r} is a device's own record, which no release contains"
            )
        if member.filename in found:
            raise ValueError(f"member {member.filename!r} is there twice")
        found[member.filename] = member
    unpacked, limit = sum(member.file_size for member in found.values()), max(_LEAST, _FACTOR * size)
    if unpacked > limit:
        raise ValueError(f"{unpacked:,} bytes unpacked, expected at most {limit:,}")
    return found


def _limited(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    with archive.open(member) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"member {member.filename!r} is larger than {limit:,} bytes")
    return data
