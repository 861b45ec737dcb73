"""What may happen to a certifier between two frames: exceptions of signal handlers, forks, copies, odd arguments."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rrise.edge_sdk import Certifier, EdgeError, Status
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

FRAME = helpers.random_frames(Spec(), 1)[0]
ANSWERED = (Status.CERTIFIED, Status.ABSTAINED)


class Interrupt(BaseException):
    """What a signal handler raises here."""


def test_exceptions_of_a_signal_handler_leave_no_lock_behind(hand_bundle):
    """Thousands of interruptions at any place; a lock that stayed locked ended every later call."""

    def handler(*_):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with Certifier.load(hand_bundle) as certifier:
            end, interrupted = time.monotonic() + 0.7, 0
            while time.monotonic() < end:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 2e-5)
                    for _ in range(20):
                        certifier.certify(FRAME)
                except Interrupt:
                    interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert interrupted > 100
            assert certifier.certify(FRAME).status in ANSWERED
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_lock_that_was_left_behind_is_taken_over(hand_bundle):
    """The state that such an exception left, made by hand, at each of the three doors."""
    certifier = Certifier.load(hand_bundle)
    certifier._entry.acquire()
    assert certifier.certify(FRAME).status in ANSWERED
    certifier._entry.acquire()
    assert certifier.certify_batch([FRAME])[0].status in ANSWERED
    certifier._entry.acquire()
    certifier.swap(hand_bundle)
    assert certifier.certify(FRAME).status in ANSWERED
    certifier._entry.acquire()
    certifier.close()
    assert certifier._freed


def test_a_handler_that_certifies_inside_certify_is_refused(hand_bundle):
    """The same thread, but not a lock that was left behind."""
    with Certifier.load(hand_bundle) as certifier:
        answer, refused = certifier.runtime.answer, []

        def nested(batch):
            with pytest.raises(EdgeError, match="another thread"):
                certifier.certify(FRAME)
            certifier.close()  # allowed, and waits for this frame
            refused.append(certifier._freed)
            return answer(batch)

        certifier.runtime.answer = nested
        assert certifier.certify(FRAME).status in ANSWERED
        assert refused == [False] and certifier._freed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told_to_load_its_own(hand_bundle):
    """Even where another thread was inside at that moment, whose lock the child inherits."""
    with Certifier.load(hand_bundle) as certifier, Certifier.load(hand_bundle).clone() as twin:
        inside, go_on = threading.Event(), threading.Event()
        answer = certifier.runtime.answer

        def waiting(batch):
            inside.set()
            go_on.wait(20)
            return answer(batch)

        certifier.runtime.answer = waiting
        camera = threading.Thread(target=certifier.certify, args=(FRAME,))
        camera.start()
        inside.wait(20)
        reader, writer = multiprocessing.Pipe(duplex=False)

        def child():
            told = []
            for one in (certifier, twin):
                for act in (
                    lambda one=one: one.certify(FRAME),
                    lambda one=one: one.certify_batch([FRAME]),
                    one.clone,
                ):
                    try:
                        told.append(str(act()))
                    except EdgeError as error:
                        told.append(str(error))
                one.close()
            writer.send(told)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        assert reader.poll(20), "the child hangs"
        told = reader.recv()
        process.join(20)
        go_on.set()
        camera.join()
        assert process.exitcode == 0 and len(told) == 6
        assert all("Certifier.load" in text and "process" in text for text in told)
        certifier.runtime.answer = answer
        assert certifier.certify(FRAME).status in ANSWERED and twin.certify(FRAME).status in ANSWERED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_ends(hand_bundle):
    """A session with threads, destroyed where they are not, waited for them for ever."""
    code = (
        "import os, sys, time\n"
        "from edge_sdk import Certifier\n"
        f"certifier = Certifier.load({str(hand_bundle)!r}, threads=2)\n"
        "child = os.fork()\n"
        "if not child: sys.exit(7)\n"
        "for _ in range(200):\n"
        "    pid, status = os.waitpid(child, os.WNOHANG)\n"
        "    if pid: sys.exit(os.waitstatus_to_exitcode(status))\n"
        "    time.sleep(0.05)\n"
        "os.kill(child, 9)\n"
    )
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, timeout=60
    )
    assert done.returncode == 7, done.stderr


def test_copies_are_refused_with_what_to_do(hand_bundle):
    with Certifier.load(hand_bundle) as certifier:
        for act in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(EdgeError, match=r"Certifier\.load.*clone"):
                act(certifier)


def test_equal_arguments_of_another_kind_are_not_taken_for_absent(hand_bundle):
    """`encoding is roi` held for any object that was passed twice."""
    odd = "bgr8"
    with Certifier.load(hand_bundle) as certifier:
        for value in (odd, "mono8", object(), 0, ()):
            assert certifier.certify(FRAME, encoding=value, roi=value).status is Status.INVALID_INPUT  # type: ignore[arg-type]


class _Raising:
    def __float__(self):
        raise RuntimeError("no")

    __repr__ = __float__


@pytest.mark.parametrize(
    "when",
    ["5", b"5", True, float("nan"), float("inf"), 10**400, 10**5000, 1j, [], object(), _Raising()],
    ids=lambda value: type(value).__name__,
)
def test_an_odd_capture_time_is_the_frames_fault_and_not_the_runtimes(hand_bundle, when):
    with Certifier.load(hand_bundle) as certifier:
        answer = certifier.certify(FRAME, capture_time=when)
        assert answer.status is Status.INVALID_INPUT and "capture_time" in answer.reason
        assert certifier.certify_batch([FRAME], capture_time=when)[0].status is Status.INVALID_INPUT
        assert certifier.certify(FRAME, capture_time=5).status in ANSWERED


def test_where_a_bundle_lies_is_settled_when_it_is_loaded(copied, tmp_path, monkeypatch):
    """After `chdir`, or once a link leads elsewhere, the wrong release was suspended and the faulty one certified."""
    other = helpers.copy(copied, tmp_path / "other")
    link = tmp_path / "current"
    link.symlink_to(copied)
    monkeypatch.chdir(tmp_path)
    with Certifier.load("current") as certifier:
        link.unlink()
        link.symlink_to(other)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        certifier.record_audit(False)
        certifier.suspend("a fault")
    assert not (tmp_path / "elsewhere" / "current").exists() and not (other / "device").exists()
    with Certifier.load(copied) as again, Certifier.load(other) as innocent:
        assert again.certify(FRAME).status is Status.SUSPENDED
        assert innocent.certify(FRAME).status in ANSWERED


def test_a_release_put_in_place_of_a_faulty_one_is_not_suspended(copied, tmp_path):
    second = helpers.make_bundle(tmp_path / "second", Spec(seed=7))
    with Certifier.load(copied) as certifier:
        Path(copied).rename(tmp_path / "old")
        Path(second).rename(copied)
        certifier.suspend("a fault")
        answer = certifier.certify(FRAME)
        assert answer.status is Status.SUSPENDED and "not kept for the next start" in answer.reason
    with Certifier.load(copied) as innocent:
        assert innocent.certify(FRAME).status in ANSWERED
