"""Field verification: the three ways to fail are told apart, and only a whole, passed replay is remembered."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.tables.references import References
from rrise.edge_sdk import Bundle, BundleError, Certifier, EdgeError, State
from rrise.edge_sdk.device.belonging import misfit
from rrise.edge_sdk.device.replayed import independent_units, replay_sentence, unseen_share
from rrise.edge_sdk.device.suspension import suspended_because
from rrise.edge_sdk.device.verification_record import RECORD_FILE, load_record
from rrise.edge_sdk.device.verify import VerificationVerdict, verify
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import SIGMA, Spec


class _Shifted:
    """A runtime whose probits, and radii with them, are moved by a constant, like another device's rounding."""

    def __init__(self, runtime, shift=0.0, flip=()):
        self._runtime, self._shift, self._flip = runtime, np.float32(shift), flip
        self.graph = runtime.graph
        self.execution = replace(runtime.execution, provider="other")

    def run(self, frames):
        outputs = self._runtime.run(frames)
        radius = np.where(outputs.radius > 0, outputs.radius + self._shift, outputs.radius)
        label = outputs.label
        if frames.ravel()[:8].tobytes() in self._flip:
            label = (label + 1) % 3
        return replace(
            outputs, radius=radius, label=label, probit=outputs.probit + self._shift / np.float32(SIGMA)
        )


@pytest.fixture
def opened(copied):
    bundle = Bundle.open(copied)
    return bundle, OnnxRuntime.load(bundle.model("fp32"))


@pytest.fixture(scope="module")
def references(pack):
    return References.load(pack)


def test_the_calibrated_execution_passes_and_needs_no_record(opened, references):
    bundle, runtime = opened
    result = verify(bundle, "fp32", runtime, references)
    assert result and result.verdict is VerificationVerdict.PASSED and result.state is State.CALIBRATED
    assert (result.replay.frames, result.replay.recorded, result.replay.flipped) == (200, 200, 0)
    assert result.replay.largest_increase < 1e-6
    assert not result.recorded_here and not (bundle.path / "device").exists()
    assert sum(row.frames for row in result.classes) == 200
    outputs = runtime.run(references.frames[:1])
    assert outputs.label.shape == (1,)


def test_coverage_counts_frames_above_their_reference(opened, references):
    bundle, runtime = opened
    result = verify(bundle, "fp32", runtime, references)
    exceeding = sum(
        float(runtime.run(frame[None]).radius[0])
        > references.radius[row, int(runtime.run(frame[None]).label[0])]
        for row, frame in enumerate(references.frames)
    )
    assert result.coverage.exceeding == exceeding == sum(row.exceeding for row in result.classes)
    assert result.coverage.allowed_rate == pytest.approx(0.09)
    assert result.coverage.frames == 200


def test_another_execution_becomes_verified_with_its_margin(opened, references, copied):
    bundle, runtime = opened
    other = _Shifted(runtime, shift=1e-4)
    result = verify(bundle, "fp32", other, references)  # type: ignore[arg-type]
    assert result and result.recorded_here and result.state is State.UNVERIFIED
    assert result.replay.largest_increase == pytest.approx(1e-4, rel=1e-2)
    assert result.margin >= 2 * result.replay.largest_increase
    record = load_record(bundle, other.execution)
    assert (record.margin, record.frames) == (result.margin, 200)
    # No certificate of the verified execution is larger than what was recorded.
    recorded = bundle.recorded("fp32")
    before = bundle.calibrations["fp32"].head.radius(recorded.probit, recorded.label)
    now = np.concatenate([other.run(frame[None]).radius for frame in references.frames]).astype(np.float64)
    assert (np.maximum(now - record.margin, 0) <= before).all()


def test_the_certifier_subtracts_the_margin(copied, pack):
    bundle = Bundle.open(copied)
    runtime = OnnxRuntime.load(bundle.model("fp32"), threads=2)
    result = verify(bundle, "fp32", runtime, References.load(pack))
    assert result.recorded_here
    folder = bundle.device_folder(runtime.execution)
    helpers.rewrite_sealed(folder / RECORD_FILE, margin=0.125)
    with Certifier.load(copied) as plain, Certifier.load(copied, threads=2) as verified:
        assert verified.state.state is State.VERIFIED and verified.state.margin == 0.125
        for frame in helpers.random_frames(Spec(), 60):
            wanted = max(plain.certify(frame).radius - 0.125, 0.0)
            assert verified.certify(frame).radius == pytest.approx(wanted, abs=1e-6)


