"""Which computation produced a number: artefact, runtime, provider, machine and options.

Why that matters: export/README.md, "Which execution a certificate holds for".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, Tuple


@dataclass(frozen=True)
class Execution:
    """One way of running one artefact. A calibration holds for exactly one execution.

    Attributes:
        artefact: SHA-256 of the file that is run.
        runtime: "pytorch", "onnxruntime", "tensorrt".
        version: of the runtime.
        provider: "cpu", "cuda", "tensorrt", as verified after loading.
        architecture: of the processor, as in "x86_64"; for a GPU its name and compute capability.
        options: (name, value) pairs that can change the numbers, sorted by name.
        batch_size: frames per call.
    """

    artefact: str
    runtime: str
    version: str
    provider: str
    architecture: str
    options: Tuple[Tuple[str, str], ...] = ()
    batch_size: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "options", tuple(sorted((str(name), str(value)) for name, value in self.options))
        )

    @property
    def name(self) -> str:
        """Short name that is safe as a folder: "onnxruntime-cpu-x86_64-1a2b3c4d" (last part: the artefact)."""
        text = f"{self.runtime}-{self.provider}-{self.architecture}-{self.artefact[:8]}".lower()
        return re.sub(r"[^a-z0-9_.-]+", "-", text)

    def same_as(self, other: "Execution") -> bool:
        """Whether a guarantee that was calibrated on `other` covers this execution without another look."""
        return self == other

    def differences(self, other: "Execution") -> Tuple[str, ...]:
        """The fields in which two executions differ, as "version: 1.30 here, 1.31 recorded"."""
        mine, theirs = self.to_json(), other.to_json()
        return tuple(
            f"{key}: {mine[key]} here, {theirs[key]} recorded" for key in mine if mine[key] != theirs[key]
        )

    def to_json(self) -> Dict[str, Any]:
        return {
            "artefact": self.artefact,
            "runtime": self.runtime,
            "version": self.version,
            "provider": self.provider,
            "architecture": self.architecture,
            "options": [list(pair) for pair in self.options],
            "batch_size": self.batch_size,
        }

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> "Execution":
        return cls(
            artefact=str(value["artefact"]),
            runtime=str(value["runtime"]),
            version=str(value["version"]),
            provider=str(value["provider"]),
            architecture=str(value["architecture"]),
            options=tuple((str(name), str(setting)) for name, setting in value["options"]),
            batch_size=int(value["batch_size"]),
        )
