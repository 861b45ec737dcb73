"""Certifying frames: right numbers, every status, and no answer where none is due."""

from __future__ import annotations

import json
import pickle
import threading
import warnings

import numpy as np
import pytest

from rrise.calibration.statistics.probit import probit_from_logits
from rrise.edge_sdk import (
    BundleError,
    Certificate,
    Certifier,
    CheckSettings,
    EdgeError,
    Roi,
    RuntimeFault,
    RuntimeUnavailable,
    Status,
)
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import NAMES, Spec


@pytest.fixture(scope="module")
def certifier(hand_bundle):
    with Certifier.load(hand_bundle) as loaded:
        yield loaded


def _expected(spec, path, frames):
    answer = probit_from_logits(helpers.logits(spec, frames).astype(np.float32))
    return answer.label, helpers.head_of(path).radius(answer.probit, answer.label)


def test_label_and_radius_are_those_of_the_numpy_head(certifier, hand_bundle):
    frames = helpers.random_frames(Spec(), 300)
    labels, radii = _expected(Spec(), hand_bundle, frames)
    certificates = certifier.certify_batch(frames)
    assert [certificate.label for certificate in certificates] == labels.tolist()
    np.testing.assert_allclose([certificate.radius for certificate in certificates], radii, rtol=0, atol=2e-5)
    assert {certificate.status for certificate in certificates} == {Status.CERTIFIED, Status.ABSTAINED}
    assert all(bool(certificate) == (certificate.radius > 0) for certificate in certificates)


def test_fields_of_a_certificate(certifier):
    frame = next(f for f in helpers.random_frames(Spec(), 50) if certifier.certify(f))
    certificate = certifier.certify(frame, capture_time=12.5, frame_id="cam/7")
    assert certificate.name == NAMES[certificate.label]
    assert (certificate.capture_time, certificate.frame_id, certificate.reason) == (12.5, "cam/7", "")
    assert certificate.latency > 0
    # The preprocessing's norm is at most 0.5, so the same change of the frame may be twice as large; rounded down.
    assert certificate.frame_radius == pytest.approx(2 * certificate.radius)
    assert certificate.frame_radius <= 2 * certificate.radius
    assert json.loads(json.dumps(certificate.to_json()))["status"] == "certified"
    assert pickle.loads(pickle.dumps(certificate)) == certificate
    assert certificate.name in certificate.to_line()
    with pytest.raises(AttributeError):
        certificate.radius = 9.0


def test_a_certificate_cannot_be_made_inconsistent():
    for status, radius in [
        (Status.ABSTAINED, 0.1), (Status.CERTIFIED, 0.0), (Status.CERTIFIED, -1.0),
        (Status.CERTIFIED, float("nan")), (Status.CERTIFIED, float("inf")), (Status.STALE, float("nan")),
    ]:  # fmt: skip
        with pytest.raises(AssertionError):
            Certificate(status, 0, "a", radius, 0.0, 0.0, 0.0, None, "")


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8, 1), np.float32), np.zeros((8, 8, 1), np.int8), np.zeros((8, 9), np.uint8),
        np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 1), np.uint8), np.zeros((0,), np.uint8),
        np.zeros((8, 8, 1), object), None, "frame", b"frame", 3, [[1, 2], [3, 4]], {}, np.uint8(3),
        np.ma.masked_array(np.zeros((8, 8, 1), np.float16)),
    ],
)  # fmt: skip
def test_wrong_frames_give_invalid_input_and_say_why(certifier, frame):
    certificate = certifier.certify(frame, frame_id=1)
    assert certificate.status is Status.INVALID_INPUT
    assert (certificate.radius, certificate.label, certificate.frame_id) == (0.0, None, 1)
    assert "expected uint8 [8, 8, 1]" in certificate.reason


