"""`confirm` in a camera loop, its counts, the command line, and audits of what was confirmed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rrise.edge_sdk import BundleError, Captured, Certifier, Confirm, EdgeError, Status, StreamSettings
from rrise.edge_sdk.auditing import process
from rrise.edge_sdk.auditing.process import AuditProcess
from rrise.edge_sdk.auditing.settings import AuditSettings
from rrise.edge_sdk.cli import main
from rrise.edge_sdk.confirming.classifier import engine_name
from rrise.edge_sdk.formats.bundled_base import BundledBase, EngineAgreement
from rrise.edge_sdk.formats.manifest import Manifest
from rrise.edge_sdk.operate.confirm_study import confirm_study
from rrise.edge_sdk.operate.metrics import Metrics
from rrise.edge_sdk.stream.checks import CheckSettings
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

FRAMES = helpers.random_frames(Spec(), 20)
STILL = StreamSettings(checks=CheckSettings(dark=0, frozen_after=0))
LONG = Confirm(deadline=60.0)


def _answers(certifier, confirm, settings=STILL, source=FRAMES):
    with certifier.stream(list(source), settings, confirm=confirm) as stream:
        return list(stream), stream.counts


def test_a_recording_confirms_every_issued_certificate(honest):
    with Certifier.load(honest) as certifier:
        plain = [certifier.certify(frame) for frame in FRAMES]
        answers, counts = _answers(certifier, LONG)
        assert [bool(answer.certificate) for answer in answers] == [bool(one) for one in plain]
        issued = sum(map(bool, plain))
        assert issued and counts.confirmations == {"confirmed": issued}
        assert counts.statuses["confirmed"] == issued and "certified" not in counts.statuses
        assert counts.evaluations == sum(
            answer.certificate.confirmation.samples for answer in answers if answer.certificate
        )
        metrics = Metrics()
        for answer in answers:
            metrics.add(answer.certificate)
        text = metrics.text()
        assert f'rrise_confirmations_total{{outcome="confirmed"}} {issued}' in text
        assert 'rrise_confirmations_total{outcome="refuted"} 0' in text
        assert f"rrise_confirm_evaluations_total {counts.evaluations}" in text


def test_refuted_ones_are_withheld_in_the_loop(contrary):
    with Certifier.load(contrary) as certifier:
        answers, counts = _answers(certifier, LONG)
        assert counts.confirmations["refuted"] and not any(answer.certificate for answer in answers)


def test_only_the_certificates_that_were_asked_for(honest):
    with Certifier.load(honest) as certifier:
        certificates = [certifier.certify(frame) for frame in FRAMES]
        limit = float(np.median([one.radius for one in certificates if one]))
        answers, counts = _answers(certifier, Confirm(60.0, when=lambda one: one.radius > limit))
        for answer, certificate in zip(answers, certificates, strict=True):
            asked = answer.certificate.confirmation is not None
            assert asked == (certificate.radius > limit)
        assert counts.statuses["certified"] > 0 < counts.statuses["confirmed"]


class _Waiting:
    """A mailbox in which a newer frame always waits."""

    ended = False

    def waiting(self):
        return True

    def close(self):
        pass


def test_a_newer_frame_ends_the_test_of_the_one_before(honest):
    with Certifier.load(honest) as certifier:
        frame = next(frame for frame in FRAMES if certifier.certify(frame))
        stream = certifier.stream([frame], STILL, confirm=LONG)
        stream._mailbox = _Waiting()  # type: ignore[assignment]
        certificate = stream.answer(Captured(frame, 1e9)).certificate
        assert certificate.status is Status.CERTIFIED and "a newer frame is waiting" in certificate.reason


def test_the_streams_own_deadline_comes_first(honest):
    now = [100.0]
    settings = replace(STILL, deadline=0.5, clock=lambda: now[0])
    with Certifier.load(honest) as certifier:
        frame = next(frame for frame in FRAMES if certifier.certify(frame))
        stream, asked = certifier.stream([frame], settings, confirm=LONG), []
        ask = certifier._confirm
        certifier._confirm = lambda *words: asked.append(words[2]) or ask(*words)
        stream.answer(Captured(frame, 99.7))
        assert asked[0] == pytest.approx(0.2)

        def late(*words):
            now[0] += 1.0
            return ask(*words)

        certifier._confirm = late
        certificate = stream.answer(Captured(frame, 99.7)).certificate
        assert certificate.status is Status.STALE and certificate.radius == 0.0


def test_a_loop_outlives_a_suspension_and_a_swap(honest, copied):
    with Certifier.load(honest) as certifier:
        frame = next(frame for frame in FRAMES if certifier.certify(frame))
        stream = certifier.stream([frame], STILL, confirm=LONG)
        ask = certifier._confirm

        def suspended(*words):
            certifier.suspend("drift")
            return ask(*words)

        certifier._confirm = suspended
        certificate = stream.answer(Captured(frame, 1e9)).certificate
        assert certificate.status is Status.SUSPENDED and certificate.radius == 0.0
        certifier._confirm = ask
        certifier.reset()

        def refused(*words):
            raise BundleError("the new bundle carries no base classifier")

        certifier._confirm = refused
        certificate = stream.answer(Captured(frame, 1e9)).certificate
        assert certificate.promise == "bundle" and "carries no base" in certificate.reason
    with Certifier.load(copied) as plain, pytest.raises(BundleError, match="--with-base"):
        plain.stream([frame], STILL, confirm=LONG)


def test_settings_that_are_none():
    for change in ({"deadline": 0.0}, {"alpha": 1.0}, {"when": 3}):
        with pytest.raises(EdgeError):
            Confirm(**change)


# Audits

QUICK = AuditSettings(interval=0.0, rate=1e6, waiting=100)


def _offered(certifier, base=None, **changes):
    jobs: list[Any] = []
    with AuditProcess(certifier, base, replace(QUICK, **changes)) as audits:
        audits._jobs.put_nowait = jobs.append  # type: ignore[assignment]
        for frame in FRAMES:
            certificate = certifier.certify(frame)
            asked = certifier.confirm(frame, certificate, 60.0) if certificate else certificate
            audits.offer(frame, asked)
        audits._jobs.put_nowait = type(audits._jobs).put_nowait.__get__(audits._jobs)
        return audits, jobs


@pytest.mark.parametrize("name", ["honest", "contrary"])
def test_audits_judge_what_was_issued_whatever_confirm_made_of_it(name, request):
    """Only the open ones would be the doubtful ones, and the alarm would be false."""
    with Certifier.load(request.getfixturevalue(name)) as certifier:
        audits, jobs = _offered(certifier)
        assert audits.counts.taken == len(FRAMES)
        assert [job.radius for job in jobs] == [certifier.certify(frame).radius for frame in FRAMES]
        assert [job.x is not None for job in jobs] == [job.radius > 0 for job in jobs]
        assert audits.base.proven and "lies in the bundle" in audits.base.proof


def test_audits_for_real_with_the_bundled_base(honest, contrary):
    for path, wrong in ((honest, False), (contrary, True)):
        with Certifier.load(path) as certifier, AuditProcess(certifier, settings=QUICK) as audits:
            for frame in FRAMES:
                audits.offer(frame, certifier.certify(frame))
            audits.finish(60)
            assert audits.counts.lost == 0 and bool(audits.counts.wrong) is wrong, audits.problem
            assert audits.difference.known and "counted the references too" in audits.difference.sentence


def _with_engines(path, engine, *agreements):
    manifest = Manifest.load(path / "manifest.json")
    base = BundledBase("base.onnx", manifest.base.size, engine, agreements)
    replace(manifest, base=base).save(path / "manifest.json")


def _agreement(tolerance, slip=0.001):
    return EngineAgreement(engine_name("cpu"), "tuning", 100_000, 3, tolerance, slip, 0.999)


def test_a_measured_difference_is_subtracted_and_added(honest):
    _with_engines(honest, "openvino 1 float32 cpu x86_64", _agreement(0.02, 0.003))
    with Certifier.load(honest) as certifier:
        slips = []
        certifier.record_audit = lambda wrong, slip, bundle: slips.append(slip)  # type: ignore[assignment, misc]
        with AuditProcess(certifier, settings=QUICK) as audits:
            assert (audits.difference.tolerance, audits.difference.slip) == (0.02, 0.003)
            audits.offer(FRAMES[0], certifier.certify(FRAMES[0]))
            audits.finish(60)
            assert audits.counts.lost == 0, audits.problem
        assert slips == [pytest.approx(QUICK.slip + 0.003)]


def test_the_tolerance_reaches_the_process(contrary):
    _with_engines(contrary, "openvino 1 float32 cpu x86_64", _agreement(0.49))
    with Certifier.load(contrary) as certifier, AuditProcess(certifier, settings=QUICK) as audits:
        assert audits.difference.tolerance == 0.49
        sent = []
        original = process.Worker.set_up  # type: ignore[attr-defined]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                process.Worker,  # type: ignore[attr-defined]
                "set_up",
                lambda self, setup, model: sent.append(setup) or original(self, setup, model),
            )
            audits.offer(FRAMES[0], certifier.certify(FRAMES[0]))
            audits.finish(60)
        assert sent[0]["tolerance"] == 0.49 and audits.counts.lost == 0


def test_an_unmeasured_difference_is_said_and_a_hopeless_one_refused(honest):
    _with_engines(honest, "openvino 1 float32 cpu x86_64")
    with Certifier.load(honest) as certifier, AuditProcess(certifier, settings=QUICK) as audits:
        assert not audits.difference.known and "was not measured" in audits.rows()["audit engine"]
    _with_engines(honest, "openvino 1 float32 cpu x86_64", _agreement(0.6))
    with Certifier.load(honest) as certifier, pytest.raises(EdgeError, match="no certificate could be found"):
        AuditProcess(certifier, settings=QUICK)
    _with_engines(honest, "openvino 1 float32 cpu x86_64", _agreement(0.1, slip=0.06))
    with Certifier.load(honest) as certifier, pytest.raises(EdgeError, match="half of the bundle's error"):
        AuditProcess(certifier, settings=QUICK)


def test_audits_without_any_base_say_what_is_missing(copied):
    with Certifier.load(copied) as certifier, pytest.raises(BundleError, match="--with-base"):
        AuditProcess(certifier, settings=QUICK)


# The command line


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, frame in enumerate(FRAMES[:8]):
        Image.fromarray(frame[:, :, 0]).save(folder / f"{number}.png")
    return folder


def _run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_watch_and_certify_confirm(honest, pictures):
    result = _run("watch", honest, pictures, "--replay", "--confirm", 60, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["confirmations"]["confirmed"] == told["statuses"]["confirmed"] > 0
    assert told["confirmations"]["evaluations"] > 0 and told["confirmations"]["alpha"] == 0.001
    result = _run("certify", honest, pictures, "--confirm", 60, "--confirm-level", 0.01)
    assert result.exit_code == 0 and "confirmed at level 0.01 per input" in result.output
    assert "each for its own input" in result.output
    assert _run("watch", honest, pictures, "--confirm", 0).exit_code == 2


def test_watch_audits_with_the_bundled_base_and_no_digest(honest, pictures, copied):
    result = _run("watch", honest, pictures, "--audit-rate", 1e6, "--audit-interval", 0, "--json", "--audit")
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)["audits"]
    assert told["taken"] >= 2 and told["lost"] == 0 and "lies in the bundle" in told["base"]
    result = _run("watch", copied, pictures, "--audit")
    assert result.exit_code == 2 and "--with-base" in result.output


def test_info_and_bench_know_the_bundled_base(honest, copied):
    told = _run("info", honest).output
    assert "in the bundle as base.onnx" in told and "counted the references too" in told
    assert "nothing can be confirmed here" in _run("info", copied).output
    assert json.loads(_run("info", honest, "--json").output)["base_engine_here"]["known"] is True
    timed = json.loads(_run("bench", honest, "--count", 5, "--json").output)
    assert timed["base_seconds_per_pass"] > 0


def test_the_study_of_deadlines(honest, honest_bundle, pictures):
    pack = honest_bundle.parent / "honest-references.npz"
    result = _run("confirm", honest, "--references", pack, "--deadlines", "1e-9,30", "--count", 30, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    none, every = told["rows"]
    assert none["asked"] == every["asked"] > 0 and told["frames"] == 30
    assert none["confirmed"] == 0 and none["open"] == none["asked"]
    assert every["confirmed"] == every["asked"] and every["samples"] >= told["batch"]
    busy = ("--deadlines", "30", "--count", 3, "--processor-time")
    text = _run("confirm", honest, "--references", pack, *busy).output
    assert "deadlines in processor time" in text
    assert "100.0 % confirmed, 0 open, 0 refuted" in text
    assert _run("confirm", honest, "--references", pack, "--deadlines", "soon").exit_code == 2


def test_a_study_leaves_the_memory_of_the_loop_alone(honest):
    with Certifier.load(honest) as certifier:
        kept = certifier._tested
        confirm_study(certifier, FRAMES[:3], [60.0])
        assert certifier._tested is kept and not kept._questions
        with pytest.raises(EdgeError, match="no frames or no deadlines"):
            confirm_study(certifier, FRAMES, [])
