"""Open a bundle: every byte is checked against the manifest, and every part against every other, before use."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Iterable, Mapping, Optional

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.digests import PathLike, file_digest, json_digest
from rrise.calibration.storage.execution import Execution
from rrise.calibration.storage.files import present, read_limited
from rrise.calibration.tables.scores import Scores
from rrise.edge_sdk.bundles.probe import Probe
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.contract import GraphMetadata, guard_of, preprocessing_digest, same_float32
from rrise.edge_sdk.formats.manifest import DEVICE_FOLDER, MANIFEST_FILE, Manifest
from rrise.edge_sdk.formats.noise import ReplayNoise
from rrise.edge_sdk.formats.sealed import read_sealed, write_sealed
from rrise.edge_sdk.formats.signing import SIGNATURE_FILE, Signature, Trust
from rrise.edge_sdk.runtime.base import Graph
from rrise.edge_sdk.runtime.onnx_file import refuse_external

RECORD_LIMIT = 16 << 20
"""Bytes of the largest record that a device adds."""
_UNFINISHED = re.compile(re.escape(f".{SIGNATURE_FILE}.") + r"[0-9a-z_]+")
"""What a signing that was killed leaves in the bundle's folder; nothing ever reads it."""
_RESTORE = "copy the bundle again from its release, or export it again with `rrise-export onnx`"


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. Build one with `Bundle.open`.

    Attributes:
        path: its folder, absolute and without links: whatever becomes of the working directory or of a link such as
            `current`, what is kept on this device is kept with this release.
        manifest: what it says about itself.
        probe: frames with their expected answers.
        calibrations: artefact name -> record; an artefact without one never issues a certificate.
        trust: whose signatures are asked for, of this release and of what a device adds; None asks for none.
        signature: of the release, where it was checked.
    """

    path: Path
    manifest: Manifest
    probe: Probe
    calibrations: Mapping[str, Calibration]
    trust: Optional[Trust] = None
    signature: Optional[Signature] = None

    @classmethod
    def open(cls, path: PathLike, *, trust: Optional[Trust] = None) -> "Bundle":
        """Open the folder `path`; with `trust`, only if that key signed it and it is no older release.

        Raises:
            BundleError: a file is missing, changed, not listed or a link; manifest or a graph points outside the bundle;
                or manifest, calibration records and probe contradict each other.
        """
        folder = Path(os.path.realpath(path))
        if not (folder / MANIFEST_FILE).is_file():
            raise BundleError(
                f"{folder}: got no {MANIFEST_FILE}, expected the folder that `rrise-export onnx` wrote"
            )
        manifest = Manifest.load(folder / MANIFEST_FILE)
        signature = None if trust is None else trust.check_release(folder, manifest.digest)
        _check_files(folder, manifest)
        calibrations: Dict[str, Calibration] = {}
        for name, artefact in manifest.artefacts.items():
            if artefact.calibration is not None:
                calibrations[name] = _load_calibration(folder, artefact.calibration, name, manifest)
        probe = Probe.load(folder / manifest.probe, data=_content(folder, manifest, manifest.probe))
        _check_guard(manifest, probe, calibrations)
        return cls(folder, manifest, probe, calibrations, trust, signature)

    def artefact_name(self, wanted: Optional[str] = None) -> str:
        """`wanted`, or the bundle's first calibrated artefact, "fp32" before others. Raises: BundleError."""
        names = sorted(
            self.manifest.artefacts, key=lambda name: (name not in self.calibrations, name != "fp32", name)
        )
        if wanted is None and names:
            return names[0]
        if wanted is None or wanted not in self.manifest.artefacts:
            raise BundleError(
                f"artefact: got {wanted!r}, expected one of {', '.join(names) or 'none, the bundle is empty'}"
            )
        return wanted

    def model(self, name: str) -> bytes:
        """The bytes of an artefact's graph; what is returned is what was checked, whatever happens to the file."""
        data = _content(self.path, self.manifest, self.manifest.artefacts[name].file)
        refuse_external(data, f"artefact {name}")
        return data

    def base_model(self) -> bytes:
        """The bytes of the base classifier; what is returned is what was checked, whatever happens to the file.

        Raises:
            BundleError: the bundle carries none, or the file was changed.
        """
        base = self.manifest.base
        if base is None:
            raise BundleError(
                f"{self.path}: got a bundle without its base classifier, expected base.onnx in it; export it with `rrise-export"
                " onnx WORKSPACE --with-base`"
            )
        data = _content(self.path, self.manifest, base.file)
        refuse_external(data, base.file)
        return data

    def recorded(self, name: str) -> Optional[Scores]:
        """What artefact `name` answered on the verification frames at export, or None. Raises: BundleError."""
        if name not in self.manifest.recorded:
            return None
        file = self.manifest.recorded[name]
        try:
            scores = Scores.load(self.path / file, data=_content(self.path, self.manifest, file))
        except CalibrationError as error:
            raise BundleError(f"recorded scores: {error}; {_RESTORE}") from error
        if scores.execution.artefact != self.manifest.artefacts[name].sha256:
            raise BundleError(
                f"recorded scores: they come from another file than artefact {name}; {_RESTORE}"
            )
        return scores

    def device_folder(self, execution: Execution) -> Path:
        """Where this device keeps what it adds for one execution, all its options counted; not part of the release."""
        return self.path / DEVICE_FOLDER / f"{execution.name}-{json_digest(execution.to_json())[:8]}"

    def device_record(self, path: Path, what: str) -> Optional[Dict[str, Any]]:
        """A record that this device made, or None where there is none; who made it is checked on the bytes that are read.

        Raises:
            BundleError: it cannot be read, was changed, or is not by whom `trust` names.
        """
        try:
            if not present(path):
                return None
            data = read_limited(path, RECORD_LIMIT)
        except OSError as error:
            raise BundleError(
                f"{path}: cannot be looked at ({error}); make it readable, or remove it"
            ) from error
        if self.trust is not None:
            self.trust.check_device_record(path, data)
        return read_sealed(path, what, data=data)

    def keep(self, path: Path, value: Dict[str, Any]) -> None:
        """Write a record that this device makes, atomically and sealed, into the folder of this very release.

        Raises:
            OSError: it cannot be written, or the bundle was moved or another put in its place, so that the next start would
                not find it.
        """
        self.check_in_place()
        write_sealed(path, value)

    def check_in_place(self) -> None:
        """Raises: OSError: the folder does not hold this release any more, or its device folder is a link."""
        if (self.path / DEVICE_FOLDER).is_symlink():
            raise OSError(errno.ELOOP, "the device folder is a link now", str(self.path / DEVICE_FOLDER))
        try:
            found = Manifest.load(self.path / MANIFEST_FILE).digest
        except BundleError:
            found = ""
        if found != self.manifest.digest:
            raise OSError(
                errno.ESTALE, "the bundle was moved or replaced since it was loaded", str(self.path)
            )

    def replay_noise(self) -> Optional[ReplayNoise]:
        """The noise that recorded frames were scored with, checked against the probe's; None for a plain pass.

        Raises:
            BundleError: this machine draws another noise from the recorded seed, so that nothing can be replayed.
        """
        replay = self.manifest.replay_noise()
        recorded = self.probe.noise
        if replay is None or recorded is None:  # both or neither, see `_check_guard`
            return None
        if not np.array_equal(replay.of(self.probe.frames), recorded):
            raise BundleError(
                "replay noise: got other draws from the recorded seed than the probe frames had at export; use numpy"
                f" {self.manifest.versions.get('numpy', 'as at export')} for replays (live frames do not need it)"
            )
        return replay

    def check_graph(self, name: str, graph: Graph) -> None:
        """Compare a loaded graph's constants and metadata with manifest and calibration record, bit for bit.

        Raises:
            BundleError: they disagree, or one of them is missing.
        """
        manifest, record = self.manifest, self.calibrations.get(name)
        metadata = GraphMetadata.from_text(graph.metadata)
        shape = (graph.signature.batch_size, *graph.signature.frame_shape)
        pairs = [
            ("frame dtype", graph.signature.dtype, manifest.input.dtype),
            ("frame shape", shape, manifest.input.shape),
            ("encoding", metadata.encoding, manifest.input.encoding),
            ("class names", metadata.class_names, manifest.class_names),
            ("base classifier", metadata.base_digest, manifest.base_digest),
            ("preprocessing", metadata.preprocessing, preprocessing_digest(manifest.preprocessing)),
            ("calibration", metadata.calibration, "" if record is None else record.binding()),
            ("guard", guard_of(graph.signature, graph.metadata), manifest.guard),
            ("noise shape", graph.signature.noise_shape, _noise_shape(manifest)),
        ]
        for what, got, expected in pairs:
            if got != expected:
                raise BundleError(
                    f"artefact {name}: the graph says {what} {got}, expected {expected}; {_RESTORE}"
                )
        head = None if record is None else record.head
        sigmas = [[metadata.sigma], [manifest.sigma]] + ([[head.sigma]] if head else [])
        offsets = [list(metadata.offset)] + ([list(head.offset)] if head else [])
        for what, computed, others in (
            ("sigma", [graph.sigma], sigmas),
            ("offset", list(graph.offset), offsets),
        ):
            if not all(same_float32(computed, other) for other in others):
                said = " and ".join(map(str, others))
                raise BundleError(
                    f"artefact {name}: the graph computes {what} {computed}, its records say {said}; {_RESTORE}"
                )
        if len(graph.offset) not in (1, len(manifest.class_names)):
            raise BundleError(
                f"artefact {name}: got {len(graph.offset)} offsets, expected 1 or {len(manifest.class_names)}; {_RESTORE}"
            )


