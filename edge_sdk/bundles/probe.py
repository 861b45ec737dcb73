"""The probe: a few frames with the answers an artefact gave at export, compared each time a bundle is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.digests import PathLike, combined_digest, frame_digest
from rrise.calibration.storage.files import read_arrays, write_arrays
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.runtime.base import Outputs, Runtime


@dataclass(frozen=True)
class Expected:
    """One artefact's answers to the probe frames: label int64 [n], radius float32 [n], probit float32 [n]."""

    label: np.ndarray
    radius: np.ndarray
    probit: np.ndarray


@dataclass(frozen=True)
class Probe:
    """Probe frames [n, H, W, C] (or [n, C, H, W] float32), n >= 1, and what each artefact answered at export.

    noise: guarded tier: the draws of these frames, float32 [n, C, h, w]; None for a plain pass.
    """

    frames: np.ndarray
    expected: Mapping[str, Expected]
    noise: Optional[np.ndarray] = None

    def answers(self, runtime: Runtime) -> Outputs:
        """What `runtime` answers to the probe frames, with the noise of then."""
        return run_all(runtime, self.frames, noise=self.noise)

    def fingerprint(self, runtime: Runtime) -> str:
        """Digest of what `runtime` answers to the probe frames, bit for bit.

        It tells two processors apart whose executions have the same name, so that a record made on one is not taken for
        the other's.
        """
        got = self.answers(runtime)
        return combined_digest(frame_digest(part) for part in (got.label, got.radius, got.probit))

    def save(self, path: PathLike) -> None:
        """Write as `.npz`: `frame`, `noise` in the guarded tier, and `<artefact>.label`, `.radius` and `.probit`."""
        arrays = {"frame": self.frames}
        if self.noise is not None:
            arrays["noise"] = np.asarray(self.noise, np.float32)
        for name, answer in self.expected.items():
            arrays[f"{name}.label"] = np.asarray(answer.label, np.int64)
            arrays[f"{name}.radius"] = np.asarray(answer.radius, np.float32)
            arrays[f"{name}.probit"] = np.asarray(answer.probit, np.float32)
        write_arrays(
            path, arrays, {"format": "rrise-probe", "version": 1, "artefacts": sorted(self.expected)}
        )

    @classmethod
    def load(cls, path: PathLike, *, data: Optional[bytes] = None) -> "Probe":
        """Read a probe; data: the file's bytes where they were read and checked before.

        Raises:
            BundleError: unreadable, empty, or incomplete.
        """
        try:
            arrays, meta = read_arrays(path, "probe", ["frame"], data=data)
            expected = {
                str(name): Expected(
                    arrays[f"{name}.label"], arrays[f"{name}.radius"], arrays[f"{name}.probit"]
                )
                for name in meta["artefacts"]
            }
        except (CalibrationError, KeyError, TypeError) as error:
            raise BundleError(f"probe: {error}; export the bundle again") from error
        frames, noise = arrays["frame"], arrays.get("noise")
        lengths = {
            len(part) for answer in expected.values() for part in (answer.label, answer.radius, answer.probit)
        }
        if frames.ndim != 4 or not len(frames) or lengths != {len(frames)}:
            raise BundleError(
                f"probe: got frames {frames.shape} with answers of lengths {sorted(lengths)}; export the bundle again"
            )
        if noise is not None and (noise.dtype, noise.ndim, len(noise)) != (
            np.dtype(np.float32),
            4,
            len(frames),
        ):
            raise BundleError(
                f"probe: got noise {noise.dtype} {noise.shape} for {len(frames)} frames; export the bundle again"
            )
        return cls(frames, expected, noise)
