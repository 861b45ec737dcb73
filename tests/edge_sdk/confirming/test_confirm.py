"""`Certifier.confirm`: which promise a certificate is under, that it is never two, and everything that is refused."""

from __future__ import annotations

import pickle
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from rrise.edge_sdk import BundleError, Certificate, Certifier, EdgeError, Outcome, Status
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.certificate import withheld
from rrise.edge_sdk.confirming.confirmation import Confirmation
from rrise.edge_sdk.confirming.memory import Memory
from rrise.edge_sdk.formats.manifest import Manifest
from tests.edge_sdk import helpers
from tests.edge_sdk.auditing.conftest import base_model
from tests.edge_sdk.confirming.conftest import Clock, carrying, issued, random_x
from tests.edge_sdk.helpers import Spec

LONG = 60.0  # on clocks that do not move by themselves


def _slowly(certifier, step=1e-4):
    """A certifier whose tests see another clock; each look takes `step`."""
    certifier.load_base(batch_size=16)
    certifier._loaded.course.confirmer._clock = Clock(step)
    certifier._loaded.course.confirmer.batch_seconds = certifier._loaded.course.confirmer._fastest = 10 * step
    certifier._loaded.course.confirmer._recent.clear()
    return certifier


def test_a_confirmed_certificate_is_a_promise_about_its_input(honest):
    with Certifier.load(honest) as loaded:
        certifier = _slowly(loaded)
        for frame, certificate in issued(certifier):
            assert certificate.promise == "bundle"
            found = certifier.confirm(frame, certificate, LONG, alpha=0.01)
            assert found and found.status is Status.CONFIRMED and found.promise == "input"
            assert found.radius == certificate.radius == found.confirmation.proved == found.issued_radius
            assert (found.label, found.frame_id) == (certificate.label, certificate.frame_id)
            assert found.confirmation.alpha == 0.01 and found.confirmation.samples % 16 == 0
            assert found.confirmation.engine.startswith("onnxruntime ") and found.reason == ""
            assert found.frame_radius == certificate.frame_radius > 0


def test_a_refuted_certificate_has_no_radius(contrary):
    with Certifier.load(contrary) as loaded:
        certifier = _slowly(loaded)
        for frame, certificate in issued(certifier):
            found = certifier.confirm(frame, certificate, LONG)
            assert not found and found.status is Status.REFUTED and found.promise == ""
            assert found.radius == found.frame_radius == found.confirmation.proved == 0.0
            assert found.issued_radius == certificate.radius and "too few for the radius" in found.reason


def test_an_open_certificate_stays_what_it_was_and_goes_on_later(honest):
    with Certifier.load(honest) as loaded:
        # Room for five batches on the test's clock; waiting to get in is real time, a loaded machine's too. Eighty hits
        # in a row at a probability of .7 are no proof at this level, whatever the noise.
        certifier = _slowly(loaded, step=1e-2)
        frame, certificate = issued(certifier, 1)[0]
        assert helpers.SIGMA * NormalDist().inv_cdf(0.7) < certificate.radius
        opened = certifier.confirm(frame, certificate, 0.15, alpha=1e-15)
        assert opened.status is Status.CERTIFIED and opened.promise == "bundle"
        assert opened.radius == certificate.radius and opened.confirmation.outcome is Outcome.OPEN
        before = opened.confirmation.samples
        assert before > 0 and before % 16 == 0 and "not confirmed: the deadline" in opened.reason
        assert opened.confirmation.proved < opened.radius
        later = certifier.confirm(frame, opened, LONG, alpha=1e-15)
        assert later.status is Status.CONFIRMED
        assert later.confirmation.samples == before + later.confirmation.new_samples


def test_a_deadline_too_short_for_a_batch_leaves_it_open(honest):
    with Certifier.load(honest) as loaded:
        certifier = _slowly(loaded)
        frame, certificate = issued(certifier, 1)[0]
        found = certifier.confirm(frame, certificate, 1e-5)
        assert found.status is Status.CERTIFIED and found.confirmation.samples == 0
        assert "too short for one batch of 16 evaluations" in found.reason


