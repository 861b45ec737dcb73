"""Choosing a runtime, clones, hot swap and rollback."""

from __future__ import annotations

import threading
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from rrise.edge_sdk import BundleError, Certifier, EdgeError, RuntimeFault, RuntimeUnavailable, State, Status
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.device.device_calibration import recalibrate
from rrise.edge_sdk.device.loading import choose_execution, matches_probe
from rrise.edge_sdk.device.suspension import suspend
from rrise.edge_sdk.formats.manifest import Manifest
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.edge_sdk.runtime.select import RuntimeCandidate, candidates
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

FRAMES = helpers.random_frames(Spec(), 30)


@pytest.fixture(scope="module")
def second_bundle(tmp_path_factory):
    """Another release: same frames and classes, other weights."""
    return helpers.make_bundle(tmp_path_factory.mktemp("swap") / "second", Spec(seed=7))


def _radii(certifier):
    return [certifier.certify(frame).radius for frame in FRAMES]


def test_auto_takes_the_processor_here_and_says_why_not_the_others(hand_bundle):
    with Certifier.load(hand_bundle) as certifier:
        assert certifier.execution.provider == "cpu" and certifier.state.state is State.CALIBRATED
        assert certifier.why.startswith("onnxruntime cpu; not tensorrt: ")
        assert "not onnxruntime cuda: " in certifier.why


def test_order_of_candidates(hand_bundle):
    bundle = Bundle.open(hand_bundle)

    def names(**options):
        return [candidate.name for candidate in candidates(bundle, "fp32", **options)]

    assert names() == ["tensorrt", "onnxruntime cuda", "onnxruntime cpu"]
    assert names(provider="cpu") == names(runtime="onnxruntime") == ["onnxruntime cpu"]
    assert names(runtime="tensorrt") == ["tensorrt"]
    for wrong in ({"runtime": "openvino"}, {"runtime": "tensorrt", "provider": "cpu"}):
        with pytest.raises(RuntimeUnavailable, match="expected"):
            names(**wrong)


def test_the_first_certified_candidate_wins(copied, pack):
    bundle = Bundle.open(copied)
    closed = []

    def candidate(threads):
        def load():
            runtime = OnnxRuntime.load(bundle.model("fp32"), threads=threads)
            close = runtime.close
            runtime.close = lambda: (closed.append(threads), close())  # type: ignore[assignment]
            return runtime

        return RuntimeCandidate(f"{threads} threads", load)

    def absent():
        raise RuntimeUnavailable("no such thing")

    def broken():
        raise RuntimeFault("CUDA error 999")

    options = [
        RuntimeCandidate("absent", absent),
        RuntimeCandidate("gpu", broken),
        candidate(3),
        candidate(1),
        candidate(2),
    ]
    chosen = choose_execution(bundle, "fp32", options)
    assert chosen.state.state is State.CALIBRATED and closed == [3]
    assert (
        chosen.why == "1 threads; not absent: no such thing; not gpu: CUDA error 999; 3 threads is unverified"
    )
    only = choose_execution(bundle, "fp32", [candidate(3), candidate(2)])
    assert (
        only.state.state is State.UNVERIFIED
        and dict(only.runtime.execution.options)["intra_op_threads"] == "2"
    )
    with pytest.raises(RuntimeUnavailable, match="no such thing"):
        choose_execution(bundle, "fp32", [RuntimeCandidate("absent", absent)])


def test_a_contradiction_is_no_reason_to_try_the_next(copied):
    bundle = Bundle.open(copied)
    other = helpers.graph(Spec(), (0.0,), helpers.metadata(Spec(), (0.0,), ""))
    with pytest.raises(BundleError):
        choose_execution(
            bundle,
            "fp32",
            [RuntimeCandidate("forged", lambda: OnnxRuntime.load(other)), *candidates(bundle, "fp32")],
        )