def _noise_shape(manifest: Manifest) -> "Optional[tuple[int, ...]]":
    replay = manifest.replay_noise()
    return None if replay is None else (manifest.input.shape[0], *replay.shape)


def _check_guard(manifest: Manifest, probe: Probe, calibrations: Mapping[str, Calibration]) -> None:
    """Manifest, probe and records are all of the same tier, bit for bit; in the guarded one sums are exact."""
    for name, record in calibrations.items():
        if record.guarantee.guard != manifest.guard:
            raise BundleError(
                f"calibration of {name}: its guard is {record.guarantee.guard}, the manifest's {manifest.guard}; {_RESTORE}"
            )
    replay = manifest.replay_noise()
    wanted = None if replay is None else (len(probe.frames), *replay.shape)
    got = None if probe.noise is None else probe.noise.shape
    if got != wanted:
        raise BundleError(
            f"probe: got noise of shape {got}, expected {wanted} as the manifest says; {_RESTORE}"
        )
    if replay is None:
        return
    crop = manifest.preprocessing.get("crop")
    whole = isinstance(crop, (list, tuple)) and tuple(crop[2:]) == replay.shape[1:]
    if not whole and manifest.preprocessing.get("grid") is not True:
        raise BundleError(
            "manifest preprocessing: got resized pixels that are not rounded to the grid of the noise, expected 'grid': true"
            f" in the guarded tier; {_RESTORE}"
        )


