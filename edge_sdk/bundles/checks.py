"""What `Bundle.open` checks: the files against the manifest, and the parts against each other."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import Iterable, Mapping, Optional

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.digests import file_digest
from rrise.edge_sdk.bundles.probe import Probe
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.manifest import DEVICE_FOLDER, MANIFEST_FILE, Manifest
from rrise.edge_sdk.formats.signing import SIGNATURE_FILE
from rrise.edge_sdk.runtime.onnx_file import refuse_external

_UNFINISHED = re.compile(re.escape(f".{SIGNATURE_FILE}.") + r"[0-9a-z_]+")
"""What a signing that was killed leaves in the bundle's folder; nothing ever reads it."""
RESTORE = "copy the bundle again from its release, or export it again with `rrise-export onnx`"


def noise_shape(manifest: Manifest) -> "Optional[tuple[int, ...]]":
    """(B, C, h, w) of the noise that the graph takes in the guarded tier, or None."""
    replay = manifest.replay_noise()
    return None if replay is None else (manifest.input.shape[0], *replay.shape)


def check_guard(manifest: Manifest, probe: Probe, calibrations: Mapping[str, Calibration]) -> None:
    """Manifest, probe and records are all of the same tier, bit for bit; in the guarded one sums are exact."""
    for name, record in calibrations.items():
        if record.guarantee.guard != manifest.guard:
            raise BundleError(
                f"calibration of {name}: its guard is {record.guarantee.guard}, the manifest's {manifest.guard}; {RESTORE}"
            )
    replay = manifest.replay_noise()
    wanted = None if replay is None else (len(probe.frames), *replay.shape)
    got = None if probe.noise is None else probe.noise.shape
    if got != wanted:
        raise BundleError(
            f"probe: got noise of shape {got}, expected {wanted} as the manifest says; {RESTORE}"
        )
    if replay is None:
        return
    crop = manifest.preprocessing.get("crop")
    whole = isinstance(crop, (list, tuple)) and tuple(crop[2:]) == replay.shape[1:]
    if not whole and manifest.preprocessing.get("grid") is not True:
        raise BundleError(
            "manifest preprocessing: got resized pixels that are not rounded to the grid of the noise, expected 'grid': true"
            f" in the guarded tier; {RESTORE}"
        )


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises: BundleError: a file is missing, unlisted or changed, or the manifest contradicts itself about one."""
    for listed in manifest.files:
        _check_path(listed)
    found = set(_files_of(folder))
    unlisted = sorted(found - set(manifest.files))
    if unlisted:
        raise BundleError(
            f"{folder}: {unlisted[0]} is not in the manifest ({len(unlisted)} such files); remove it, or {RESTORE}"
        )
    graphs = {artefact.file for artefact in manifest.artefacts.values()}
    for listed, expected in manifest.files.items():
        if listed not in found:
            raise BundleError(f"{folder}: {listed} is missing; {RESTORE}")
        if listed in graphs or listed.lower().endswith(".onnx"):
            refuse_external(content(folder, manifest, listed), listed)
        elif file_digest(folder / listed) != expected:
            raise _changed(folder, listed)
    named = [manifest.probe, *manifest.recorded.values()]
    for name, artefact in manifest.artefacts.items():
        named += [artefact.file] + ([artefact.calibration] if artefact.calibration is not None else [])
        if manifest.files.get(artefact.file) != artefact.sha256:
            raise BundleError(f"manifest: artefact {name} has another digest in the list of files; {RESTORE}")
    if manifest.base is not None:
        named.append(manifest.base.file)
        if manifest.files.get(manifest.base.file) != manifest.base_digest:
            raise BundleError(
                f"manifest: {manifest.base.file} has SHA-256 {manifest.files.get(manifest.base.file)}, expected the base"
                f" digest {manifest.base_digest}: it is another base classifier; {RESTORE}"
            )
        if (folder / manifest.base.file).stat().st_size != manifest.base.size:
            raise BundleError(f"manifest: {manifest.base.file} has another size than it says; {RESTORE}")
    absent = sorted(set(named) - set(manifest.files))
    if absent:
        raise BundleError(f"manifest: {absent[0]} is named but not in the list of files; {RESTORE}")


def content(folder: Path, manifest: Manifest, listed: str) -> bytes:
    """The bytes of a listed file. What is returned is what was checked, whatever happens to the file meanwhile."""
    data = (folder / listed).read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.files[listed]:
        raise _changed(folder, listed)
    return data


def _changed(folder: Path, listed: str) -> BundleError:
    return BundleError(f"{folder}: {listed} was changed, its digest is not the manifest's; {RESTORE}")


def _check_path(listed: str) -> None:
    path = PurePosixPath(listed)
    unsafe = (
        path.is_absolute() or ".." in path.parts or "\\" in listed or ":" in listed or str(path) != listed
    )
    if unsafe or path.parts[:1] in ((), (DEVICE_FOLDER,), (MANIFEST_FILE,), (SIGNATURE_FILE,)):
        raise BundleError(
            f"manifest: got the file name {listed!r}, expected a plain path inside the bundle; {RESTORE}"
        )


def _files_of(folder: Path) -> Iterable[str]:
    for current, folders, files in os.walk(folder):
        here = Path(current)
        for name in folders + files:
            if (here / name).is_symlink():
                raise BundleError(f"{here / name}: got a symbolic link, expected a plain file; {RESTORE}")
        if here == folder and DEVICE_FOLDER in folders:
            folders.remove(DEVICE_FOLDER)
        for name in files:
            relative = (here / name).relative_to(folder).as_posix()
            if relative not in (MANIFEST_FILE, SIGNATURE_FILE) and not _UNFINISHED.fullmatch(relative):
                yield relative


def load_calibration(folder: Path, listed: str, name: str, manifest: Manifest) -> Calibration:
    """The calibration record of an artefact. Raises: BundleError: it belongs to another file or base classifier."""
    data = content(folder, manifest, listed)
    try:
        record = Calibration.load(folder / listed, data=data)
    except CalibrationError as error:
        raise BundleError(f"calibration of {name}: {error}; {RESTORE}") from error
    if record.execution.artefact != manifest.artefacts[name].sha256:
        raise BundleError(
            f"calibration of {name}: it was made for another file than {manifest.artefacts[name].file}; {RESTORE}"
        )
    if record.base_digest != manifest.base_digest:
        raise BundleError(
            f"calibration of {name}: its references come from another base classifier; {RESTORE}"
        )
    if record.head.issues_nothing:
        raise BundleError(f"calibration of {name}: its offset is infinite ({record.message()}); {RESTORE}")
    return record