def test_the_level_is_spent_once_however_often_one_asks(honest):
    """Whoever asks again gets the same test: at its end nothing is drawn any more."""
    with Certifier.load(honest) as loaded:
        certifier = _slowly(loaded)
        frame, certificate = issued(certifier, 1)[0]
        first = certifier.confirm(frame, certificate, LONG)
        twin = certifier.clone()
        for other in (certifier, _slowly(twin)):
            again = other.confirm(frame, certifier.certify(frame), LONG)
            assert again.confirmation.samples == first.confirmation.samples
            assert again.confirmation.new_samples == 0
        with pytest.raises(EdgeError, match="would spend the level twice"):
            certifier.confirm(frame, certificate, LONG, alpha=0.01)
        twin.close()


def test_a_swap_forgets_no_test(honest, tmp_path):
    other = helpers.copy(honest, tmp_path / "next")
    manifest = Manifest.load(other / "manifest.json")
    replace(manifest, versions={"rrise": "1"}).save(other / "manifest.json")
    with Certifier.load(honest) as loaded:
        certifier = _slowly(loaded)
        frame, certificate = issued(certifier, 1)[0]
        first = certifier.confirm(frame, certificate, LONG)
        certifier.swap(other)
        again = certifier.confirm(frame, certifier.certify(frame), LONG)
        assert again.confirmation.samples == first.confirmation.samples


def test_at_another_sigma_it_is_another_question():
    """One base classifier smoothed by other noise: a radius that was proved for the one is none of the other."""
    memory, x, asked = Memory(), random_x(), []
    for sigma in (0.25, 0.5, 0.25):
        with memory.question(x, 1, 0.5, sigma=sigma, alpha=0.01, base_digest="b" * 64) as question:
            asked.append(question)
    assert asked[0] is asked[2] and asked[1] is not asked[0]


def test_what_has_no_radius_is_returned_as_it_is(honest):
    with Certifier.load(honest) as certifier:
        pairs = [(frame, certifier.certify(frame)) for frame in helpers.random_frames(Spec(), 200, seed=9)]
        abstained = [pair for pair in pairs if pair[1].status is Status.ABSTAINED]
        assert abstained
        for frame, certificate in (abstained[0], (None, withheld(Status.STALE, "late", capture_time=0.0))):
            assert certifier.confirm(frame, certificate) is certificate
        frame, certificate = issued(certifier, 1)[0]
        done = certifier.confirm(frame, certificate, LONG)
        assert certifier.confirm(frame, done) is done


def test_another_frame_than_the_certificates_is_refused(honest, tmp_path):
    with Certifier.load(honest) as certifier:
        (frame, certificate), (other, _) = issued(certifier, 2)
        changed = frame.copy()
        changed[0, 0, 0] ^= 1
        for wrong in (other, changed):
            with pytest.raises(EdgeError, match="digest is not that of the certificate"):
                certifier.confirm(wrong, certificate)
        with pytest.raises(EdgeError, match="expected the frame's certificate"):
            certifier.confirm(frame, "certified")  # type: ignore[arg-type]
        for deadline in (0, -1.0, np.nan, np.inf, None, "soon", True):
            with pytest.raises(EdgeError, match="deadline"):
                certifier.confirm(frame, certificate, deadline)  # type: ignore[arg-type]
        for alpha in (0.0, 1.0, np.nan, None):
            with pytest.raises(EdgeError, match="alpha"):
                certifier.confirm(frame, certificate, alpha=alpha)


def test_frames_in_other_encodings_and_batches_are_recognised(honest):
    with Certifier.load(honest) as loaded:
        certifier = _slowly(loaded)
        frame = issued(certifier, 1)[0][0]
        colour = np.repeat(frame, 3, axis=2)
        certificate = certifier.certify(colour, encoding="rgb8")
        if certificate:
            assert certifier.confirm(colour, certificate, LONG, encoding="rgb8").confirmation is not None
        (batched,) = certifier.certify_batch([frame])
        assert certifier.confirm(frame, batched, LONG).status is Status.CONFIRMED