def test_a_grey_picture_needs_no_channel(certifier, batch_bundle):
    """It was taken by colour bundles, with encoding mono8, and refused by grey ones."""
    frame = helpers.random_frames(Spec(), 1)[0]
    expected = certifier.certify(frame)
    for given in ({}, {"encoding": "mono8"}, {"roi": Roi(0, 0, 8, 8)}):
        answer = certifier.certify(frame[:, :, 0], **given)
        assert (answer.label, answer.radius) == (expected.label, expected.radius)
    assert certifier.certify_batch([frame[:, :, 0]])[0].radius == expected.radius
    with Certifier.load(batch_bundle) as colour:
        grey = np.zeros((6, 5), np.uint8)
        assert colour.certify(grey).status is Status.INVALID_INPUT
        assert colour.certify(grey, encoding="mono8").status is not Status.INVALID_INPUT


def test_memory_layout_does_not_matter(certifier):
    frame = helpers.random_frames(Spec(), 1)[0]
    wide = np.zeros((8, 20, 1), np.uint8)
    wide[:, 3:11] = frame
    readonly = frame.copy()
    readonly.flags.writeable = False
    answers = [
        certifier.certify(view)
        for view in (frame, np.asfortranarray(frame), wide[:, 3:11], frame[::-1].copy()[::-1], readonly)
    ]
    assert len({(answer.label, answer.radius) for answer in answers}) == 1


def test_batches_pad_and_keep_order(batch_bundle):
    spec = Spec((6, 5, 3), batch=4, seed=1)
    frames = list(helpers.random_frames(spec, 11))
    with Certifier.load(batch_bundle) as certifier:
        singly = [certifier.certify(frame) for frame in frames]
        frames[5] = frames[5][:3]
        together = certifier.certify_batch(frames, frame_ids=range(11))
        labels, _ = _expected(spec, batch_bundle, np.stack([f for i, f in enumerate(frames) if i != 5]))
        assert together[5].status is Status.INVALID_INPUT
        kept = [certificate for i, certificate in enumerate(together) if i != 5]
        assert [certificate.label for certificate in kept] == labels.tolist()
        np.testing.assert_allclose(
            [c.radius for c in kept], [c.radius for i, c in enumerate(singly) if i != 5], rtol=0, atol=1e-5
        )
        assert [certificate.frame_id for certificate in together] == list(range(11))
        assert certifier.certify_batch([]) == []
        with pytest.raises(EdgeError, match="frame_ids"):
            certifier.certify_batch(frames, frame_ids=[1])


def test_float_frames_must_lie_between_0_and_1(tmp_path):
    spec = Spec(dtype="float32")
    with Certifier.load(helpers.make_bundle(tmp_path / "float", spec, calibrated=False)) as certifier:
        frame = helpers.random_frames(spec, 1)[0]
        assert certifier.certify(frame).status is Status.UNVERIFIED
        for value in (np.nan, np.inf, -0.01, 1.01):
            wrong = frame.copy()
            wrong[0, 3, 3] = value
            assert certifier.certify(wrong).status is Status.INVALID_INPUT


def test_an_uncalibrated_artefact_never_certifies(tmp_path):
    path = helpers.make_bundle(tmp_path / "bare", calibrated=False)
    for allowed in (False, True):
        with Certifier.load(path, allow_unverified=allowed) as certifier:
            certificates = certifier.certify_batch(helpers.random_frames(Spec(), 20))
            assert {certificate.status for certificate in certificates} == {Status.UNVERIFIED}
            assert certifier.guarantee is None and not certifier.state.calibrated


def test_another_execution_certifies_only_when_allowed(hand_bundle):
    frames = helpers.random_frames(Spec(), 20)
    with Certifier.load(hand_bundle, threads=2) as certifier:
        certificates = certifier.certify_batch(frames)
        assert {certificate.status for certificate in certificates} == {Status.UNVERIFIED}
        assert "intra_op_threads" in certificates[0].reason and "rrise-edge verify" in certificates[0].reason
    with Certifier.load(hand_bundle, threads=2, allow_unverified=True) as certifier:
        issued = [certificate for certificate in certifier.certify_batch(frames) if certificate]
        assert issued and all("unverified" in certificate.reason for certificate in issued)


def test_a_probe_that_differs_in_its_last_bit_demotes_the_execution(copied):
    with np.load(copied / "probe.npz") as archive:
        arrays = dict(archive)
    arrays["fp32.probit"] = np.nextafter(arrays["fp32.probit"], np.float32(9))
    np.savez(copied / "probe.npz", **arrays)
    helpers.relist(copied)
    with Certifier.load(copied) as certifier:
        assert certifier.state.state == "unverified" and "last bits" in certifier.state.reason
        assert not any(certifier.certify_batch(helpers.random_frames(Spec(), 20)))


