"""A verification as JUnit XML: one case a check, the failing one marked, later ones skipped."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from rrise.edge_sdk.device.loading import State
from rrise.edge_sdk.device.verify import Verification, VerificationVerdict
from rrise.edge_sdk.device.verify_report import verification_rows, write_junit


def _result(verdict):
    return Verification(
        verdict, "a < sentence & more", "engine", State.VERIFIED, 5, 5, None, None, (), 0.0, False
    )


@pytest.mark.parametrize(
    ("verdict", "failures", "skipped"),
    [(VerificationVerdict.PASSED, [], []), (VerificationVerdict.REFERENCES, ["references"], ["numerics", "statistics"]),
     (VerificationVerdict.NUMERICS, ["numerics"], ["statistics"]), (VerificationVerdict.STATISTICS, ["statistics"], [])],
)  # fmt: skip
def test_junit_cases(tmp_path, verdict, failures, skipped):
    write_junit(tmp_path / "report.xml", _result(verdict))
    suite = ElementTree.parse(tmp_path / "report.xml").getroot()
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == ["references", "numerics", "statistics"]
    assert [case.get("name") for case in cases if case.find("failure") is not None] == failures
    assert [case.get("name") for case in cases if case.find("skipped") is not None] == skipped
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (
        "3", str(len(failures)), str(len(skipped)),
    )  # fmt: skip
    for failure in suite.iter("failure"):
        assert failure.get("message") == "a < sentence & more"


def test_text_ends_with_verdict_and_sentence():
    assert verification_rows(_result(VerificationVerdict.NUMERICS))[-1] == ("numerics", "a < sentence & more")
