"""A verification as text for people and as JUnit XML for build servers."""

from __future__ import annotations

import io
from typing import List, Tuple
from xml.etree import ElementTree

from rrise.calibration.storage.digests import PathLike
from rrise.calibration.storage.files import atomic_file
from rrise.edge_sdk.device.verify import Verification, VerificationVerdict

_CHECKS = (VerificationVerdict.REFERENCES, VerificationVerdict.NUMERICS, VerificationVerdict.STATISTICS)


def verification_rows(result: Verification) -> List[Tuple[str, str]]:
    """Name and value of each line of the summary."""
    rows = [("execution", result.execution), ("before", str(result.state))]
    rows.append(("frames", f"{result.frames}, {result.new_frames} new"))
    if result.replay:
        replay = result.replay
        rows += [
            ("larger", f"{replay.larger} certificates, by at most {replay.largest_increase:.3g}"),
            ("flipped", f"{replay.flipped} labels, {replay.flipped_certified} of them certified"),
        ]
    if result.coverage:
        coverage = result.coverage
        rows.append(
            (
                "coverage",
                f"{coverage.exceeding} of {coverage.frames} above the reference radius,"
                f" at most {coverage.upper:.3g} with confidence 99 %",
            )
        )
    for row in result.classes:
        rows.append(
            (f"class {row.name}", f"{row.frames} frames, {row.issued} certified, {row.exceeding} above")
        )
    if result.proves:
        rows.append(("proves", result.proves))
    rows.append((str(result.verdict), result.sentence))
    return rows


def write_junit(path: PathLike, result: Verification) -> None:
    """Write one test case for each of the three checks; those after the failing one count as skipped."""
    failed = result.verdict if result.verdict in _CHECKS else None
    position = len(_CHECKS) if failed is None else _CHECKS.index(failed)
    suite = ElementTree.Element(
        "testsuite",
        name="rrise-edge verify",
        tests=str(len(_CHECKS)),
        failures=str(int(failed is not None)),
        skipped=str(max(len(_CHECKS) - 1 - position, 0)),
        errors="0",
    )
    for index, check in enumerate(_CHECKS):
        case = ElementTree.SubElement(suite, "testcase", classname=result.execution, name=check.value)
        if index == position:
            ElementTree.SubElement(case, "failure", message=result.sentence)
        elif index > position:
            ElementTree.SubElement(case, "skipped", message=f"not reached after {result.verdict}")
    text = io.BytesIO()
    ElementTree.ElementTree(suite).write(text, encoding="utf-8", xml_declaration=True)
    with atomic_file(path) as file:
        file.write(text.getvalue())