def test_dry_run_writes_nothing(opened, references):
    bundle, runtime = opened
    result = verify(bundle, "fp32", _Shifted(runtime), references, write=False)  # type: ignore[arg-type]
    assert result and not result.recorded_here and not (bundle.path / "device").exists()


def test_a_part_of_the_frames_does_not_verify(opened, references):
    bundle, runtime = opened
    result = verify(bundle, "fp32", _Shifted(runtime), _rows(references, slice(0, 50)))  # type: ignore[arg-type]
    assert result and not result.recorded_here and "50 of 200" in result.sentence
    repeated = _rows(references, np.zeros(200, int))
    assert not verify(bundle, "fp32", _Shifted(runtime), repeated).recorded_here  # type: ignore[arg-type]


def test_numerics(opened, references):
    bundle, runtime = opened
    assert verify(bundle, "fp32", _Shifted(runtime), references).recorded_here  # type: ignore[arg-type]
    result = verify(bundle, "fp32", _Shifted(runtime, shift=0.02), references)  # type: ignore[arg-type]
    assert not result and result.verdict is VerificationVerdict.NUMERICS
    assert "computes something else" in result.sentence and "recalibrate" in result.sentence
    # The failed replay withdraws the earlier record.
    assert load_record(bundle, _Shifted(runtime).execution) is None


def test_a_single_flipped_certified_label_is_numerics(opened, references):
    bundle, runtime = opened
    certified = next(frame for frame in references.frames if runtime.run(frame[None]).radius[0] > 0)
    result = verify(bundle, "fp32", _Shifted(runtime, flip={certified.ravel()[:8].tobytes()}), references)  # type: ignore[arg-type]
    assert result.verdict is VerificationVerdict.NUMERICS and result.replay.flipped_certified == 1


def test_answers_that_are_not_finite_are_numerics(opened, references):
    bundle, runtime = opened
    result = verify(bundle, "fp32", _Shifted(runtime, shift=np.nan), references)  # type: ignore[arg-type]
    assert result.verdict is VerificationVerdict.NUMERICS and not result.recorded_here


def test_statistics_on_new_frames(opened):
    bundle, runtime = opened
    drifted = helpers.make_references(Spec(), "verification", 300, seed=77, optimism=0.6)
    result = verify(bundle, "fp32", runtime, drifted)
    assert (
        result.verdict is VerificationVerdict.STATISTICS
        and result.new_frames == 300
        and result.coverage.p_value < 1e-6
    )
    assert "no longer like those of the calibration" in result.sentence
    alike = helpers.make_references(Spec(), "verification", 300, seed=78)
    assert verify(bundle, "fp32", runtime, alike)


def test_frames_of_one_clip_count_once(opened):
    bundle, runtime = opened
    drifted = helpers.make_references(Spec(), "verification", 300, seed=77, optimism=0.6)
    one_clip = replace(drifted, clip=np.zeros(300, np.int64))
    result = verify(bundle, "fp32", runtime, one_clip)
    assert result.coverage.frames == 1 and result.verdict is VerificationVerdict.PASSED


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sigma": 0.5}, "sigma"), ({"base_digest": "0" * 64}, "base classifier"),
        ({"class_names": ("a", "b", "c")}, "classes"), ({"beta": 0.2}, "beta"), ({"split": "calibration"}, "recalibrate"),
    ],
)  # fmt: skip
def test_references_that_do_not_fit(opened, references, change, word):
    bundle, runtime = opened
    result = verify(bundle, "fp32", runtime, replace(references, **change))
    assert (
        result.verdict is VerificationVerdict.REFERENCES
        and word in result.sentence
        and result.coverage is None
    )