def _check_files(folder: Path, manifest: Manifest) -> None:
    for listed in manifest.files:
        _check_path(listed)
    found = set(_files_of(folder))
    unlisted = sorted(found - set(manifest.files))
    if unlisted:
        raise BundleError(
            f"{folder}: {unlisted[0]} is not in the manifest ({len(unlisted)} such files); remove it, or {_RESTORE}"
        )
    graphs = {artefact.file for artefact in manifest.artefacts.values()}
    for listed, expected in manifest.files.items():
        if listed not in found:
            raise BundleError(f"{folder}: {listed} is missing; {_RESTORE}")
        if listed in graphs or listed.lower().endswith(".onnx"):
            refuse_external(_content(folder, manifest, listed), listed)
        elif file_digest(folder / listed) != expected:
            raise _changed(folder, listed)
    named = [manifest.probe, *manifest.recorded.values()]
    for name, artefact in manifest.artefacts.items():
        named += [artefact.file] + ([artefact.calibration] if artefact.calibration is not None else [])
        if manifest.files.get(artefact.file) != artefact.sha256:
            raise BundleError(
                f"manifest: artefact {name} has another digest in the list of files; {_RESTORE}"
            )
    if manifest.base is not None:
        named.append(manifest.base.file)
        if manifest.files.get(manifest.base.file) != manifest.base_digest:
            raise BundleError(
                f"manifest: {manifest.base.file} has SHA-256 {manifest.files.get(manifest.base.file)}, expected the base"
                f" digest {manifest.base_digest}: it is another base classifier; {_RESTORE}"
            )
        if (folder / manifest.base.file).stat().st_size != manifest.base.size:
            raise BundleError(f"manifest: {manifest.base.file} has another size than it says; {_RESTORE}")
    absent = sorted(set(named) - set(manifest.files))
    if absent:
        raise BundleError(f"manifest: {absent[0]} is named but not in the list of files; {_RESTORE}")


