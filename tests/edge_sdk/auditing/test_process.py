"""The audit process for real: verdicts reach the certifier, and a process that dies, hangs or errs is survived."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration.storage.digests import file_digest
from rrise.edge_sdk import Certifier, EdgeError, Status
from rrise.edge_sdk.auditing import process
from rrise.edge_sdk.auditing.base_classifier import BaseModel
from rrise.edge_sdk.auditing.process import AuditProcess
from rrise.edge_sdk.auditing.settings import AuditSettings
from rrise.edge_sdk.device.audit import STATE_FILE
from rrise.edge_sdk.formats.sealed import read_sealed
from tests.edge_sdk import helpers
from tests.edge_sdk.auditing.conftest import base_model
from tests.edge_sdk.helpers import Spec

QUICK = AuditSettings(interval=0.0, rate=1e6, waiting=100)
FRAMES = helpers.random_frames(Spec(), 40)


def _base(path, certifier):
    return BaseModel.load(path, certifier.bundle, accept=file_digest(path))


def _offer_all(audits, certifier, frames=FRAMES):
    return [audits.offer(frame, certifier.certify(frame)) for frame in frames]


def test_the_verdicts_of_an_agreeing_base_leave_the_certifier_alone(bundle, honest):
    with (
        Certifier.load(bundle) as certifier,
        AuditProcess(certifier, _base(honest, certifier), QUICK) as audits,
    ):
        assert all(_offer_all(audits, certifier))
        audits.finish(60)
        assert audits.counts.taken == 40 == audits.counts.right + audits.counts.undecided
        assert audits.counts.wrong == audits.counts.lost == audits.counts.dropped == 0
        assert audits.problem == "" and audits.rows()["audits"].startswith("40 taken")
        log = read_sealed(certifier.bundle.device_folder(certifier.execution) / STATE_FILE, "log")
        assert log["seen"] == 40
        assert certifier.certify(FRAMES[0]).status is not Status.SUSPENDED
        assert not audits.offer(FRAMES[0], certifier.certify(FRAMES[0]))


def test_a_contradicting_base_suspends_across_restarts(bundle, contrary):
    with Certifier.load(bundle) as certifier:
        with AuditProcess(certifier, _base(contrary, certifier), QUICK) as audits:
            _offer_all(audits, certifier)
            audits.finish(60)
            assert audits.counts.wrong > 5
        # A frame that gets no certificate is an audit that found nothing wrong.
        assert audits.counts.wrong + audits.counts.right + audits.counts.undecided == audits.counts.taken
        assert certifier.certify(FRAMES[0]).status is Status.SUSPENDED
    with Certifier.load(bundle) as certifier:
        certificate = certifier.certify(FRAMES[0])
        assert certificate.status is Status.SUSPENDED and "more certificates are wrong" in certificate.reason


class _Stuck:
    """Stands in for the process: never answers until it is ended."""

    ready = True

    def __init__(self, command):
        import threading

        self._ended = threading.Event()

    def set_up(self, setup, model):
        assert setup["input_shape"] == [1, 8, 8] and model

    def judge(self, job, patience):
        self._ended.wait(30)
        raise process.WorkerFailed("ended")  # type: ignore[attr-defined]

    def kill(self):
        self._ended.set()

    end = kill


def test_waiting_frames_are_bounded_and_the_rest_is_dropped_at_once(bundle, honest, monkeypatch):
    monkeypatch.setattr(process, "Worker", _Stuck)
    settings = replace(QUICK, waiting=3)
    with (
        Certifier.load(bundle) as certifier,
        AuditProcess(certifier, _base(honest, certifier), settings) as audits,
    ):
        frame = next(one for one in FRAMES if certifier.certify(one))
        certificate = certifier.certify(frame)
        taken = sum(audits.offer(frame, certificate) for _ in range(50))
        assert 3 <= taken <= 4 and audits.counts.dropped == 50 - taken
        audits.close()
        assert audits.problem == "" and audits.counts.lost == 0


def test_frames_are_taken_at_the_interval_whatever_their_answer(bundle, honest, monkeypatch):
    monkeypatch.setattr(process, "Worker", _Stuck)
    now = [0.0]
    with (
        Certifier.load(bundle) as certifier,
        AuditProcess(
            certifier, _base(honest, certifier), replace(QUICK, interval=10.0), clock=lambda: now[0]
        ) as audits,
    ):
        taken = []
        for frame in FRAMES:
            taken.append(audits.offer(frame, certifier.certify(frame)))
            now[0] += 2.5
        assert taken == [number % 4 == 0 for number in range(40)]
        now[0] += 100
        assert not audits.offer(None, certifier.certify(None))  # never answered
        certifier.suspend("a test")
        assert not audits.offer(FRAMES[0], certifier.certify(FRAMES[0]))


def test_a_killed_process_is_started_again_and_reported(bundle, honest):
    with Certifier.load(bundle) as certifier:
        frame = next(one for one in FRAMES if certifier.certify(one))
        with AuditProcess(certifier, _base(honest, certifier), replace(QUICK, restarts=1)) as audits:
            for expected in (1, 2):
                worker = audits._started()
                os.kill(worker.pid, signal.SIGKILL)
                worker._process.wait()
                assert audits.offer(frame, certifier.certify(frame))
                while audits._jobs.unfinished_tasks and audits.counts.lost < expected:
                    audits._thread.join(0.01)
                assert f"failed {expected} times" in audits.problem and "exit status -9" in audits.problem
            assert "no more audits" in audits.problem and not audits.running
            assert not audits.offer(frame, certifier.certify(frame))
        assert certifier.certify(frame).status is Status.CERTIFIED
        assert AuditSettings(rate=0.5, max_samples=1).patience == 64.0


def test_a_hanging_process_is_ended(bundle, honest):
    settings = replace(QUICK, rate=1e-3, max_samples=100, timeout=0.2, restarts=0)
    with (
        Certifier.load(bundle) as certifier,
        AuditProcess(certifier, _base(honest, certifier), settings) as audits,
    ):
        frame = next(one for one in FRAMES if certifier.certify(one))
        audits.offer(frame, certifier.certify(frame))
        audits.finish(60)
        assert audits.counts.lost == 1 and "no answer within 0.2 s" in audits.problem


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (base_model(np.zeros((81, 3)), side=9), "expected one float32 [batch, 1, 8, 8]"),
        (base_model(np.zeros((64, 4)), classes=4), "has 4 classes"),
        (base_model(np.full((64, 3), np.nan)), "NaN"),
    ],
)
def test_a_base_that_does_not_fit_is_reported(bundle, tmp_path, model, told):
    path: Path = tmp_path / "base.onnx"
    path.write_bytes(model)
    settings = replace(QUICK, restarts=0)
    with (
        Certifier.load(bundle) as certifier,
        AuditProcess(certifier, _base(path, certifier), settings) as audits,
    ):
        frame = next(one for one in FRAMES if certifier.certify(one))
        audits.offer(frame, certifier.certify(frame))
        audits.finish(60)
        assert told in audits.problem and audits.counts.lost == 1


def test_verdicts_are_not_counted_for_another_bundle(bundle, honest, tmp_path):
    second = helpers.copy(bundle, tmp_path / "second")
    with (
        Certifier.load(bundle) as certifier,
        AuditProcess(certifier, _base(honest, certifier), QUICK) as audits,
    ):
        first = certifier.bundle
        certifier.swap(second)
        certifier.record_audit(True, bundle=first)
        assert not (certifier.bundle.device_folder(certifier.execution) / STATE_FILE).exists()
        assert not audits.offer(FRAMES[0], certifier.certify(FRAMES[0]))
        assert "another bundle" in audits.problem


def test_evidence_that_was_changed_suspends(bundle, contrary):
    with Certifier.load(bundle) as certifier:
        with AuditProcess(certifier, _base(contrary, certifier), QUICK) as audits:
            path = certifier.bundle.device_folder(certifier.execution) / STATE_FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
            audits.offer(FRAMES[0], certifier.certify(FRAMES[0]))
            audits.finish(60)
        assert "audit log" in audits.problem
        assert certifier.certify(FRAMES[0]).status is Status.SUSPENDED


def test_what_cannot_be_audited_is_refused(bundle, honest):
    for changes in ({"rate": 0}, {"interval": -1}, {"slip": 0}, {"waiting": 0}, {"timeout": 0}):
        with pytest.raises(EdgeError, match="audit settings"):
            AuditSettings(**changes)  # type: ignore[arg-type]
    with Certifier.load(bundle) as certifier:
        with pytest.raises(EdgeError, match="half of the bundle's error"):
            AuditProcess(certifier, _base(honest, certifier), AuditSettings(slip=0.2))
        with pytest.raises(EdgeError, match="slip"):
            certifier.record_audit(True, slip=0.95)


def test_an_audits_slip_weakens_its_bet(bundle):
    with Certifier.load(bundle) as certifier:
        certifier.record_audit(True)
        exact = certifier._loaded.course.audits._test.log_wealth
        certifier.reset()
        certifier.record_audit(True, slip=0.05)
        assert 0 < certifier._loaded.course.audits._test.log_wealth < exact