def test_closed_certifier_raises(hand_bundle):
    with Certifier.load(hand_bundle) as certifier:
        pass
    for call in (certifier.certify, lambda frame: certifier.certify_batch([frame])):
        with pytest.raises(EdgeError, match="closed"):
            call(helpers.random_frames(Spec(), 1)[0])


class _Broken:
    """A runtime that answers what it is told to."""

    def __init__(self, runtime, answer):
        self.graph, self.execution, self.note, self._answer = runtime.graph, runtime.execution, "", answer

    def answer(self, frames):
        if isinstance(self._answer, Exception):
            raise self._answer
        label, radius = self._answer
        return [np.array([label], np.int64), np.array([radius], np.float32)]

    def close(self):
        pass


@pytest.mark.parametrize(
    "answer",
    [
        RuntimeFault("cuStreamSynchronize returned error 700"),
        RuntimeError("CUDA error 700"),
        (0, np.nan),
        (0, np.inf),
        (0, -0.5),
        (3, 0.5),
        (-1, 0.5),
        (7, 0.0),
    ],
)
def test_a_failing_runtime_gives_fault_for_good(hand_bundle, answer):
    frame = helpers.random_frames(Spec(), 1)[0]
    with Certifier.load(hand_bundle) as certifier:
        sound = certifier.runtime
        helpers.exchange(certifier, runtime=_Broken(sound, answer))
        first = certifier.certify(frame, frame_id=3)
        assert first.status is Status.FAULT and first.label is None and first.frame_id == 3
        helpers.exchange(certifier, runtime=sound)
        assert certifier.certify(frame).status is Status.FAULT
        assert certifier.certify_batch([frame])[0].status is Status.FAULT
        assert certifier.fault is not None and str(certifier.fault) in first.reason


def test_a_second_thread_is_refused_while_the_first_is_inside(hand_bundle):
    frame = helpers.random_frames(Spec(), 1)[0]
    inside, leave = threading.Event(), threading.Event()

    class Slow(_Broken):
        def answer(self, frames):
            inside.set()
            assert leave.wait(20)
            return super().answer(frames)

    with Certifier.load(hand_bundle) as certifier:
        helpers.exchange(certifier, runtime=Slow(certifier.runtime, (1, 0.5)))
        results = []
        thread = threading.Thread(target=lambda: results.append(certifier.certify(frame)))
        thread.start()
        assert inside.wait(20)
        for call in (certifier.certify, lambda frame: certifier.certify(frame)):
            with pytest.raises(EdgeError, match="another thread"):
                call(frame)
        leave.set()
        thread.join(20)
        assert results[0].radius == 0.5
        assert certifier.certify(frame)


@pytest.mark.parametrize(
    "options", [{"runtime": "tflite"}, {"provider": "npu"}, {"provider": "cuda"}, {"threads": 0}]
)
def test_what_is_not_there_is_named(hand_bundle, options):
    with pytest.raises(RuntimeUnavailable, match=r"expected|install"):
        Certifier.load(hand_bundle, **options)


def test_a_file_that_is_no_graph_is_refused(copied):
    helpers.replace_graph(copied, b"not a graph")
    with pytest.raises(BundleError, match="not an ONNX file"):
        Certifier.load(copied)


def test_no_frame_radius_without_a_known_norm():
    from rrise.edge_sdk.certifying.loaded import frame_scale

    assert frame_scale(2.0) <= 0.5 and frame_scale(2.0) == pytest.approx(0.5)
    for unknown in (None, 0.0, -1.0, float("nan"), float("inf"), "1"):
        assert frame_scale(unknown) == 0.0