def test_a_closed_suspended_or_baseless_certifier_refuses(honest, copied):
    certifier = Certifier.load(honest)
    frame, certificate = issued(certifier, 1)[0]
    certifier.suspend("somebody wants a look")
    with pytest.raises(EdgeError, match="withheld \\(suspended\\): somebody wants a look"):
        certifier.confirm(frame, certificate)
    certifier.reset()
    certifier.close()
    with pytest.raises(EdgeError, match="closed"):
        certifier.confirm(frame, certificate)
    with Certifier.load(copied) as plain:
        frame, certificate = issued(plain, 1)[0]
        assert not plain.can_confirm and certificate.mark is None
        for call in (plain.load_base, lambda: plain.confirm(frame, certificate)):
            with pytest.raises(BundleError, match="--with-base"):
                call()


def test_a_suspension_in_the_middle_of_a_test_withholds(honest):
    with Certifier.load(honest) as loaded:
        certifier = _slowly(loaded)
        frame, certificate = issued(certifier, 1)[0]
        classify = certifier._loaded.course.confirmer._base.classify

        def alarming(x):
            certifier.suspend("an audit found something")
            return classify(x)

        certifier._loaded.course.confirmer._base = replace(
            certifier._loaded.course.confirmer._base, classify=alarming
        )
        with pytest.raises(EdgeError, match="an audit found something"):
            certifier.confirm(frame, certificate, LONG)


def test_a_base_that_cannot_answer_is_not_opened(tmp_path):
    broken = base_model(helpers.weights(Spec()) * np.float32(np.nan))
    bundle = carrying(tmp_path / "broken", broken)
    # NaN at the first look already: nothing can be asked of it.
    with Certifier.load(bundle) as certifier, pytest.raises(EdgeError, match="NaN"):
        certifier.load_base()


def test_a_changed_or_exchanged_base_is_refused_at_loading(honest, tmp_path):
    (honest / "base.onnx").write_bytes(base_model(-helpers.weights(Spec())))
    with pytest.raises(BundleError, match=r"base\.onnx was changed"):
        Certifier.load(honest)
    helpers.relist(honest)  # a forger who keeps the books
    with pytest.raises(BundleError, match=r"expected the base digest .* another base classifier"):
        Bundle.open(honest)
    (honest / "base.onnx").unlink()
    with pytest.raises(BundleError, match="missing"):
        Bundle.open(honest)


def test_the_manifest_keeps_the_base_and_old_ones_have_none(honest, copied):
    manifest = Manifest.load(honest / "manifest.json")
    assert Manifest.from_json(manifest.to_json()) == manifest and manifest.base.size > 0
    old = Manifest.load(copied / "manifest.json")
    assert old.base is None and "base" not in old.to_json()
    for change in ({"size": "many"}, {"agreements": [{"engine": "x"}]}, {"agreements": None}):
        value = manifest.to_json()
        value["base"] = {**value["base"], **change}
        with pytest.raises(BundleError):
            Manifest.from_json(value)
    wrong = replace(manifest, base=replace(manifest.base, size=1))
    wrong.save(honest / "manifest.json")
    with pytest.raises(BundleError, match="another size"):
        Bundle.open(honest)


def test_certificates_travel_whole_and_cannot_mix_promises(honest):
    with Certifier.load(honest) as certifier:
        frame, certificate = issued(certifier, 1)[0]
        done = certifier.confirm(frame, certificate, LONG)
    for one in (certificate, done):
        twin = pickle.loads(pickle.dumps(one))
        assert twin == one and twin.mark == one.mark and hash(twin) == hash(one)
    assert done.to_json()["confirmation"]["outcome"] == "confirmed" and done != certificate
    assert "confirmed at level 0.001 per input" in done.to_line()
    test = done.confirmation
    opened = replace(test, outcome=Outcome.OPEN, proved=0.0)
    for status, radius, found in (
        (Status.CONFIRMED, 0.1, None),
        (Status.CONFIRMED, test.proved * 2, test),
        (Status.CONFIRMED, test.proved, opened),
        (Status.CERTIFIED, test.proved, test),
        (Status.REFUTED, 0.0, test),
        (Status.REFUTED, 0.0, None),
        (Status.CONFIRMED, 0.0, test),
    ):
        with pytest.raises(AssertionError):
            Certificate(status, 0, "left", radius, 0.0, 0.0, 0.0, None, "", found)
    with pytest.raises(AssertionError):
        Confirmation(Outcome.CONFIRMED, 0.001, 0.2, 0.1, 16, 0.0, "engine")
