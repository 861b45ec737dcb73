"""The camera loop: every frame is answered, late and unusable ones without a radius and with the reason."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from rrise.edge_sdk import Captured, Certifier, CheckSettings, EdgeError, Status, StreamSettings
from rrise.edge_sdk.stream.captured import SourceLost
from rrise.edge_sdk.stream.stream import Stream
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec


@pytest.fixture(scope="module")
def certifier(hand_bundle):
    with Certifier.load(hand_bundle) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def frames(certifier):
    return [frame for frame in helpers.random_frames(Spec(), 60) if certifier.certify(frame)][:10]


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


def test_a_recording_is_answered_frame_by_frame(certifier, frames):
    with certifier.stream(frames) as stream:
        answers = list(stream)
    assert [answer.certificate.radius for answer in answers] == [certifier.certify(f).radius for f in frames]
    assert all((answer.frame == frame).all() for answer, frame in zip(answers, frames))
    assert [answer.certificate.frame_id for answer in answers] == list(range(10))
    assert stream.counts.received == 10 and stream.counts.statuses == {"certified": 10}


def test_stale_frames_are_not_run(certifier, frames, monkeypatch):
    settings = StreamSettings(max_staleness=0.2, clock=Clock(100.0))
    ages = [0.0, 0.19, 0.21, 5.0, -0.04, -0.06, float("nan")]
    captured = [Captured(frame, 100.0 - age, index) for index, (frame, age) in enumerate(zip(frames, ages))]
    certificates = [certificate for _, certificate in certifier.stream(captured, settings)]
    assert [certificate.status.value for certificate in certificates] == [
        "certified", "certified", "stale", "stale", "certified", "stale", "invalid_input",
    ]  # fmt: skip
    assert "0.210 s old" in certificates[2].reason and "synchronise" in certificates[5].reason
    assert certificates[2].label is None


def test_an_answer_after_the_deadline_is_not_certified(certifier, frames):
    clock = Clock(10.0)

    class Late:
        """The certifier, but time passes while it works."""

        runtime, bundle = certifier.runtime, certifier.bundle

        def certify(self, frame, **names):
            clock.now += names["frame_id"]
            return certifier.certify(frame, **names)

    captured = [Captured(frames[0], 10.0, 0.05), Captured(frames[1], 10.05, 0.5)]  # type: ignore[arg-type]
    stream = Stream(Late(), _Recording(captured), StreamSettings(deadline=0.1, clock=clock))  # type: ignore[arg-type]
    in_time, late = [certificate for _, certificate in stream]
    assert in_time.status is Status.CERTIFIED
    assert late.status is Status.STALE and late.radius == 0 and late.label is not None
    assert "when its answer was there" in late.reason


class _Recording:
    live = False

    def __init__(self, items):
        self.items = list(items)

    def read(self):
        return self.items.pop(0) if self.items else None

    def reopen(self):
        raise SourceLost("recording")

    def close(self):
        pass


def test_unusable_frames_say_why(certifier, frames):
    dark = np.zeros((8, 8, 1), np.uint8)
    captured = [
        Captured(dark, 0.0), Captured(frames[0][:5], 0.0), Captured(None, 0.0, problem="unreadable"),
        Captured(b"\xff\xd8 no", 0.0, encoding="jpeg"), Captured(frames[0], 0.0, problem="torn"), Captured("x", 0.0),
        *[Captured(frames[1], 0.0)] * 5,
    ]  # fmt: skip
    certificates = [certificate for _, certificate in certifier.stream(captured)]
    assert {certificate.status for certificate in certificates[:6]} == {Status.INVALID_INPUT}
    for certificate, word in zip(
        certificates, ("dark", "got uint8", "unreadable", "jpeg", "torn", "got str")
    ):
        assert word in certificate.reason
    assert [bool(certificate) for certificate in certificates[6:]] == [True, True, True, False, False]
    assert "frozen" in certificates[-1].reason
    settings = StreamSettings(checks=CheckSettings(frozen_after=0))
    assert all(certificate for _, certificate in certifier.stream([Captured(frames[1], 0.0)] * 9, settings))


def test_encodings_are_converted_and_the_converted_frame_is_handed_out(certifier, frames):
    colour = np.repeat(frames[0], 3, axis=2)
    ((frame, certificate),) = certifier.stream([Captured(colour, 0.0, encoding="bgr8")])
    assert (frame == frames[0]).all() and certificate.radius == certifier.certify(frames[0]).radius


class _Camera:
    """A live source under the test's control: a frame is delivered when the test allows it."""

    live = True

    def __init__(self, frames, lose_after=None):
        self.frames, self.allowed, self.closed = iter(frames), threading.Semaphore(0), threading.Event()
        self._lose_after, self._sent, self.reopened = lose_after, 0, 0

    def read(self):
        if self._sent == self._lose_after and not self.reopened:
            raise SourceLost("unplugged")
        assert self.allowed.acquire(timeout=20)
        self._sent += 1
        frame = next(self.frames, None)
        return None if frame is None else Captured(frame, 50.0, self._sent)

    def reopen(self):
        self.reopened += 1

    def close(self):
        self.closed.set()


