"""Calibration on the device: the margin's rank, what it does to certificates, and that no scipy is needed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrise.calibration.errors import CalibrationError
from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.tables.references import References
from rrise.edge_sdk import Bundle, BundleError, Certifier, EdgeError, State, Status
from rrise.edge_sdk.device.belonging import misfit
from rrise.edge_sdk.device.device_calibration import (
    ATTEMPTS_FILE,
    CALIBRATION_FILE,
    load_device_calibration,
    recalibrate,
    smallest_margin,
)
from rrise.edge_sdk.device.verify import VerificationVerdict, verify
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

COLUMNS = ("frames", "digest", "clip", "target", "counts", "num_samples", "radius")
RADII = st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), min_size=1, max_size=30)


@pytest.fixture
def opened(copied):
    bundle = Bundle.open(copied)
    return bundle, OnnxRuntime.load(bundle.model("fp32"), threads=2)


@pytest.fixture(scope="module")
def harder():
    """Calibration references whose counts support less than the surrogate claims."""
    return helpers.make_references(Spec(), "calibration", 300, seed=41, optimism=0.4)


@settings(max_examples=200, deadline=None)
@given(pairs=RADII, data=st.data())
def test_margin_is_the_smallest_that_keeps_the_rank(pairs, data):
    radius, reference = np.array(pairs).T
    rank = data.draw(st.integers(1, len(pairs)))
    margin = smallest_margin(radius, reference, rank)

    def exceeding(m):
        return int((np.maximum(radius - m, 0) > reference).sum())

    assert margin >= 0 and exceeding(margin) <= len(pairs) - rank
    # A margin smaller by more than rounding would let too many through.
    smaller = margin - 1e-9
    assert margin <= 1e-9 or exceeding(smaller) > len(pairs) - rank


def test_recalibration_makes_the_execution_calibrated_with_its_margin(opened, copied, harder):
    bundle, runtime = opened
    result = recalibrate(bundle, "fp32", runtime, harder)
    assert result.margin > 0.01 and (result.frames, result.attempt) == (300, 1)
    assert result.rank == bundle.calibrations["fp32"].guarantee.spent(1).rank(300)
    with Certifier.load(copied, threads=2) as here, Certifier.load(copied) as plain:
        assert here.state.state is State.CALIBRATED and here.state.margin == result.margin
        certificates = here.certify_batch(harder.frames)
        for certificate, frame in zip(certificates, harder.frames):
            wanted = max(plain.certify(frame).radius - result.margin, 0.0)
            assert certificate.radius == pytest.approx(wanted, abs=1e-6)
    exceeding = sum(
        certificate.radius > harder.radius[row, certificate.label]
        for row, certificate in enumerate(certificates)
    )
    assert exceeding <= 300 - result.rank


def test_easier_frames_never_enlarge_a_certificate(opened):
    bundle, runtime = opened
    easier = helpers.make_references(Spec(), "calibration", 300, seed=42, optimism=-1.0)
    assert recalibrate(bundle, "fp32", runtime, easier).margin == 0.0


def test_a_dry_run_keeps_nothing_but_is_counted(opened, harder):
    bundle, runtime = opened
    assert recalibrate(bundle, "fp32", runtime, harder, write=False).attempt == 1
    assert load_device_calibration(bundle, runtime.execution) is None
    other = helpers.make_references(Spec(), "calibration", 300, seed=77)
    assert recalibrate(bundle, "fp32", runtime, other, write=False).attempt == 2
    again = [recalibrate(bundle, "fp32", runtime, pack) for pack in (harder, other, harder)]
    assert [result.attempt for result in again] == [1, 2, 1], "the same computation again is no other attempt"
    assert again[0].margin == again[2].margin


def test_subsets_of_one_pack_are_attempts_and_each_is_stricter(opened, harder):
    """Whoever tries subsets until one gives a small margin has tried as often: the best of them keeps the promise."""
    bundle, runtime = opened
    guarantee = bundle.calibrations["fp32"].guarantee
    for attempt in range(1, 5):
        rows = np.arange(attempt, 300)
        part = replace(harder, **{name: getattr(harder, name)[rows] for name in COLUMNS})
        result = recalibrate(bundle, "fp32", runtime, part)
        assert result.attempt == attempt
        assert result.rank == guarantee.spent(attempt).rank(len(rows)) >= guarantee.rank(len(rows))
    assert guarantee.spent(4).rank(296) > guarantee.rank(296)
    counts = harder.counts.copy()
    counts[0] = counts[0][::-1]
    drawn = References.from_counts(
        harder.frames, harder.clip, harder.target, counts, harder.num_samples, split="calibration",
        sigma=harder.sigma, class_names=harder.class_names, base_digest=harder.base_digest, beta=harder.beta,
    )  # fmt: skip
    assert recalibrate(bundle, "fp32", runtime, drawn, write=False).attempt == 5, "other counts, same frames"


def test_a_bundle_that_was_one_of_several_shares_its_share(tmp_path, harder):
    """The best of seven surrogates, exported and calibrated here on the frames that it was chosen by: attempt 7 has its share.

    With shares of all of delta the best of ten breaks the promise in a fifth of the cases instead of a twentieth.
    """
    bundle = Bundle.open(helpers.make_bundle(tmp_path / "seventh", attempt=7))
    runtime = OnnxRuntime.load(bundle.model("fp32"), threads=2)
    guarantee = bundle.calibrations["fp32"].guarantee
    result = recalibrate(bundle, "fp32", runtime, harder)
    assert result.attempt == 1
    assert result.rank == guarantee.spent_here(7, 1).rank(300) > guarantee.spent(1).rank(300)


@pytest.mark.parametrize("bold", [False, True])
def test_radii_are_held_against_the_share_of_beta_that_they_have(opened, harder, bold):
    """In stages a bound has a part of beta: at all of it, radii are too large, and the margin would be too small."""
    bundle, runtime = opened
    share = np.where(np.arange(300) % 2, 0.01, 0.09)
    radius = reference_radius(harder.counts, harder.num_samples, harder.sigma, harder.beta if bold else share)
    pack = replace(harder, radius=radius, level=share)
    if not bold:
        assert (
            recalibrate(bundle, "fp32", runtime, pack).margin
            > recalibrate(bundle, "fp32", runtime, harder).margin
        )
        return
    assert not misfit(bundle, bundle.calibrations["fp32"], replace(pack, level=None), split="calibration")
    with pytest.raises(EdgeError, match="reference radii are larger than their counts prove"):
        recalibrate(bundle, "fp32", runtime, pack)


def test_a_pack_that_was_written_anew_with_its_shares_is_still_the_bundles(opened, harder):
    bundle, _ = opened
    share = np.full(300, 0.09)
    radius = reference_radius(harder.counts, harder.num_samples, harder.sigma, share)
    pack = replace(harder, radius=radius, level=share)
    before = replace(pack, level=None)

    def problem(exported, given):
        named = {"calibration": {"frames": exported.frames_digest, "content": exported.content_digest}}
        changed = replace(bundle, manifest=replace(bundle.manifest, references=named))
        return misfit(changed, bundle.calibrations["fp32"], given, split="calibration")

    assert problem(before, pack) == problem(pack, pack) == problem(before, before) == ""
    assert "radii are not" in problem(pack, before)


def test_a_deleted_log_does_not_begin_anew(opened, harder):
    bundle, runtime = opened
    recalibrate(bundle, "fp32", runtime, harder)
    (bundle.path / "device" / ATTEMPTS_FILE).unlink()
    with pytest.raises(CalibrationError, match="shows 0 attempts, but there is a record of attempt 1"):
        recalibrate(bundle, "fp32", runtime, harder)


def test_a_log_that_cannot_be_written_stops_it(opened, harder, monkeypatch):
    bundle, runtime = opened

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rrise.calibration.storage.attempts.os.fsync", full)
    with pytest.raises(EdgeError, match=r"cannot log this attempt.*No space left"):
        recalibrate(bundle, "fp32", runtime, harder)
    assert load_device_calibration(bundle, runtime.execution) is None


@pytest.mark.parametrize("damage", ["removed", "emptied", "changed", "exchanged"])
def test_a_record_holds_only_with_its_line_in_the_log(opened, harder, damage):
    bundle, runtime = opened
    other = helpers.make_references(Spec(), "calibration", 300, seed=77)
    recalibrate(bundle, "fp32", runtime, other, write=False)
    recalibrate(bundle, "fp32", runtime, harder)
    log = bundle.path / "device" / ATTEMPTS_FILE
    if damage == "removed":
        log.unlink()
    elif damage == "emptied":
        log.write_bytes(b"")
    elif damage == "changed":
        log.write_bytes(log.read_bytes().replace(b'"previous": ""', b'"previous": "0"'))
    else:
        log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(BundleError, match=ATTEMPTS_FILE):
        Certifier.load(bundle.path, threads=2)
    with Certifier.load(bundle.path) as released:
        assert released.state.state is State.CALIBRATED


def test_frames_that_may_not_calibrate_are_refused(opened, harder):
    bundle, runtime = opened
    for wrong, word in (
        (replace(harder, split="verification"), "no offset may be fitted"),
        (replace(harder, base_digest="0" * 64), "base classifier"),
        (helpers.make_references(Spec(), "calibration", 30, seed=1), "expected at least"),
        (replace(harder, clip=np.zeros(300, np.int64)), "got 1 independent frames"),
    ):
        with pytest.raises(EdgeError, match=word):
            recalibrate(bundle, "fp32", runtime, wrong)
    assert load_device_calibration(bundle, runtime.execution) is None


def test_a_violated_device_calibration_is_withdrawn(opened, harder, copied):
    bundle, runtime = opened
    recalibrate(bundle, "fp32", runtime, harder)
    drifted = helpers.make_references(Spec(), "verification", 300, seed=77, optimism=0.9)
    assert verify(bundle, "fp32", runtime, drifted).verdict is VerificationVerdict.STATISTICS
    with Certifier.load(copied, threads=2) as certifier:
        assert certifier.state.state is State.UNVERIFIED


def test_a_violated_calibration_of_the_bundles_own_execution_stays(opened, harder, copied):
    """Withdrawn, it would leave the bundle's offset alone, and so larger certificates than before, after a reset."""
    bundle, _ = opened
    own = OnnxRuntime.load(bundle.model("fp32"))
    margin = recalibrate(bundle, "fp32", own, harder).margin
    drifted = helpers.make_references(Spec(), "verification", 300, seed=77, optimism=0.9)
    assert verify(bundle, "fp32", own, drifted).verdict is VerificationVerdict.STATISTICS
    with Certifier.load(copied) as certifier:
        assert certifier.certify(helpers.random_frames(Spec(), 1)[0]).status is Status.SUSPENDED
        certifier.reset()
        assert certifier.state.margin == margin > 0


