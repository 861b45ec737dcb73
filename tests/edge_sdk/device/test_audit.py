"""Audits: too many wrong certificates suspend, within the promise they do not, and the evidence is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rrise.edge_sdk import BundleError, Certifier, EdgeError, Status
from rrise.edge_sdk.device.audit import STATE_FILE, AuditLog
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

FRAME = helpers.random_frames(Spec(), 1)[0]


def _until_suspended(path, rate, limit):
    rng = np.random.default_rng(0)
    with Certifier.load(path) as certifier:
        for number in range(limit):
            certifier.record_audit(bool(rng.random() < rate))
            if certifier.certify(FRAME).status is Status.SUSPENDED:
                return number + 1
    return None


def test_audits_within_the_promise_do_not_alarm(copied):
    assert _until_suspended(copied, 0.1, 400) is None


def test_too_many_wrong_certificates_suspend_across_restarts(copied):
    assert _until_suspended(copied, 0.4, 200) <= 60
    with Certifier.load(copied) as certifier:
        certificate = certifier.certify(FRAME)
        assert certificate.status is Status.SUSPENDED and "more certificates are wrong" in certificate.reason
        certifier.reset()
        certifier.record_audit(False)
        assert certifier.certify(FRAME).status is not Status.SUSPENDED


def test_evidence_is_kept_between_starts(copied):
    for _ in range(40):
        with Certifier.load(copied) as certifier:
            certifier.record_audit(True)
    with Certifier.load(copied) as certifier:
        assert certifier.certify(FRAME).status is Status.SUSPENDED


def test_a_changed_log_is_refused(copied):
    with Certifier.load(copied) as certifier:
        certifier.record_audit(True)
        path = certifier.bundle.device_folder(certifier.execution) / STATE_FILE
        helpers.rewrite_sealed(path, seen=-4)
    with Certifier.load(copied) as certifier, pytest.raises(BundleError, match="audit log"):
        certifier.record_audit(True)


def test_a_log_that_cannot_be_kept_suspends(copied, monkeypatch):
    from rrise.edge_sdk.bundles import bundle as bundle_module

    def refuse(path, value):
        raise OSError("read-only")

    monkeypatch.setattr(bundle_module, "write_sealed", refuse)
    with Certifier.load(copied) as certifier:
        certifier.record_audit(False)
        assert "cannot be kept" in certifier.certify(FRAME).reason


def test_what_cannot_be_audited_is_refused(copied, tmp_path):
    bare = helpers.make_bundle(tmp_path / "bare", calibrated=False)
    with Certifier.load(bare) as certifier, pytest.raises(EdgeError, match="promises nothing"):
        certifier.record_audit(True)
    with Certifier.load(copied) as certifier, pytest.raises(EdgeError, match="whole-clip"):
        AuditLog(certifier.bundle, certifier.execution, replace(certifier.guarantee, kind="whole-clip"))


def test_a_folder_that_cannot_be_written_suspends_at_the_first_audit(copied):
    with Certifier.load(copied) as certifier:
        (copied / "device").write_text("not a folder")
        certifier.record_audit(False)
        certificate = certifier.certify(helpers.random_frames(Spec(), 1)[0])
    assert certificate.status is Status.SUSPENDED and "cannot be kept" in certificate.reason
