"""Time, batches and noise: what is begun is counted, what cannot end in time is not begun, and a failure ends the question."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.confirming.classifier import OpenBase
from rrise.edge_sdk.confirming.confirmer import BATCH_SIZES, Confirmer
from rrise.edge_sdk.confirming.memory import Memory, mark_of
from rrise.edge_sdk.confirming.preprocess import FramePreprocess
from rrise.edge_sdk.confirming.question import Question
from rrise.edge_sdk.errors import EdgeError
from tests.edge_sdk.confirming.conftest import Clock, random_x

PREPROCESS = FramePreprocess((8, 8, 1), "mono8", (0, 0, 8, 8), (8, 8), False)


class Base:
    """Notes its batches; `seconds` is what each takes on the clock. Answers label 1, or raises."""

    def __init__(self, clock, seconds=1e-3):
        self.clock, self.seconds, self.batches, self.fail = clock, seconds, [], False

    def __call__(self, x):
        self.batches.append(x.copy())
        self.clock.now += self.seconds
        if self.fail:
            raise RuntimeError("out of memory")
        return np.ones(len(x), np.int64)


def _confirmer(clock, base, batch_size=16, fixed=None):
    return Confirmer(OpenBase(base, fixed, "engine"), PREPROCESS, 0.25, batch_size, clock)


def _question(radius=0.9):
    return Question(1, radius, sigma=0.25, alpha=0.001)  # hundreds of hits are needed


def test_batches_are_full_and_fresh_noise_around_the_input():
    clock = Clock()
    base = Base(clock)
    confirmer, x = _confirmer(clock, base), random_x()
    base.batches.clear()
    question = _question()
    confirmer.spend(question, x, clock.now + 0.1)
    assert question.samples == 16 * len(base.batches) and len(base.batches) > 40
    assert {batch.shape for batch in base.batches} == {(16, 1, 8, 8)}
    noise = np.concatenate(base.batches) - x
    assert noise.std() == pytest.approx(0.25, rel=0.01) and abs(noise.mean()) < 0.005
    assert len({row.tobytes() for row in noise}) == len(noise)


def test_no_two_confirmers_share_noise():
    clock, seen = Clock(), []
    base = Base(clock)
    first = _confirmer(clock, base)
    for confirmer in (first, first.clone(), _confirmer(clock, base)):
        base.batches.clear()
        confirmer.spend(_question(), random_x(), clock.now + 0.01)
        seen.append(base.batches[0].tobytes())
    assert len(set(seen)) == 3


def test_a_batch_is_begun_only_if_it_is_likely_to_end_in_time():
    clock = Clock()
    base = Base(clock)
    confirmer = _confirmer(clock, base)
    until = clock.now + 0.0105
    reason = confirmer.spend(_question(), random_x(), until)
    assert reason == "the deadline came first" and until - 0.003 < clock.now < until


def test_a_deadline_for_less_than_a_batch_says_so_and_asks_nothing():
    clock = Clock()
    base = Base(clock, seconds=0.01)
    confirmer, question = _confirmer(clock, base), _question()
    base.batches.clear()
    reason = confirmer.spend(question, random_x(), clock.now + 0.005)
    assert "too short for one batch of 16 evaluations, which takes about 10 ms" in reason
    assert question.samples == 0 and not base.batches


def test_one_slow_moment_is_not_the_last_word():
    clock = Clock()
    base = Base(clock, seconds=0.001)
    confirmer, question = _confirmer(clock, base), _question()
    base.seconds = 0.05
    confirmer.spend(question, random_x(), clock.now + 1.0, lambda: len(base.batches) > 40)
    base.seconds, before = 0.001, question.samples
    for _ in range(200):
        confirmer.spend(question, random_x(), clock.now + 0.005)
    assert question.samples > before


def test_a_batch_that_ends_late_is_counted():
    clock = Clock()
    base = Base(clock)
    confirmer, question = _confirmer(clock, base), _question()
    base.seconds = 5.0
    confirmer.spend(question, random_x(), clock.now + 0.01)
    assert question.samples == 16


def test_a_failure_ends_the_question_for_ever():
    clock = Clock()
    base = Base(clock)
    confirmer, question = _confirmer(clock, base), _question(0.1)
    base.fail = True
    assert "failed on this input (out of memory)" in confirmer.spend(question, random_x(), clock.now + 1)
    base.fail, before = False, len(base.batches)
    assert "failed on this input" in confirmer.spend(question, random_x(), clock.now + 1)
    assert len(base.batches) == before and not question.confirmed


def test_whoever_waits_ends_the_test_between_batches():
    clock = Clock()
    base = Base(clock)
    confirmer, question = _confirmer(clock, base), _question()
    base.batches.clear()
    reason = confirmer.spend(question, random_x(), clock.now + 9, lambda: len(base.batches) == 3)
    assert reason == "a newer frame is waiting" and question.samples == 48


def test_batch_sizes():
    slow, quick = Clock(), Clock()
    assert _confirmer(quick, Base(quick, 1e-5), None).batch_size == BATCH_SIZES[-1]
    assert _confirmer(slow, Base(slow, 1.0), None).batch_size == BATCH_SIZES[0]
    assert _confirmer(quick, Base(quick), None, fixed=7).batch_size == 7
    for size, fixed in ((0, None), (2.5, None), (8, 7)):
        with pytest.raises(EdgeError, match="batch_size"):
            _confirmer(quick, Base(quick), size, fixed)


def test_a_real_base_is_opened_from_the_bundle(honest_bundle):
    confirmer = Confirmer.open(Bundle.open(honest_bundle), batch_size=8)
    assert confirmer.engine.startswith("onnxruntime ") and confirmer.batch_seconds > 0


def _asked(tested, x, radius=0.1, alpha=0.001, base="b"):
    return tested.question(x, 1, radius, sigma=0.25, alpha=alpha, base_digest=base)


def test_an_input_has_one_question_and_others_have_their_own():
    tested = Memory()
    with _asked(tested, random_x()) as first:
        first.add(np.ones(10, int))
    with _asked(tested, random_x()) as again, _asked(tested, random_x(1)) as other:
        assert again is first and again.samples == 10
        assert other is not first
    with _asked(tested, random_x(), base="another") as elsewhere:
        assert elsewhere is not first


def test_a_second_claim_about_an_input_is_refused():
    tested = Memory()
    with (
        _asked(tested, random_x()),
        pytest.raises(EdgeError, match="another thread is asking"),
        _asked(tested, random_x()),
    ):
        pass
    for change in ({"radius": 0.05}, {"alpha": 0.01}):
        with (
            pytest.raises(EdgeError, match="would spend the level twice"),
            _asked(tested, random_x(), **change),
        ):
            pass


def test_only_so_many_inputs_are_remembered():
    tested = Memory(remembered=2)
    for seed in (0, 1, 2):
        with _asked(tested, random_x(seed)) as question:
            question.add(np.ones(1, int))
    samples = []
    for seed in (2, 1, 0):
        with _asked(tested, random_x(seed)) as question:
            samples.append(question.samples)
    assert samples == [1, 1, 0]


def test_threads_share_a_memory():
    tested, questions = Memory(), []

    def ask(seed):
        with _asked(tested, random_x(seed)) as question:
            questions.append(question)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(question) for question in questions}) == 20


def test_marks_see_one_changed_value_of_a_small_frame_and_every_part_of_a_large_one():
    small = np.zeros((8, 8, 1), np.uint8)
    changed = small.copy()
    changed[7, 7, 0] = 1
    assert mark_of(small) != mark_of(changed) == mark_of(changed.copy())
    large = np.zeros((480, 640, 3), np.uint8)
    for part in np.ndindex(4, 4, 3):
        other = large.copy()
        rows, columns, channel = slice(part[0] * 120, None), slice(part[1] * 160, None), part[2]
        other[rows, columns, channel][:120, :160] = 1
        assert mark_of(other) != mark_of(large)