@pytest.mark.parametrize("change", [{"margin": -0.1}, {"rank": 0}, {"rank": 301}, {"format": "other"}])
def test_an_impossible_record_is_refused(opened, harder, copied, change):
    bundle, runtime = opened
    recalibrate(bundle, "fp32", runtime, harder)
    helpers.rewrite_sealed(bundle.device_folder(runtime.execution) / CALIBRATION_FILE, **change)
    with pytest.raises(BundleError, match="recalibrate"):
        Certifier.load(copied, threads=2)


def test_a_margin_found_here_is_never_forgotten(copied, harder):
    """Also for the bundle's own execution, and also when the record turns out to be of another processor."""
    bundle = Bundle.open(copied)
    own = OnnxRuntime.load(bundle.model("fp32"))
    margin = recalibrate(bundle, "fp32", own, harder).margin
    with Certifier.load(copied) as certifier:
        assert certifier.state.state is State.CALIBRATED and certifier.state.margin == margin > 0
    helpers.rewrite_sealed(bundle.device_folder(own.execution) / CALIBRATION_FILE, probe="0" * 64)
    with Certifier.load(copied) as certifier:
        assert certifier.state.state is State.UNVERIFIED and "recalibrate" in certifier.state.reason


def test_recalibration_needs_no_scipy(copied, harder, tmp_path):
    harder.save(tmp_path / "pack.npz")
    code = (
        "import sys; sys.modules['scipy'] = None\n"
        "from rrise.edge_sdk.cli import main\n"
        f"main(['recalibrate', {str(copied)!r}, '--references', {str(tmp_path / 'pack.npz')!r}, '--threads', '2'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "margin" in done.stdout
    bundle = Bundle.open(copied)
    runtime = OnnxRuntime.load(bundle.model("fp32"), threads=2)
    loaded = References.load(tmp_path / "pack.npz")
    expected = recalibrate(bundle, "fp32", runtime, loaded, write=False)
    assert load_device_calibration(bundle, runtime.execution).margin == expected.margin


@pytest.mark.parametrize("made_by", ["recalibrate", "verify"])
def test_a_record_from_another_processor_is_not_taken_for_ours(opened, harder, copied, pack, made_by):
    bundle, runtime = opened
    if made_by == "recalibrate":
        recalibrate(bundle, "fp32", runtime, harder)
        path = bundle.device_folder(runtime.execution) / CALIBRATION_FILE
    else:
        verify(bundle, "fp32", runtime, References.load(pack))
        path = bundle.device_folder(runtime.execution) / "verification.json"
    with Certifier.load(copied, threads=2) as certifier:
        assert certifier.state.state is not State.UNVERIFIED
    helpers.rewrite_sealed(path, probe="0" * 64)
    with Certifier.load(copied, threads=2) as certifier:
        assert certifier.state.state is State.UNVERIFIED