def test_clones_share_weights_and_work_in_parallel(hand_bundle):
    with Certifier.load(hand_bundle) as certifier:
        twin = certifier.clone()
        assert twin.runtime.session is certifier.runtime.session  # type: ignore[attr-defined]
        results, expected = {}, _radii(certifier)
        threads = [
            threading.Thread(target=lambda one=one, name=name: results.update({name: _radii(one)}))
            for name, one in (("original", certifier), ("twin", twin))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == {"original": expected, "twin": expected}
    assert _radii(twin) == expected
    with pytest.raises(EdgeError, match="closed"):
        certifier.clone()


def test_a_suspension_holds_for_clones(copied):
    with Certifier.load(copied) as certifier:
        twin = certifier.clone()
        certifier.suspend("seen by one")
        assert twin.certify(FRAMES[0]).status is Status.SUSPENDED
        certifier.reset()
        assert twin.certify(FRAMES[0]).status is not Status.SUSPENDED


def test_a_suspension_that_a_clone_finds_holds_for_both(copied):
    from rrise.edge_sdk.device.suspension import suspend

    with Certifier.load(copied) as certifier:
        suspend(certifier.bundle, "found by another process")
        with certifier.clone() as twin:
            assert {one.certify(FRAMES[0]).status for one in (certifier, twin)} == {Status.SUSPENDED}


def test_swap_and_rollback(hand_bundle, second_bundle):
    with Certifier.load(hand_bundle) as certifier, Certifier.load(second_bundle) as second:
        before, after = _radii(certifier), _radii(second)
        assert before != after
        certifier.swap(second_bundle)
        assert _radii(certifier) == after and certifier.bundle.path == second_bundle
        certifier.rollback()
        assert _radii(certifier) == before and certifier.bundle.path == hand_bundle
        with pytest.raises(EdgeError, match="no earlier bundle"):
            certifier.rollback()
        certifier.swap(second_bundle)
        certifier.swap(hand_bundle)
        assert _radii(certifier) == before
        certifier.rollback()
        assert _radii(certifier) == after


def test_a_swap_that_fails_leaves_everything_as_it_was(hand_bundle, copied, tmp_path):
    (copied / "probe.npz").write_bytes(b"")
    with Certifier.load(hand_bundle) as certifier:
        before = _radii(certifier)
        for path in (copied, tmp_path / "absent"):
            with pytest.raises(BundleError):
                certifier.swap(path)
        other = helpers.make_bundle(tmp_path / "other", Spec((6, 6, 3)))
        with pytest.raises(EdgeError, match="takes"):
            certifier.swap(other)
        assert _radii(certifier) == before


def test_swap_to_other_classes_is_refused(hand_bundle, second_bundle, tmp_path, monkeypatch):
    with Certifier.load(hand_bundle) as certifier:
        load = Certifier.load.__func__  # type: ignore[attr-defined]

        def renamed(cls, path, **options):
            new = load(cls, path, **options)
            manifest = replace(new.bundle.manifest, class_names=("a", "b", "c"))
            helpers.exchange(new, bundle=replace(new.bundle, manifest=manifest))
            return new

        assert isinstance(new_manifest := certifier.bundle.manifest, Manifest) and new_manifest.class_names
        monkeypatch.setattr(Certifier, "load", classmethod(renamed))  # type: ignore[arg-type]
        with pytest.raises(EdgeError, match="classes"):
            certifier.swap(second_bundle)


def test_a_failed_certifier_lives_again_after_a_swap(hand_bundle, second_bundle):
    with Certifier.load(hand_bundle) as certifier:
        certifier._fail(certifier._loaded, RuntimeError("CUDA error 700"), 0.0, 0.0, None)
        assert certifier.certify(FRAMES[0]).status is Status.FAULT
        certifier.swap(second_bundle)
        assert certifier.certify(FRAMES[0]).status is not Status.FAULT
        certifier.rollback()
        assert certifier.certify(FRAMES[0]).status is Status.FAULT


def test_frames_go_on_while_another_thread_swaps(hand_bundle, second_bundle):
    """Each certificate comes from one bundle or the other, and the camera loop never meets an exception."""
    with Certifier.load(hand_bundle) as certifier, Certifier.load(second_bundle) as second:
        allowed = [{first, last} for first, last in zip(_radii(certifier), _radii(second))]
        done, problems = threading.Event(), []

        def camera():
            try:
                while not done.is_set():
                    for frame, radii in zip(FRAMES, allowed):
                        radius = certifier.certify(frame).radius
                        if radius not in radii:
                            problems.append(radius)
            except Exception as error:  # noqa: BLE001 - of another thread, which pytest does not see
                problems.append(error)  # type: ignore[arg-type]

        thread = threading.Thread(target=camera)
        thread.start()
        for _ in range(10):
            certifier.swap(second_bundle)
            certifier.rollback()
        done.set()
        thread.join(60)
        assert problems == []


@pytest.mark.parametrize("batch", [False, True])
def test_a_frame_is_answered_from_one_bundle_throughout(hand_bundle, second_bundle, batch):
    """A swap that comes while a frame is being answered waits for it, and no part of the answer is the new bundle's."""
    with Certifier.load(hand_bundle) as certifier:
        before, loaded = _radii(certifier)[0], certifier._loaded
        inside, go_on, answer = threading.Event(), threading.Event(), certifier.runtime.answer

        def slow(frames):
            inside.set()
            assert go_on.wait(60)
            return answer(frames)

        certifier.runtime.answer = slow
        found = []

        def camera():
            found.extend(certifier.certify_batch(FRAMES[:1]) if batch else [certifier.certify(FRAMES[0])])

        threads = [
            threading.Thread(target=camera),
            threading.Thread(target=certifier.swap, args=(second_bundle,)),
        ]
        threads[0].start()
        assert inside.wait(60)
        threads[1].start()
        while not certifier._swapping and threads[1].is_alive():  # loading is over, and the swap waits
            threads[1].join(0.01)
        assert threads[1].is_alive() and certifier._loaded is loaded
        go_on.set()
        for thread in threads:
            thread.join(60)
        assert [one.radius for one in found] == [before]
        assert certifier.bundle.path == second_bundle and certifier._previous is loaded


def test_what_is_loaded_cannot_be_changed(hand_bundle):
    with Certifier.load(hand_bundle) as certifier:
        for name in ("bundle", "runtime", "state", "margin"):
            with pytest.raises(FrozenInstanceError):
                setattr(certifier._loaded, name, None)
        with pytest.raises(AttributeError):
            certifier.runtime = None  # type: ignore[misc]


def test_a_suspension_while_another_thread_swaps_holds_for_what_answers_then(copied, other, monkeypatch):
    """The swap falls between finding the bundle to suspend and suspending it."""
    from rrise.edge_sdk.certifying import loaded as module

    keep, swaps = module.suspend, []  # type: ignore[attr-defined, var-annotated]

    def late(bundle, reason):
        if not swaps:
            swaps.append(certifier.swap(other))
        keep(bundle, reason)

    monkeypatch.setattr(module, "suspend", late)
    with Certifier.load(copied) as certifier:
        certifier.suspend("drift")
        assert certifier.bundle.path == other
        assert certifier.certify(FRAMES[0]).status is Status.SUSPENDED
        certifier.rollback()
        assert certifier.certify(FRAMES[0]).status is Status.SUSPENDED


def test_a_suspension_that_comes_with_the_exchange_is_carried_over(copied, other, monkeypatch):
    """Another thread suspends what it saw loaded, just as the other bundle takes its place."""
    from rrise.edge_sdk.certifying.loaded import Loaded

    look = Loaded.look
    with Certifier.load(copied) as certifier:
        before = certifier._loaded

        def looking(loaded):
            if loaded is certifier._loaded:  # exchanged by now
                before.suspend("drift")
            look(loaded)

        monkeypatch.setattr(Loaded, "look", looking)
        certifier.swap(other)
        assert certifier.bundle.path == other
        certificate = certifier.certify(FRAMES[0])
        assert certificate.status is Status.SUSPENDED and "carried over" in certificate.reason


@pytest.mark.parametrize("batch", [False, True])
def test_a_close_during_a_frame_waits_for_its_answer(hand_bundle, batch):
    """Closing releases buffers that a GPU may still write to: whoever is inside does it on the way out."""
    certifier = Certifier.load(hand_bundle)
    answer, close, events = certifier.runtime.answer, certifier.runtime.close, []

    def slow(frames):
        certifier.close()  # as a signal handler does, in the middle of a frame
        events.append("answered")
        return answer(frames)

    certifier.runtime.answer = slow
    certifier.runtime.close = lambda: (events.append("released"), close())  # type: ignore[assignment]
    certificate = certifier.certify_batch(FRAMES[:1])[0] if batch else certifier.certify(FRAMES[0])
    assert certificate.status in (Status.CERTIFIED, Status.ABSTAINED)
    assert events == ["answered", "released"]
    certifier.close()
    with pytest.raises(EdgeError, match="closed"):
        certifier.certify(FRAMES[0])
    assert events == ["answered", "released"]


def test_a_clone_outlives_its_original(hand_bundle):
    certifier = Certifier.load(hand_bundle)
    before, twin = _radii(certifier), certifier.clone()
    certifier.close()
    assert _radii(twin) == before
    twin.close()


def test_verification_judges_what_a_certifier_would_take(copied, pack, monkeypatch):
    """Otherwise a device whose engine certifies would be told that the processor is fine."""
    from rrise.calibration.tables.references import References
    from rrise.edge_sdk.device import loading as module
    from rrise.edge_sdk.device.verify import verify

    bundle = Bundle.open(copied)

    def threads(number):
        return RuntimeCandidate(str(number), lambda: OnnxRuntime.load(bundle.model("fp32"), threads=number))

    def absent():
        raise RuntimeUnavailable("no such thing")

    options = [RuntimeCandidate("absent", absent), threads(3), threads(2)]
    monkeypatch.setattr(module, "candidates", lambda *words, **named: options)

    def taken():
        chosen = choose_execution(bundle, "fp32", options).runtime.execution
        assert module.load_runtime(bundle, "fp32").execution == chosen
        return dict(chosen.options)["intra_op_threads"]

    assert taken() == "2"
    verify(bundle, "fp32", OnnxRuntime.load(bundle.model("fp32"), threads=3), References.load(pack))
    assert taken() == "3"
    options[:] = [RuntimeCandidate("absent", absent)]
    with pytest.raises(RuntimeUnavailable, match="not absent: no such thing"):
        module.load_runtime(bundle, "fp32")


def test_a_closed_certifier_is_not_opened_by_a_swap(hand_bundle, second_bundle):
    certifier = Certifier.load(hand_bundle)
    certifier.close()
    with pytest.raises(EdgeError, match="closed"):
        certifier.swap(second_bundle)
    with pytest.raises(EdgeError, match="closed"):
        certifier.certify(FRAMES[0])


def test_a_swap_keeps_what_the_monitor_saw(copied, second_bundle):
    from rrise.edge_sdk.device.drift import DriftMonitor, DriftSettings, fit_reference

    bundle = Bundle.open(copied)
    runtime = OnnxRuntime.load(bundle.model("fp32"))
    fit_reference(
        bundle, runtime, helpers.make_references(Spec(), "calibration", 220, seed=4), DriftSettings(0.0)
    )
    with Certifier.load(copied) as certifier:
        for frame in FRAMES[:7]:
            certifier.certify(frame)
        certifier.swap(second_bundle)
        monitor = DriftMonitor.load(bundle, runtime.execution)
    assert monitor is not None and monitor.test.martingale.seen == 7


@pytest.fixture
def other(second_bundle, tmp_path):
    """A private copy of `second_bundle`, to suspend."""
    return helpers.copy(second_bundle, tmp_path / "other")


def test_a_rollback_to_a_suspended_bundle_certifies_nothing(copied, second_bundle):
    """Suspended meanwhile by another process, as a failed verification does."""
    with Certifier.load(copied) as certifier:
        certifier.swap(second_bundle)
        suspend(Bundle.open(copied), "found meanwhile")
        certifier.rollback()
        certificates = [certifier.certify(frame) for frame in FRAMES]
    assert {certificate.status for certificate in certificates} == {Status.SUSPENDED}
    assert "found meanwhile" in certificates[0].reason


def test_a_rollback_takes_the_margin_that_was_found_meanwhile(copied, second_bundle):
    with Certifier.load(copied) as certifier:
        before = _radii(certifier)
        certifier.swap(second_bundle)
        bundle = Bundle.open(copied)
        harder = helpers.make_references(Spec(), "calibration", 300, seed=41, optimism=0.4)
        margin = recalibrate(bundle, "fp32", OnnxRuntime.load(bundle.model("fp32")), harder).margin
        certifier.rollback()
        assert margin > 0.01 and certifier.state.margin == margin
        assert _radii(certifier) == pytest.approx([max(radius - margin, 0) for radius in before], abs=1e-6)


@pytest.mark.parametrize("back", [False, True])
def test_an_exchange_of_bundles_does_not_lift_a_suspension(copied, other, back):
    """What no longer looks like the reference frames does not because another bundle looks at it."""
    with Certifier.load(copied) as certifier:
        if back:
            certifier.swap(other)
        certifier.suspend("drift: frames no longer look like the reference frames")
        certifier.rollback() if back else certifier.swap(other)
        assert certifier.bundle.path == (copied if back else other)
        reasons = {certifier.certify(frame).reason for frame in FRAMES}
        assert len(reasons) == 1 and "carried over" in reasons.pop()
    with Certifier.load(copied if back else other) as again:
        assert again.certify(FRAMES[0]).status is Status.SUSPENDED, "also at the next start"
        again.reset()
        assert again.certify(FRAMES[0]).status is not Status.SUSPENDED


def test_what_is_kept_is_kept_with_the_release_that_was_loaded(copied, other, tmp_path, monkeypatch):
    """A working directory that changes, or a link to the current release that is switched, leads nowhere else."""
    (tmp_path / "current").symlink_to(copied.name)
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in ("current", copied.name):
        with Certifier.load(path) as certifier:
            (tmp_path / "current").unlink()
            (tmp_path / "current").symlink_to(other.name)
            monkeypatch.chdir(elsewhere)
            certifier.suspend("drift")
            assert certifier.certify(FRAMES[0]).status is Status.SUSPENDED
        with Certifier.load(copied) as faulty, Certifier.load(other) as innocent:
            assert faulty.certify(FRAMES[0]).status is Status.SUSPENDED
            assert innocent.certify(FRAMES[0]).status is not Status.SUSPENDED
            faulty.reset()
        monkeypatch.chdir(tmp_path)
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to(copied.name)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_bundle_that_was_moved_away_is_not_suspended_in_its_place(copied, other, tmp_path, replaced):
    with Certifier.load(copied) as certifier:
        copied.rename(tmp_path / "moved")
        if replaced:
            other.rename(copied)
        certifier.suspend("drift")
        certificate = certifier.certify(FRAMES[0])
        assert certificate.status is Status.SUSPENDED and "not kept for the next start" in certificate.reason
    assert not (copied / "device").exists()


@pytest.mark.parametrize("wrong", [0.01, float("nan"), float("inf")])
def test_a_runtime_that_computes_the_head_badly_is_refused(hand_bundle, wrong):
    """Label and probit are right, the radius is not: an unverified execution that was allowed would issue it."""
    bundle = Bundle.open(hand_bundle)
    inner = OnnxRuntime.load(bundle.model("fp32"))

    class Bad:
        execution, graph, note = replace(inner.execution, provider="other"), inner.graph, ""

        def run(self, frames, noise=None):
            outputs = inner.run(frames)
            return replace(outputs, radius=outputs.radius + np.float32(wrong))

    with pytest.raises(BundleError, match="larger than the calibration record makes of their probit"):
        matches_probe(bundle, "fp32", Bad())  # type: ignore[arg-type]
    assert matches_probe(bundle, "fp32", inner)
