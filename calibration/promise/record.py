"""The calibration record: a frozen statement of what was calibrated, on what, for which execution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import AmongIssued, Guarantee
from rrise.calibration.promise.head import WITHHELD, CertificateHead
from rrise.calibration.promise.maps import RadiusMap
from rrise.calibration.storage.digests import PathLike, json_digest
from rrise.calibration.storage.execution import Execution
from rrise.calibration.storage.files import read_json, write_json
from rrise.calibration.storage.formats import check_format

FORMATS = ("rrise-calibration/1", "rrise-calibration/2", "rrise-calibration/3")
"""The second is that of a map with a step, the third that of any other staircase: who reads only the ones before would not
know to keep it."""


def format_number(map: RadiusMap) -> int:
    """Which of the formats a map needs, counted from 0: any radius, a step, a staircase."""
    return (1 if map.is_step else 2) if map.radii else 0


def _pair(value: Any) -> Optional[Tuple[int, int]]:
    if value is None:
        return None
    issued, frames = int(value[0]), int(value[1])
    if not 0 <= issued <= frames:
        raise ValueError(f"issued {issued} of {frames}")
    return issued, frames


@dataclass(frozen=True)
class Calibration:
    """Result of `calibrate`.

    Attributes:
        head: certificate head with the offset in it.
        guarantee: the promise that the offset keeps.
        execution: the computation that it holds for.
        num_frames: n, independent units that the rank was taken over: frames, frames above the threshold (selective),
            clips (whole-clip), or the frames of all classes (per-class).
        rank: k, counted from 1; None when n is too small, and then the offset is infinite. For per-class it is the sum
            of the ranks of the classes that have one, with n counting the frames of these classes.
        calibration_digest: of all frames of the calibration split.
        base_digest: of the base classifier that was sampled.
        num_samples: smallest and largest N of the references.
        attempt: number in the log of attempts; the rank is that of `guarantee.spent(attempt)`. 0: counted by no log.
        seed: by which one frame of each clip was drawn.
        class_frames: per-class only: calibration frames of each predicted class.
        withheld: why nothing, or for which classes nothing, is issued; empty where everything is.
        issued: how many frames of the calibration split received a certificate, and of how many, one of each clip; None in
            a record that was made before this was noted.
    """

    head: CertificateHead
    guarantee: Guarantee
    execution: Execution
    num_frames: int
    rank: Optional[int]
    calibration_digest: str
    base_digest: str
    num_samples: Tuple[int, int]
    attempt: int = 0
    seed: int = 0
    class_frames: Tuple[int, ...] = ()
    withheld: str = ""
    issued: Optional[Tuple[int, int]] = None

    def __bool__(self) -> bool:
        """Whether this record can issue a certificate at all."""
        return not self.head.issues_nothing

    @property
    def digest(self) -> str:
        """SHA-256 of the record's canonical JSON."""
        return json_digest(self.to_json())

    def binding(self) -> str:
        """Digest that the exported graph carries in its metadata: of the record without the graph's own digest.

        The record names the graph and the graph names the record; one of the two has to leave the other's name out.
        """
        value = self.to_json()
        value["execution"]["artefact"] = ""
        return json_digest(value)

    def among_issued(self) -> Optional[AmongIssued]:
        """What the promise permits among issued certificates, by the share that the calibration frames received."""
        return None if self.issued is None else self.guarantee.among_issued(*self.issued)

    def among_issued_text(self) -> str:
        """The same for a person."""
        found = self.among_issued()
        if found is None:
            return "eps / share issued; this record does not say which share that is, calibrate again"
        return found.sentence()

    def message(self) -> str:
        """What a person should know about this record, in one sentence."""
        if not self:
            return f"{self.withheld}, so no certificate is issued"
        unit = self.guarantee.unit.replace("calibration ", "")
        if self.class_frames:
            offsets = ", ".join(f"{value:.4g}" for value in self.head.offset if value < WITHHELD)
            text = f"offsets by class {offsets}"
        else:
            text = f"offset {self.head.offset[0]:.6g} is score {self.rank} of {self.num_frames} {unit}"
        radii = ", ".join(f"{radius:g}" for radius in self.head.map.radii)
        if radii:
            text += f"; every certificate has {'radius' if len(self.head.map.radii) == 1 else 'one of the radii'} {radii}"
        return f"{text}; {self.withheld}" if self.withheld else text

    def attempt_text(self) -> str:
        """What a later attempt costs, for a person; empty for the first, and where no log counts."""
        if self.attempt < 2:
            return ""
        return f"{self.attempt} of this product: calibrated more strictly, so that the promise holds whichever attempt is kept"

    @property
    def _format(self) -> str:
        return FORMATS[format_number(self.head.map)]

    def to_json(self) -> Dict[str, Any]:
        value: Dict[str, Any] = {
            "format": self._format,
            "head": self.head.to_json(),
            "guarantee": self.guarantee.to_json(),
            "execution": self.execution.to_json(),
            "num_frames": self.num_frames,
            "rank": self.rank,
            "calibration_digest": self.calibration_digest,
            "base_digest": self.base_digest,
            "num_samples": list(self.num_samples),
            "attempt": self.attempt,
            "seed": self.seed,
            "class_frames": list(self.class_frames),
            "withheld": self.withheld,
        }
        if self.issued is not None:  # a record without it keeps the digest that it has
            value["issued"] = list(self.issued)
        return value

    @classmethod
    def from_json(cls, value: Any) -> "Calibration":
        """Read a record; raises CalibrationError for anything else."""
        got = value.get("format") if isinstance(value, dict) else type(value).__name__
        check_format("calibration record", got, FORMATS, "calibrate again")
        try:
            record = cls(
                head=CertificateHead.from_json(value["head"]),
                guarantee=Guarantee.from_json(value["guarantee"]),
                execution=Execution.from_json(value["execution"]),
                num_frames=int(value["num_frames"]),
                rank=None if value["rank"] is None else int(value["rank"]),
                calibration_digest=str(value["calibration_digest"]),
                base_digest=str(value["base_digest"]),
                num_samples=(int(value["num_samples"][0]), int(value["num_samples"][1])),
                attempt=int(value["attempt"]),
                seed=int(value["seed"]),
                class_frames=tuple(int(count) for count in value["class_frames"]),
                withheld=str(value["withheld"]),
                issued=_pair(value.get("issued")),
            )
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise CalibrationError(
                f"calibration record: {error!r} is missing or malformed; calibrate again"
            ) from error
        if got != record._format:
            raise CalibrationError(
                f"calibration record: got format {got!r}, expected {record._format!r} for map {record.head.map.name!r}"
            )
        return record

    def save(self, path: PathLike) -> None:
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: PathLike, *, data: Optional[bytes] = None) -> "Calibration":
        """Read a record; data: the file's bytes where they were read and checked before. Raises: CalibrationError."""
        return cls.from_json(read_json(path, "calibration record", data=data))
