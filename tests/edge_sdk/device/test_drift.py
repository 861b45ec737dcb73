"""The drift monitor in a certifier: silent on sound frames, alarmed by real corruptions, suspended across restarts."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from rrise.edge_sdk import BundleError, Certifier, EdgeError, Status
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.device.drift import (
    REFERENCE_FILE,
    STATE_FILE,
    DriftMonitor,
    DriftSettings,
    fit_reference,
    frame_features,
)
from rrise.edge_sdk.device.suspension import FILE, lift, suspend, suspended_because
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec


@pytest.fixture(scope="module")
def digits():
    """The 1,797 scans as uint8 [n, 8, 8, 1], shuffled."""
    from sklearn.datasets import load_digits

    frames = (load_digits().images * (255 / 16)).astype(np.uint8)[:, :, :, None]
    return frames[np.random.default_rng(0).permutation(len(frames))]


def _as_references(frames):
    made = helpers.make_references(Spec(), "calibration", len(frames), 1)
    from rrise.calibration.storage.digests import frame_digests

    return replace(made, frames=frames, digest=frame_digests(frames))


@pytest.fixture
def monitored(copied, digits):
    """A bundle whose drift monitor was fitted on 900 of the scans, testing every frame."""
    bundle = Bundle.open(copied)
    runtime = OnnxRuntime.load(bundle.model("fp32"))
    fit_reference(bundle, runtime, _as_references(digits[:900]), DriftSettings(interval=1.0))
    return copied


def _picture(frame):
    return Image.fromarray(frame[:, :, 0])


def _jpeg(frame):
    buffer = io.BytesIO()
    _picture(frame).save(buffer, "JPEG", quality=5)
    return np.asarray(Image.open(buffer))[:, :, None]


CORRUPTIONS = {
    "blur": lambda f, rng: np.asarray(_picture(f).filter(ImageFilter.GaussianBlur(1.0)))[:, :, None],
    "exposure": lambda f, rng: np.clip(f * 1.8, 0, 255).astype(np.uint8),
    "underexposure": lambda f, rng: (f * 0.5).astype(np.uint8),
    "fog": lambda f, rng: (f * 0.6 + 90).astype(np.uint8),
    "sensor noise": lambda f, rng: np.clip(f + rng.normal(0, 30, f.shape), 0, 255).astype(np.uint8),
    "jpeg": lambda f, rng: _jpeg(f),
    "another camera": lambda f, rng: (255 * (f / 255) ** 0.6 * 0.9).astype(np.uint8),
}


def _until_suspended(path, frames, corrupt, seed=0):
    """How many corrupted frames pass before certificates are suspended; all of them if none is."""
    rng = np.random.default_rng(seed)
    with Certifier.load(path) as certifier:
        for number, frame in enumerate(frames):
            certificate = certifier.certify(corrupt(frame, rng), capture_time=1000.0 + number)
            if certificate.status is Status.SUSPENDED:
                return number + 1
    return len(frames)


def test_sound_frames_do_not_alarm(monitored, digits):
    assert _until_suspended(monitored, digits[900:], lambda frame, rng: frame) == len(digits) - 900
    with Certifier.load(monitored) as certifier:
        assert certifier.certify(digits[0]).status in (Status.CERTIFIED, Status.ABSTAINED)


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_real_corruptions_are_found(monitored, digits, name):
    """Delays on these seeds: at most 60 tested frames, which is half an hour at one each 30 seconds."""
    assert _until_suspended(monitored, digits[900:1100], CORRUPTIONS[name]) <= 60


def test_a_suspension_outlives_restarts_until_reset(monitored, digits):
    _until_suspended(monitored, digits[900:1100], CORRUPTIONS["fog"])
    for _ in range(2):
        with Certifier.load(monitored) as certifier:
            certificates = certifier.certify_batch(digits[900:940])
            assert {certificate.status for certificate in certificates} == {Status.SUSPENDED}
            assert "drift" in certificates[0].reason and "rrise-edge reset" in certificates[0].reason
    with Certifier.load(monitored) as certifier:
        certifier.reset()
        statuses = {certificate.status for certificate in certifier.certify_batch(digits[900:940])}
        assert statuses <= {Status.CERTIFIED, Status.ABSTAINED}
    with Certifier.load(monitored) as certifier:
        assert certifier.certify(digits[0]).status is not Status.SUSPENDED


def test_recalibration_ends_a_suspension(monitored):
    from rrise.edge_sdk.device.device_calibration import recalibrate

    bundle = Bundle.open(monitored)
    suspend(bundle, "test")
    runtime = OnnxRuntime.load(bundle.model("fp32"))
    pack = helpers.make_references(Spec(), "calibration", 300, seed=41)
    recalibrate(bundle, "fp32", runtime, pack, write=False)
    assert suspended_because(bundle)
    recalibrate(bundle, "fp32", runtime, pack)
    assert suspended_because(bundle) is None


def test_a_violated_guarantee_suspends(copied):
    from rrise.edge_sdk.device.verify import verify

    bundle = Bundle.open(copied)
    runtime = OnnxRuntime.load(bundle.model("fp32"))
    drifted = helpers.make_references(Spec(), "verification", 300, seed=77, optimism=0.6)
    assert not verify(bundle, "fp32", runtime, drifted, write=False) and suspended_because(bundle) is None
    assert not verify(bundle, "fp32", runtime, drifted)
    with Certifier.load(copied) as certifier:
        assert certifier.certify(helpers.random_frames(Spec(), 1)[0]).status is Status.SUSPENDED


def test_an_unreadable_suspension_is_a_suspension(copied):
    bundle = Bundle.open(copied)
    suspend(bundle, "first reason")
    suspend(bundle, "second reason")
    assert suspended_because(bundle).startswith("first reason")
    (copied / "device" / FILE).write_text("{")
    assert "cannot be read" in suspended_because(bundle)
    with Certifier.load(copied) as certifier:
        assert certifier.certify(helpers.random_frames(Spec(), 1)[0]).status is Status.SUSPENDED
    lift(bundle)
    assert suspended_because(bundle) is None


def test_suspension_holds_even_where_it_cannot_be_kept(copied, monkeypatch):
    from rrise.edge_sdk.certifying import loaded as module

    def refuse(bundle, reason):
        raise OSError("read-only file system")

    monkeypatch.setattr(module, "suspend", refuse)
    with Certifier.load(copied) as certifier:
        certifier.suspend("test")
        certificate = certifier.certify(helpers.random_frames(Spec(), 1)[0])
    assert certificate.status is Status.SUSPENDED and "read-only" in certificate.reason


def test_frames_are_tested_once_an_interval(monitored, digits):
    with Certifier.load(monitored) as certifier:
        seen = certifier._loaded.monitor.test.martingale
        for time in (10.0, 10.5, 10.99, 11.0, 11.5, 12.0, 3.0, 3.5, 4.0, 4.5):
            certifier.certify(digits[0], capture_time=time)
        # 10, 11, 12; then the clock jumps back to 3, which begins an interval that ends at 4.
        assert seen.seen == 4


@pytest.mark.parametrize("stamps", ["zero", "stuck", "loop", "backwards"])
def test_stamps_that_do_not_grow_leave_time_to_this_machine(monitored, digits, monkeypatch, stamps):
    """They were tested once and never again: 100 s at 10 frames a second are about 100 tests, whatever the stamps say."""
    from rrise.edge_sdk.device import drift as module

    now = [50.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    with Certifier.load(monitored) as certifier:
        for number in range(1000):
            now[0] += 0.1
            when = {"zero": 0.0, "stuck": 1.7e9, "loop": 1000 + number % 7 * 0.1, "backwards": 5e3 - number}[
                stamps
            ]
            certifier.certify(digits[900 + number % 800], capture_time=when)
        assert 85 <= certifier._loaded.monitor.test.martingale.seen <= 101


def test_two_clocks_in_turn_are_no_flood(monitored, digits, monkeypatch):
    from rrise.edge_sdk.device import drift as module

    monkeypatch.setattr(module.time, "monotonic", lambda: 5.0)  # type: ignore[attr-defined]
    with Certifier.load(monitored) as certifier:
        certifier.certify(digits[0], capture_time=100.0)
        for _ in range(50):
            certifier.certify(digits[0], capture_time=100.01)
            certifier.certify(digits[0], capture_time=100.0)
        assert certifier._loaded.monitor.test.martingale.seen == 1


def test_a_monitored_frame_gets_the_same_answer(monitored, copied, digits):
    with Certifier.load(monitored) as certifier:
        tested = certifier.certify(digits[5], capture_time=10.0)
        untested = certifier.certify(digits[5], capture_time=10.1)
    assert (tested.label, tested.radius) == (untested.label, untested.radius)


def test_evidence_survives_a_restart(monitored, digits):
    rng = np.random.default_rng(0)
    with Certifier.load(monitored) as certifier:
        for number in range(5):
            certifier.certify(
                CORRUPTIONS["sensor noise"](digits[900 + number], rng), capture_time=float(number)
            )
        wealth = certifier._loaded.monitor.test.log_wealth
    bundle, execution = certifier.bundle, certifier.execution
    assert DriftMonitor.load(bundle, execution).test.log_wealth == wealth != 0.0


def test_batches_are_watched_too(tmp_path, digits):
    spec = Spec(batch=4)
    path = helpers.make_bundle(tmp_path / "four", spec)
    bundle = Bundle.open(path)
    runtime = OnnxRuntime.load(bundle.model("fp32"))
    fit_reference(bundle, runtime, _as_references(digits[:900]), DriftSettings(interval=0.0))
    fogged = [CORRUPTIONS["fog"](frame, None) for frame in digits[900:1200]]
    with Certifier.load(path) as certifier:
        assert certifier.certify_batch(fogged)[-1].status is Status.SUSPENDED


@pytest.mark.parametrize("name", [REFERENCE_FILE, STATE_FILE])
def test_changed_files_stop_the_loading(monitored, digits, name):
    with Certifier.load(monitored) as certifier:
        certifier.certify(digits[0])
        folder = certifier.bundle.device_folder(certifier.execution)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(BundleError):
        Certifier.load(monitored)


def test_another_release_or_execution_has_no_monitor(monitored):
    with Certifier.load(monitored) as certifier:
        bundle, execution = certifier.bundle, certifier.execution
    assert DriftMonitor.load(bundle, execution)
    assert DriftMonitor.load(bundle, replace(execution, version="0")) is None
    helpers.rewrite_sealed(bundle.device_folder(execution) / REFERENCE_FILE, release="0" * 64)
    assert DriftMonitor.load(bundle, execution) is None


def test_bad_requests_are_refused(copied, digits):
    for wrong in ({"interval": -1}, {"interval": float("nan")}, {"alpha": 0}, {"alpha": 1}):
        with pytest.raises(EdgeError, match="expected"):
            DriftSettings(**wrong)
    bundle = Bundle.open(copied)
    runtime = OnnxRuntime.load(bundle.model("fp32"))
    with pytest.raises(EdgeError, match="collect more frames"):
        fit_reference(bundle, runtime, _as_references(digits[:99]), DriftSettings())


def test_features_are_finite_for_any_frame():
    rng = np.random.default_rng(0)
    for shape in ((1, 1, 1), (1, 9, 3), (9, 1, 1), (2, 2, 3), (30, 40, 3)):
        for frame in (np.zeros(shape, np.uint8), rng.integers(0, 256, shape, dtype=np.uint8)):
            features = frame_features(frame, 1.5)
            planes = frame.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
            assert features.shape == (6,) and np.isfinite(features).all()
            np.testing.assert_allclose(frame_features(planes, 1.5), features, rtol=1e-3, atol=1e-5)


def test_a_monitor_that_cannot_remember_withholds_everything(monitored, digits, monkeypatch):
    """A read-only folder would forget every alarm at the next start."""
    from rrise.edge_sdk.bundles import bundle as module

    def refuse(path, value):
        raise OSError("read-only file system")

    with Certifier.load(monitored) as certifier:
        monkeypatch.setattr(module, "write_sealed", refuse)
        for number in range(25):
            certificate = certifier.certify(digits[number], capture_time=float(2 * number))
    assert certificate.status is Status.SUSPENDED and "read-only" in certificate.reason
    with Certifier.load(monitored) as certifier:
        certifier.reset()
        certificate = certifier.certify(digits[0])
        assert certificate.status is Status.SUSPENDED and "device folder writable" in certificate.reason
        monkeypatch.undo()
        certifier.reset()
        assert certifier.certify(digits[0]).status in (Status.CERTIFIED, Status.ABSTAINED)


@pytest.mark.parametrize("error", [PermissionError("no"), OSError("input/output error")])
def test_a_suspension_that_cannot_be_looked_at_is_one(hand_bundle, monkeypatch, error):
    from rrise.edge_sdk.device import suspension as module

    def refuse(path):
        raise error

    monkeypatch.setattr(module.os, "lstat", refuse)  # type: ignore[attr-defined]
    reason = module.suspended_because(Bundle.open(hand_bundle))
    assert reason is not None and str(error) in reason
