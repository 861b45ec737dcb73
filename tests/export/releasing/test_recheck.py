"""`rrise-export check` finds edits whose digests, metadata and constants all fit: the workspace decides what is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.record import Calibration
from rrise.edge_sdk import Certifier
from rrise.edge_sdk.device.loading import State
from rrise.edge_sdk.formats.manifest import Manifest
from rrise.export.cli import main
from rrise.export.pipeline import gate_bundle
from rrise.export.releasing.recheck import MANIFEST, RECORD, RECORDED
from tests.export import damage

RANK, COVERAGE = "rank of the offset", "coverage of the verification frames"


def fewer_ranked(record: Calibration) -> Calibration:
    """A smaller offset whose record says that it is the score of a lower rank."""
    return replace(damage.with_offset_lower_by(record, 0.25), rank=20)


def weaker_promise(record: Calibration) -> Calibration:
    return replace(fewer_ranked(record), guarantee=Guarantee.of(error="0.4", confidence="0.9", beta="0.1"))


def smaller_norm(manifest: Manifest) -> Manifest:
    return replace(manifest, preprocessing={**manifest.preprocessing, "operator_norm": 0.01})


@pytest.mark.parametrize(
    ("edit", "found_by"),
    [
        ({"record": fewer_ranked}, RECORD),
        ({"record": weaker_promise}, RECORD),
        ({"record": lambda record: replace(record, num_frames=1000)}, RECORD),
        ({"record": lambda record: replace(record, attempt=7)}, RECORD),
        ({"manifest": smaller_norm}, MANIFEST),
        ({"manifest": lambda manifest: replace(manifest, class_names=manifest.class_names[::-1])}, MANIFEST),
        ({"manifest": lambda manifest: replace(manifest, frame_rate=1.0)}, MANIFEST),
        ({"probit": 0.5}, RECORDED),
    ],
)
def test_a_consistent_edit_is_found(
    bundle: Path, workspace: Path, tmp_path: Path, edit: dict[str, Callable[[Any], Any]], found_by: str
) -> None:
    copy = damage.copy_of(bundle, tmp_path)
    damage.edit_everywhere(copy, "fp32", **edit)  # type: ignore[arg-type]
    with Certifier.load(copy) as certifier:
        assert certifier.state.state is State.CALIBRATED, "without a key nothing on the robot can tell"
    (report,) = gate_bundle(copy, workspace)
    found = {check.name for check in report.checks if not check.passed}
    # A rank that the guarantee does not give is seen by the gate as well, and so may be too many certificates.
    assert found_by in found and found <= {found_by, RANK, COVERAGE}
    assert (RANK in found) == (edit.get("record") in (fewer_ranked, weaker_promise))


def test_check_holds_float32_to_its_own_rounding(bundle: Path, workspace: Path) -> None:
    """As tightly as the export did, not to the wider default."""
    (sound,) = gate_bundle(bundle, workspace)
    assert sound
    limits = {check.name: check.limit for check in sound.checks}
    assert float(limits["change of the probit"].split()[-1]) < 1e-4


def test_the_command_says_what_differs(bundle: Path, workspace: Path, tmp_path: Path) -> None:
    copy = damage.copy_of(bundle, tmp_path)
    damage.edit_everywhere(copy, "fp32", record=fewer_ranked)
    result = CliRunner().invoke(main, ["check", str(copy), str(workspace)])
    assert result.exit_code == 1 and "rank 20" in result.stderr and "head offset" in result.stderr