def _content(folder: Path, manifest: Manifest, listed: str) -> bytes:
    """The bytes of a listed file. What is returned is what was checked, whatever happens to the file meanwhile."""
    data = (folder / listed).read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.files[listed]:
        raise _changed(folder, listed)
    return data


def _changed(folder: Path, listed: str) -> BundleError:
    return BundleError(f"{folder}: {listed} was changed, its digest is not the manifest's; {_RESTORE}")


def _check_path(listed: str) -> None:
    path = PurePosixPath(listed)
    unsafe = (
        path.is_absolute() or ".." in path.parts or "\\" in listed or ":" in listed or str(path) != listed
    )
    if unsafe or path.parts[:1] in ((), (DEVICE_FOLDER,), (MANIFEST_FILE,), (SIGNATURE_FILE,)):
        raise BundleError(
            f"manifest: got the file name {listed!r}, expected a plain path inside the bundle; {_RESTORE}"
        )


def _files_of(folder: Path) -> Iterable[str]:
    for current, folders, files in os.walk(folder):
        here = Path(current)
        for name in folders + files:
            if (here / name).is_symlink():
                raise BundleError(f"{here / name}: got a symbolic link, expected a plain file; {_RESTORE}")
        if here == folder and DEVICE_FOLDER in folders:
            folders.remove(DEVICE_FOLDER)
        for name in files:
            relative = (here / name).relative_to(folder).as_posix()
            if relative not in (MANIFEST_FILE, SIGNATURE_FILE) and not _UNFINISHED.fullmatch(relative):
                yield relative


def _load_calibration(folder: Path, listed: str, name: str, manifest: Manifest) -> Calibration:
    data = _content(folder, manifest, listed)
    try:
        record = Calibration.load(folder / listed, data=data)
    except CalibrationError as error:
        raise BundleError(f"calibration of {name}: {error}; {_RESTORE}") from error
    if record.execution.artefact != manifest.artefacts[name].sha256:
        raise BundleError(
            f"calibration of {name}: it was made for another file than {manifest.artefacts[name].file}; {_RESTORE}"
        )
    if record.base_digest != manifest.base_digest:
        raise BundleError(
            f"calibration of {name}: its references come from another base classifier; {_RESTORE}"
        )
    if record.head.issues_nothing:
        raise BundleError(f"calibration of {name}: its offset is infinite ({record.message()}); {_RESTORE}")
    return record