def test_references_of_another_size_or_with_fewer_samples(opened):
    bundle, runtime = opened
    for other, word in (
        (helpers.make_references(Spec((6, 6, 1)), "verification", 5, 1), "frames are"),
        (helpers.make_references(Spec(), "verification", 5, 1, num_samples=999), "1000 Monte Carlo samples"),
    ):
        result = verify(bundle, "fp32", runtime, other)
        assert result.verdict is VerificationVerdict.REFERENCES and word in result.sentence


def test_an_uncalibrated_artefact_cannot_be_verified(tmp_path, references):
    bundle = Bundle.open(helpers.make_bundle(tmp_path / "bare", calibrated=False))
    with pytest.raises(BundleError, match="never calibrated"):
        verify(bundle, "fp32", OnnxRuntime.load(bundle.model("fp32")), references)


def test_a_record_of_another_release_or_options_is_ignored(copied, pack):
    bundle = Bundle.open(copied)
    runtime = OnnxRuntime.load(bundle.model("fp32"), threads=2)
    verify(bundle, "fp32", runtime, References.load(pack))
    with Certifier.load(copied, threads=3) as certifier:
        assert certifier.state.state is State.UNVERIFIED
    path = bundle.device_folder(runtime.execution) / RECORD_FILE
    helpers.rewrite_sealed(path, release="0" * 64)
    with Certifier.load(copied, threads=2) as certifier:
        assert certifier.state.state is State.UNVERIFIED


@pytest.mark.parametrize("change", [{"margin": -1.0}, {"frames": 0}, {"version": 9}, {"margin": "none"}])
def test_an_impossible_record_is_refused(copied, pack, change):
    bundle = Bundle.open(copied)
    runtime = OnnxRuntime.load(bundle.model("fp32"), threads=2)
    verify(bundle, "fp32", runtime, References.load(pack))
    path = bundle.device_folder(runtime.execution) / RECORD_FILE
    helpers.rewrite_sealed(path, **change)
    with pytest.raises(BundleError, match="run `rrise-edge verify` again"):
        Certifier.load(copied, threads=2)
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"changed|read"):
        Certifier.load(copied, threads=2)


def _rows(references, rows):
    columns = ("frames", "digest", "clip", "target", "counts", "num_samples", "radius")
    return replace(references, **{name: getattr(references, name)[rows] for name in columns})


class _Flipping(_Shifted):
    """The bundle's own execution by name, which answers one certified frame with another label."""

    def __init__(self, runtime, references):
        certified = next(frame for frame in references.frames if runtime.run(frame[None]).radius[0] > 0)
        super().__init__(runtime, flip={certified.ravel()[:8].tobytes()})
        self.execution = runtime.execution


def test_a_failure_of_the_calibrated_execution_suspends(opened, references):
    """There is no record to withdraw, and without more the certifier would go on as if nothing had been found."""
    bundle, runtime = opened
    failing = _Flipping(runtime, references)
    assert verify(bundle, "fp32", failing, references, write=False).verdict is VerificationVerdict.NUMERICS  # type: ignore[arg-type]
    assert suspended_because(bundle) is None
    assert verify(bundle, "fp32", failing, references).verdict is VerificationVerdict.NUMERICS  # type: ignore[arg-type]
    assert "computes something else" in str(suspended_because(bundle))


def test_a_failure_that_cannot_be_kept_is_told_all_the_same(opened, references, monkeypatch):
    from rrise.edge_sdk.device import verify as module

    def refuse(bundle, reason):
        raise OSError("read-only file system")

    monkeypatch.setattr(module, "suspend", refuse)
    bundle, runtime = opened
    result = verify(bundle, "fp32", _Flipping(runtime, references), references)  # type: ignore[arg-type]
    assert result.verdict is VerificationVerdict.NUMERICS and "read-only" in result.sentence


def test_a_record_that_cannot_be_kept_is_an_error(opened, references):
    bundle, runtime = opened
    (bundle.path / "device").write_text("not a folder")
    with pytest.raises(EdgeError, match=r"passed, but.*dry run"):
        verify(bundle, "fp32", _Shifted(runtime), references)  # type: ignore[arg-type]
    assert verify(bundle, "fp32", _Shifted(runtime), references, write=False)  # type: ignore[arg-type]


def _with(references, **columns):
    return replace(references, **columns)


