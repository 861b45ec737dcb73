"""What the gate found, as a value, as JSON for machines and as JUnit for build servers."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple
from xml.etree import ElementTree

from rrise.calibration.storage.files import atomic_file, write_json
from rrise.export.gating.compare import Comparison, Tolerance

LABEL_FLIPS, ABSTAIN_FLIPS = "label flips against PyTorch", "abstain flips against PyTorch"
PROBIT_CHANGE, RADIUS_INCREASE = "change of the probit", "largest radius increase"
COMPARISON_CHECKS = (LABEL_FLIPS, ABSTAIN_FLIPS, PROBIT_CHANGE, RADIUS_INCREASE)
"""Names of the checks that a tolerance decides."""
CERTIFIED_FRAMES = 32
"""Verification frames that the gate certifies through a user's own calls."""


_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, however they are written; a file name or a parser's message may have some."""


@dataclass(frozen=True)
class Check:
    """One question of the gate. `got` and `limit` are what was found and what was allowed, for people.

    seconds: what answering took, where it was measured.
    """

    name: str
    passed: bool
    got: str
    limit: str
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class GateReport:
    """What the gate found about one artefact; true when it may be released.

    Attributes:
        comparison: with the PyTorch surrogate, on calibration and verification frames together.
        needed: the smallest tolerance with which the comparison would pass.
    """

    artefact: str
    checks: Tuple[Check, ...]
    comparison: Optional[Comparison] = None
    needed: Optional[Tolerance] = None

    def __bool__(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    def with_checks(self, checks: Sequence[Check]) -> "GateReport":
        """The same report with further checks at its end."""
        return replace(self, checks=(*self.checks, *checks))

    def failures(self) -> List[str]:
        """One sentence for every failed check, and the tolerance that would pass where the comparison failed."""
        failed = [check for check in self.checks if not check.passed]
        sentences = [
            f"{self.artefact}: {check.name}: got {check.got}, expected {check.limit}" for check in failed
        ]
        if self.needed is not None and any(check.name in COMPARISON_CHECKS for check in failed):
            values = ", ".join(f"{name} {value:.3g}" for name, value in asdict(self.needed).items())
            sentences.append(f"{self.artefact}: least tolerance that would pass: {values}")
        return sentences

    def to_json(self) -> Dict[str, Any]:
        return {
            "artefact": self.artefact,
            "passed": bool(self),
            "checks": [asdict(check) for check in self.checks],
            "comparison": None if self.comparison is None else self.comparison.to_json(),
            "needed_tolerance": None if self.needed is None else asdict(self.needed),
        }


def save_reports(folder: Path, reports: Sequence[GateReport], name: str) -> None:
    """Write `gate.json` and `gate.xml` (JUnit) into `folder`; `name` tells workspaces apart on a build server."""
    passed = bool(reports) and all(reports)
    write_json(
        folder / "gate.json", {"passed": passed, "artefacts": [report.to_json() for report in reports]}
    )
    with atomic_file(folder / "gate.xml") as file:
        file.write(junit(reports, name))


def junit(reports: Sequence[GateReport], name: str) -> bytes:
    """One test suite for each artefact, one test case for each check, with times.

    Class names are unique among workspaces called differently.
    """
    root = ElementTree.Element("testsuites", name="rrise-export gate")
    for report in reports:
        failed = sum(not check.passed for check in report.checks)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=report.artefact,
            tests=str(len(report.checks)),
            failures=str(failed),
            time=f"{sum(check.seconds for check in report.checks):.3f}",
        )
        for check in report.checks:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"gate.{name}.{report.artefact}",
                name=check.name,
                time=f"{check.seconds:.3f}",
            )
            if not check.passed:
                message = _NOT_XML.sub("?", f"got {check.got}, expected {check.limit}")
                ElementTree.SubElement(case, "failure", message=message).text = message
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"
