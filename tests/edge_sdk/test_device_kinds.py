"""Calibration on the device for guarantees of other kinds: per class, of whole clips, and selective."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.head import WITHHELD
from rrise.calibration.tables.references import References
from rrise.edge_sdk import Bundle, Certifier, EdgeError, State
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.device.device_calibration import recalibrate, smallest_margin
from rrise.edge_sdk.device.verification_record import VerificationRecord, save_record
from rrise.edge_sdk.device.verify import VerificationVerdict, verify
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec


def _open(path, kind, error="0.15", offsets=()):
    references = helpers.make_references(Spec(), "calibration", 500, 10)
    guarantee = Guarantee.of(error=error, kind=kind)
    helpers.make_bundle(path, references=references, guarantee=guarantee, offsets=offsets)
    bundle = Bundle.open(path)
    return bundle, OnnxRuntime.load(bundle.model("fp32"), threads=2)


def _answers(runtime, references):
    outputs = run_all(runtime, references.frames)
    reference = references.radius[np.arange(len(references)), outputs.label].astype(np.float64)
    return outputs.label, outputs.radius.astype(np.float64), reference


@pytest.fixture(scope="module")
def harder():
    return helpers.make_references(Spec(), "calibration", 500, 41, optimism=0.4)


@pytest.fixture(scope="module")
def per_class(tmp_path_factory):
    return _open(tmp_path_factory.mktemp("kinds") / "per-class", "per-class", error="0.16")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return _open(tmp_path_factory.mktemp("kinds") / "clips", "whole-clip")


@pytest.fixture(scope="module")
def selective(tmp_path_factory):
    return _open(tmp_path_factory.mktemp("kinds") / "selective", "selective", offsets=(0.5, 0.4, 0.3))


def test_every_class_keeps_its_own_statement(per_class, harder):
    bundle, runtime = per_class
    result = recalibrate(bundle, "fp32", runtime, harder, write=False)
    guarantee = bundle.calibrations["fp32"].guarantee.spent(result.attempt)
    label, radius, reference = _answers(runtime, harder)
    allowed = []
    assert bundle.calibrations["fp32"].head.offset[0] == WITHHELD and not (label == 0).any()
    for number in (1, 2):
        mine = label == number
        count = int(mine.sum())
        exceeding = int((np.maximum(radius - result.margin, 0) > reference)[mine].sum())
        allowed.append(count - guarantee.rank(count) - exceeding)
    # The class that needs most uses its allowance up, the others less than theirs.
    assert min(allowed) == 0 and result.margin > 0 and result.frames == 500


def test_a_class_with_too_few_frames_is_refused(per_class, harder):
    bundle, runtime = per_class
    label, _, _ = _answers(runtime, harder)
    kept = (label != 1) | (np.cumsum(label == 1) <= 5)
    arrays = ("frames", "digest", "clip", "target", "counts", "num_samples", "radius")
    fewer = replace(harder, **{name: getattr(harder, name)[kept] for name in arrays})
    with pytest.raises(
        EdgeError, match="got 5 independent frames that are given class straight, expected at"
    ):
        recalibrate(bundle, "fp32", runtime, fewer, write=False)


def test_whole_clips_count_once_and_by_their_worst_frame(clips, harder):
    bundle, runtime = clips
    grouped = replace(harder, clip=np.arange(500) // 2)
    result = recalibrate(bundle, "fp32", runtime, grouped, write=False)
    _, radius, reference = _answers(runtime, grouped)
    bad = np.maximum(radius - result.margin, 0) > reference
    rank = bundle.calibrations["fp32"].guarantee.spent(result.attempt).rank(250)
    assert (result.frames, result.rank) == (250, rank)
    assert bad.reshape(250, 2).any(axis=1).sum() == 250 - rank
    assert result.margin > recalibrate(bundle, "fp32", runtime, harder, write=False).margin


def test_clips_that_share_a_frame_are_refused(clips, harder):
    bundle, runtime = clips
    arrays = ("frames", "digest", "target", "counts", "num_samples", "radius")
    doubled = replace(
        harder,
        **{name: np.concatenate([getattr(harder, name), getattr(harder, name)[:1]]) for name in arrays},
        clip=np.append(harder.clip, 999),
    )
    with pytest.raises(EdgeError, match="more than one clip"):
        recalibrate(bundle, "fp32", runtime, doubled, write=False)


def test_a_selective_guarantee_is_confirmed_or_refused_but_never_given_a_margin(selective, harder):
    bundle, runtime = selective
    easy = helpers.make_references(Spec(), "calibration", 500, 11)
    with pytest.raises(EdgeError, match=r"no margin can mend that.*export the bundle"):
        recalibrate(bundle, "fp32", runtime, harder)
    result = recalibrate(bundle, "fp32", runtime, easy)
    _, radius, _ = _answers(runtime, easy)
    assert result.margin == 0.0 and result.frames == int((radius > 0).sum()) < 500
    with Certifier.load(bundle.path, threads=2) as certifier:
        assert certifier.state.state is State.CALIBRATED and certifier.state.margin == 0.0


class _Moved:
    """A runtime that gives exactly the recorded radii, moved where they are positive; one frame at a time, in order."""

    def __init__(self, runtime, radii, shift):
        self._runtime, self._radii = runtime, iter(np.where(radii > 0, radii + np.float32(shift), radii))
        self.execution, self.graph = replace(runtime.execution, provider="other"), runtime.graph

    def run(self, frames):
        return replace(self._runtime.run(frames), radius=np.array([next(self._radii)], np.float32))


@pytest.mark.parametrize("shift", [0.0, 1e-4, -1e-4])
def test_a_selective_guarantee_is_not_verified_with_a_margin(tmp_path, shift):
    """Not even one of rounding, nor where certificates only grow smaller: `recalibrate` refuses it for the same reason."""
    bundle, runtime = _open(tmp_path / "selective", "selective", offsets=(0.5, 0.4, 0.3))
    recorded = bundle.recorded("fp32")
    exact = bundle.calibrations["fp32"].head.radius(recorded.probit, recorded.label)
    references = References.load(tmp_path / "selective-references.npz")
    unknown = replace(bundle, probe=replace(bundle.probe, expected={}))
    other = _Moved(runtime, exact, shift)
    result = verify(unknown, "fp32", other, references, tolerance=0.01, write=False)  # type: ignore[arg-type]
    assert result.verdict is (VerificationVerdict.NUMERICS if shift else VerificationVerdict.PASSED)
    assert result.margin == 0.0 or shift


def test_a_selective_record_with_a_margin_does_not_count(tmp_path):
    """As older versions wrote them."""
    bundle, runtime = _open(tmp_path / "selective", "selective", offsets=(0.5, 0.4, 0.3))
    fields = (bundle.manifest.digest, runtime.execution, bundle.probe.fingerprint(runtime), "0" * 64, 200)
    save_record(bundle, VerificationRecord(*fields, margin=1e-6, independent=200))
    with Certifier.load(bundle.path, threads=2) as certifier:
        assert (
            certifier.state.state is State.UNVERIFIED
            and "a selective guarantee has none" in certifier.state.reason
        )
    save_record(bundle, VerificationRecord(*fields, margin=0.0, independent=200))
    with Certifier.load(bundle.path, threads=2) as certifier:
        assert certifier.state.state is State.VERIFIED


def test_a_margin_can_raise_the_selective_error_which_is_why_there_is_none():
    """Nine small right certificates and a large wrong one: a margin takes away the right ones."""
    radius = np.array([0.1] * 9 + [1.0])
    reference = np.array([0.1] * 9 + [0.0])

    def share(margin):
        left = np.maximum(radius - margin, 0)
        return float((left > reference).sum() / (left > 0).sum())

    assert share(0.0) == 0.1 and share(0.2) == 1.0


def test_unproved_reference_radii_are_refused(per_class, harder):
    bundle, runtime = per_class
    larger = replace(harder, radius=harder.radius + np.float32(0.01))
    with pytest.raises(EdgeError, match="larger than their counts prove"):
        recalibrate(bundle, "fp32", runtime, larger, write=False)


def test_the_margin_of_clips_against_a_plain_search():
    rng = np.random.default_rng(0)
    for _ in range(50):
        radius, reference, unit = rng.random(30), rng.random(30), rng.integers(0, 8, 30)
        count = len(np.unique(unit))
        rank = int(rng.integers(1, count + 1))
        candidates = np.append(np.maximum(radius - reference, 0), 0.0)
        fitting = [
            m
            for m in candidates
            if len(set(unit[np.maximum(radius - m, 0) > reference + 1e-12])) <= count - rank
        ]
        assert smallest_margin(radius, reference, rank, unit) == pytest.approx(min(fitting), abs=1e-12)