def test_radii_that_their_counts_do_not_prove_are_refused(opened, references):
    """Larger references make too large certificates pass."""
    bundle, runtime = opened
    radius = references.radius.copy()
    radius[3, int(radius[3].argmax())] += np.float32(0.02)
    result = verify(bundle, "fp32", runtime, _with(references, radius=radius))
    assert (
        result.verdict is VerificationVerdict.REFERENCES
        and "1 of their reference radii are larger" in result.sentence
    )
    assert not result.recorded_here


def test_misses_that_were_made_hits_are_noticed(opened, references):
    """Counts are believed by every proof; the bundle's recorded scores hold those of its export, under its digest."""
    bundle, runtime = opened
    label = np.concatenate([runtime.run(frame[None]).label for frame in references.frames])
    counts = np.zeros_like(references.counts)
    counts[np.arange(200), label] = 1000
    better = References.from_counts(
        references.frames, references.clip, references.target, counts, references.num_samples, split="verification",
        sigma=SIGMA, class_names=references.class_names, base_digest=references.base_digest, beta=references.beta,
    )  # fmt: skip
    result = verify(bundle, "fp32", _Shifted(runtime), better)  # type: ignore[arg-type]
    assert (
        result.verdict is VerificationVerdict.REFERENCES
        and "frames have other counts than at its export" in result.sentence
    )
    manifest = replace(
        bundle.manifest,
        references={"verification": {"frames": better.frames_digest, "content": references.content_digest}},
    )
    problem = misfit(
        replace(bundle, manifest=manifest), bundle.calibrations["fp32"], better, split="verification"
    )
    assert "but their counts, clips or radii are not" in problem


def test_a_verified_execution_says_what_its_frames_prove(opened, references, copied):
    bundle, _ = opened
    result = verify(bundle, "fp32", OnnxRuntime.load(bundle.model("fp32"), threads=2), references)
    assert (
        "200 independent replayed frames prove, with confidence 95 %, that at most 1.49 % of new"
        in result.proves
    )
    assert "So at most 11.5 % of new frames receive a wrong certificate (confidence 90 %)" in result.proves
    with Certifier.load(copied, threads=2) as certifier:
        assert result.proves in certifier.state.reason


@pytest.mark.parametrize(("units", "share"), [(215, 0.01384), (59, 0.0495), (1, 0.95), (0, 1.0)])
def test_the_share_that_replayed_frames_do_not_exclude(units, share):
    """The law of the largest of n independent increases: P(the share above it > t) = (1 - t)^n."""
    from scipy.stats import beta

    assert unseen_share(Guarantee.of(), units) == pytest.approx(share, rel=1e-3)
    if units:
        assert beta(1, units).sf(unseen_share(Guarantee.of(), units)) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("selective", r"at most \(5 % s \+ 1.49 %\) / \(s - 1.49 %\)"),
        ("per-class", "1.49 % divided by the class's share"),
        ("whole-clip", "at most 6.49 % of new clips contain"),
        ("marginal", r"at most 6.49 % of new frames receive a wrong certificate \(confidence 95 %\)"),
    ],
)
def test_every_kind_says_what_is_added(kind, words):
    assert re.search(words, replay_sentence(Guarantee.of(kind), 200))


def test_under_attack_what_differs_here_is_moved_as_well():
    """Monte Carlo of the Gaussian shift: of a set of probability p the worst shift by rho makes Phi(Phi^-1(p) + rho / s)."""
    from scipy.stats import norm

    guarantee = Guarantee.of(error="0.1", guard=Guard(0.1, 0.1))
    level = norm.cdf(norm.ppf(0.1) - 1) + 1 - 0.05 ** (1 / 1000)
    wanted = f"at most {100 * norm.cdf(norm.ppf(level) + 1):.3g} %"
    assert wanted in replay_sentence(guarantee, 1000)


def test_only_independent_frames_count():
    references = helpers.make_references(Spec(), "verification", 40, 3)
    grouped = replace(references, clip=np.arange(40) // 4)
    everything = np.ones(40, bool)
    assert independent_units(references, Guarantee.of(), everything) == 40
    assert independent_units(grouped, Guarantee.of(), everything) == 10
    assert independent_units(grouped, Guarantee.of("whole-clip"), np.arange(40) < 8) == 2