def test_a_live_source_is_read_in_its_own_thread_and_survives_loss(certifier, frames):
    camera = _Camera(frames[:4], lose_after=2)
    seen = []
    camera.allowed.release()
    stream = certifier.stream(camera, StreamSettings(silence=None, clock=Clock(50.0)))
    for _, certificate in stream:
        seen.append(certificate.frame_id)
        camera.allowed.release()
    assert seen == [1, 2, 3, 4] and camera.reopened == 1
    assert stream.counts.reconnects == 1 and stream.counts.dropped == 0
    assert camera.closed.is_set()


def test_silence_of_a_camera_is_told(certifier):
    camera = _Camera([])
    stream = certifier.stream(camera, StreamSettings(silence=0.01))
    iterator = iter(stream)
    frame, certificate = next(iterator)
    assert (
        frame is None and certificate.status is Status.STALE and "no frame for 0.01 s" in certificate.reason
    )
    camera.allowed.release()
    rest = [certificate.status for _, certificate in iterator]
    assert set(rest) <= {Status.STALE} and camera.closed.is_set()


def test_leaving_the_loop_releases_the_camera(certifier, frames):
    camera = _Camera(frames)
    for _ in range(11):
        camera.allowed.release()
    with certifier.stream(camera) as stream:
        next(iter(stream))
    assert camera.closed.wait(20)


@pytest.mark.parametrize("name", ["max_staleness", "deadline", "silence"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_impossible_times_are_refused(name, value):
    with pytest.raises(EdgeError, match=name):
        StreamSettings(**{name: value})


@pytest.mark.parametrize("when", ["later", None, float("nan"), float("inf")])
def test_a_capture_time_that_is_none_ends_no_loop(certifier, frames, when):
    settings = StreamSettings(max_staleness=0.2, deadline=0.2, clock=Clock(100.0))
    captured = [Captured(frames[0], when, 1), Captured(frames[1], 100.0, 2)]
    first, second = [certificate for _, certificate in certifier.stream(captured, settings)]
    assert first.status is Status.INVALID_INPUT and "capture_time" in first.reason
    assert first.capture_time == 100.0 and second.status is not Status.INVALID_INPUT


def test_a_broken_message_of_a_camera_is_no_silence(certifier, frames):
    camera = _Camera(frames)
    with certifier.stream(camera) as stream:
        (_, certificate) = stream.answer(Captured(None, 0.0, problem="image message: step too small"))
    assert certificate.status is Status.INVALID_INPUT and "step too small" in certificate.reason


def test_a_stream_is_told_the_encoding_of_its_frames(certifier, frames):
    """There was no way to say what an iterable or a capture delivers."""
    expected = [certifier.certify(frame).radius for frame in frames[:5]]
    coloured = [np.repeat(frame, 3, axis=2) for frame in frames[:5]]
    plain = StreamSettings(checks=CheckSettings(dark=0, frozen_after=0))
    with certifier.stream(coloured, plain, encoding="rgb8") as stream:
        assert [certificate.radius for _, certificate in stream] == expected
    with certifier.stream([frame[:, :, 0] for frame in frames[:5]], plain) as stream:
        assert [certificate.radius for _, certificate in stream] == expected
    with pytest.raises(EdgeError, match="expected one of rgb8"):
        certifier.stream(coloured, encoding="rgb")


def test_a_live_camera_whose_read_raises_is_opened_again(certifier, frames, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    opened = []

    class Flaky:
        def __init__(self, *_):
            opened.append(self)
            self.count = 0

        def isOpened(self):
            return True

        def set(self, *_):
            return True

        release = isOpened

        def read(self):
            self.count += 1
            if self.count == 3 and len(opened) == 1:
                raise cv2.error("Unknown C++ exception from OpenCV code")
            return True, np.full((8, 8), 20 + self.count % 200, np.uint8)

    monkeypatch.setattr(cv2, "VideoCapture", Flaky)
    with certifier.stream("rtsp://camera/1") as stream:
        for seen, (_, certificate) in enumerate(stream, start=1):
            if len(opened) == 2 and certificate.status is not Status.STALE:
                break
            assert seen < 500000
    assert len(opened) == 2
