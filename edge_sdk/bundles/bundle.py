"""Open a bundle: every byte is checked against the manifest, and every part against every other, before use."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.digests import PathLike, json_digest
from rrise.calibration.storage.execution import Execution
from rrise.calibration.storage.files import present, read_limited
from rrise.calibration.tables.scores import Scores
from rrise.edge_sdk.bundles.checks import (
    RESTORE,
    check_files,
    check_guard,
    content,
    load_calibration,
    noise_shape,
)
from rrise.edge_sdk.bundles.probe import Probe
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.contract import GraphMetadata, guard_of, preprocessing_digest, same_float32
from rrise.edge_sdk.formats.manifest import DEVICE_FOLDER, MANIFEST_FILE, Manifest
from rrise.edge_sdk.formats.noise import ReplayNoise
from rrise.edge_sdk.formats.sealed import read_sealed, write_sealed
from rrise.edge_sdk.formats.signing import Signature, Trust
from rrise.edge_sdk.runtime.base import Graph
from rrise.edge_sdk.runtime.onnx_file import refuse_external

RECORD_LIMIT = 16 << 20
"""Bytes of the largest record that a device adds."""


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
        check_files(folder, manifest)
        calibrations: Dict[str, Calibration] = {}
        for name, artefact in manifest.artefacts.items():
            if artefact.calibration is not None:
                calibrations[name] = load_calibration(folder, artefact.calibration, name, manifest)
        probe = Probe.load(folder / manifest.probe, data=content(folder, manifest, manifest.probe))
        check_guard(manifest, probe, calibrations)
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
        data = content(self.path, self.manifest, self.manifest.artefacts[name].file)
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
        data = content(self.path, self.manifest, base.file)
        refuse_external(data, base.file)
        return data

    def recorded(self, name: str) -> Optional[Scores]:
        """What artefact `name` answered on the verification frames at export, or None. Raises: BundleError."""
        if name not in self.manifest.recorded:
            return None
        file = self.manifest.recorded[name]
        try:
            scores = Scores.load(self.path / file, data=content(self.path, self.manifest, file))
        except CalibrationError as error:
            raise BundleError(f"recorded scores: {error}; {RESTORE}") from error
        if scores.execution.artefact != self.manifest.artefacts[name].sha256:
            raise BundleError(f"recorded scores: they come from another file than artefact {name}; {RESTORE}")
        return scores

    def device_folder(self, execution: Execution) -> Path:
        """Where this device keeps what it adds for one execution, all its options counted; not part of the release."""
        return self.path / DEVICE_FOLDER / f"{execution.name}-{json_digest(execution.to_json())[:8]}"

    def device_record(
        self, path: Path, what: str, *, formats: Sequence[str] = (), mend: str = ""
    ) -> Optional[Dict[str, Any]]:
        """A record that this device made, or None where there is none; who made it is checked on the bytes that are read.

        formats, mend: see `read_sealed`.

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
        return read_sealed(path, what, data=data, formats=formats, mend=mend)

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
        if replay is None or recorded is None:  # both or neither, see `check_guard`
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
            ("noise shape", graph.signature.noise_shape, noise_shape(manifest)),
        ]
        for what, got, expected in pairs:
            if got != expected:
                raise BundleError(
                    f"artefact {name}: the graph says {what} {got}, expected {expected}; {RESTORE}"
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
                    f"artefact {name}: the graph computes {what} {computed}, its records say {said}; {RESTORE}"
                )
        if len(graph.offset) not in (1, len(manifest.class_names)):
            raise BundleError(
                f"artefact {name}: got {len(graph.offset)} offsets, expected 1 or {len(manifest.class_names)}; {RESTORE}"
            )
