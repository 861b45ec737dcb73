"""The whole edge on a bundle as `rrise-export` writes it, from a workspace that was really trained."""

from __future__ import annotations

import shutil

import pytest

from rrise.calibration.tables.references import References
from rrise.edge_sdk import Bundle, Certifier, State
from rrise.edge_sdk.device.device_calibration import recalibrate
from rrise.edge_sdk.device.drift import DriftSettings, fit_reference
from rrise.edge_sdk.device.loading import load_runtime
from rrise.edge_sdk.device.verify import verify


@pytest.fixture
def exported(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "bundle")


def _references(workspace, split):
    return References.load(workspace / "references" / f"{split}.npz")


def test_calibrated_where_it_was_exported_and_its_certificates_keep_the_promise(exported, workspace):
    references = _references(workspace, "verification")
    with Certifier.load(exported) as certifier:
        assert certifier.state.state is State.CALIBRATED, certifier.state.reason
        certificates = certifier.certify_batch(references.frames)
        assert any(certificates) and certifier.guarantee is not None
        exceeding = sum(
            certificate.radius > references.radius[row, certificate.label]
            for row, certificate in enumerate(certificates)
        )
        # A generous bound: three times the miscoverage that the guarantee allows.
        assert exceeding <= 3 * float(certifier.guarantee.alpha) * len(references) + 3
        assert all(certificate.frame_radius > 0 for certificate in certificates if certificate)


def test_verification_and_recalibration_of_another_execution(exported, workspace):
    bundle = Bundle.open(exported)
    name = bundle.artefact_name()
    runtime = load_runtime(bundle, name, threads=2)
    result = verify(bundle, name, runtime, _references(workspace, "verification"))
    assert result, result.sentence
    assert result.replay.complete and result.replay.largest_increase <= 0.01 * bundle.manifest.sigma
    with Certifier.load(exported, threads=2) as certifier:
        assert certifier.state.state is State.VERIFIED
    calibrated = recalibrate(bundle, name, runtime, _references(workspace, "calibration"))
    # The same frames on nearly the same execution ask for nearly the offset that the graph holds already.
    assert 0 <= calibrated.margin <= 0.01 * bundle.manifest.sigma
    with Certifier.load(exported, threads=2) as certifier:
        assert certifier.state.state is State.CALIBRATED


def test_a_drift_monitor_is_silent_on_held_out_frames(exported, workspace):
    bundle = Bundle.open(exported)
    name = bundle.artefact_name()
    fit_reference(
        bundle, load_runtime(bundle, name), _references(workspace, "calibration"), DriftSettings(interval=0.0)
    )
    with Certifier.load(exported) as certifier:
        certificates = certifier.certify_batch(_references(workspace, "verification").frames)
    assert {certificate.status.value for certificate in certificates} <= {"certified", "abstained"}