def test_a_failing_runtime_in_a_batch_or_under_a_monitor_is_a_fault_too(batch_bundle, hand_bundle):
    class Failing(_Broken):
        def run(self, frames):
            raise RuntimeFault("the runtime failed")

    frames = list(helpers.random_frames(Spec((6, 5, 3), batch=4, seed=1), 6))
    with Certifier.load(batch_bundle) as certifier:
        helpers.exchange(certifier, runtime=Failing(certifier.runtime, RuntimeFault("the runtime failed")))
        certificates = certifier.certify_batch(frames, frame_ids=range(6))
        assert {certificate.status for certificate in certificates} == {Status.FAULT}
        assert [certificate.frame_id for certificate in certificates] == list(range(6))

    class Monitor:
        def due(self, now):
            return True

        def save(self):
            pass

    with Certifier.load(hand_bundle) as certifier:
        helpers.exchange(certifier, runtime=Failing(certifier.runtime, (0, 0.5)), monitor=Monitor())
        assert certifier.certify(helpers.random_frames(Spec(), 1)[0]).status is Status.FAULT


def test_files_that_may_not_be_read_are_the_packages_error(hand_bundle, monkeypatch):
    from rrise.edge_sdk.device import loading

    def refuse(*words):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(loading, "load_device_calibration", refuse)
    with pytest.raises(BundleError, match=r"Permission denied.*readable"):
        Certifier.load(hand_bundle)


def test_checks_in_certify(hand_bundle):
    """A covered lens and a hung driver were certified; `stream` alone looked."""
    frames = list(helpers.random_frames(Spec(), 20))
    black, flat = np.zeros((8, 8, 1), np.uint8), np.full((8, 8, 1), 77, np.uint8)
    with Certifier.load(hand_bundle) as plain, Certifier.load(hand_bundle, checks=True) as certifier:
        assert [certifier.certify(frame).radius for frame in frames] == [
            plain.certify(frame).radius for frame in frames
        ]
        assert plain.certify(black).status is not Status.INVALID_INPUT
        for loaded in (certifier, certifier.clone()):
            for frame, word in ((black, "dark"), (flat, "uniform")):
                answer = loaded.certify(frame)
                assert answer.status is Status.INVALID_INPUT and word in answer.reason
                assert word in loaded.certify_batch([frame, frame, frames[0]])[1].reason
        verdicts = [certifier.certify(frames[0]).reason for _ in range(5)]
        assert "frozen" in verdicts[4] and "frozen" not in verdicts[2]
        assert [answer.reason for answer in certifier.certify_batch([frames[0]] * 5)] == [""] * 5
        certifier.swap(hand_bundle)
        assert certifier.certify(black).status is Status.INVALID_INPUT


@pytest.fixture(scope="module")
def colour_bundle(tmp_path_factory):
    return helpers.make_bundle(tmp_path_factory.mktemp("colour") / "b", Spec((6, 6, 3), seed=2))


@pytest.mark.parametrize("exchanged", [True, False])
def test_exchanged_channels_are_hinted_at_once(colour_bundle, exchanged):
    """Frames that a bundle is surer of with red and blue exchanged, as OpenCV delivers them to a bundle of rgb8."""
    with Certifier.load(colour_bundle) as certifier:
        frames = helpers.random_frames(Spec((6, 6, 3)), 400)

        def surer(frame):
            return certifier.runtime.run(np.ascontiguousarray(frame)[None]).probit.item(0)

        right = [
            frame if surer(frame) > surer(frame[:, :, ::-1]) else frame[:, :, ::-1].copy() for frame in frames
        ]
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for frame in right:
                certifier.certify(frame[:, :, ::-1].copy() if exchanged else frame)
        hints = [str(one.message) for one in told if "exchanged" in str(one.message)]
        assert len(hints) == exchanged and bool(certifier.hint) == exchanged
        if exchanged:
            assert (
                "32 of 32 frames" in hints[0] and "encoding='bgr8'" in hints[0] and hints[0] == certifier.hint
            )


def test_frames_whose_encoding_is_named_are_not_compared(colour_bundle):
    with Certifier.load(colour_bundle) as certifier:
        for frame in helpers.random_frames(Spec((6, 6, 3)), 40):
            certifier.certify(frame, encoding="rgb8")
        assert (channels := certifier._loaded.course.channels) is not None and channels._looks == 0
    with Certifier.load(colour_bundle, checks=CheckSettings()) as certifier:
        assert certifier._loaded.guard.settings == CheckSettings()  # type: ignore[attr-defined]
