"""The guarded tier end to end: from a surrogate that takes noise to certificates on a robot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession

from rrise import trainer
from rrise.calibration.promise.fit import check_rank
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.guarded import Guard
from rrise.calibration.statistics.bounds import reference_radius
from rrise.edge_sdk import Bundle, BundleError, Certifier, EdgeError, State, Status
from rrise.edge_sdk.bundles.probe import Probe
from rrise.edge_sdk.bundles.runtime_scores import run_all, score_runtime
from rrise.edge_sdk.device.device_calibration import recalibrate
from rrise.edge_sdk.device.once import Once
from rrise.edge_sdk.device.verify import VerificationVerdict, verify
from rrise.edge_sdk.errors import FrameError, RuntimeUnavailable
from rrise.edge_sdk.formats.noise import FreshNoise
from rrise.edge_sdk.operate.bench import bench
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.export import export_onnx
from rrise.export.errors import ExportError
from rrise.export.lowering.precision import split_preprocessing
from rrise.export.on_device import export_tensorrt
from rrise.export.pipeline import export_source, gate_bundle
from rrise.export.products import lower_source
from rrise.export.source import ExportSource, joined, load_source, torch_reference
from rrise.trainer.data.preprocess import Preprocess
from tests.edge_sdk.helpers import copy, relist, replace_graph, rewrite_sealed
from tests.trainer.helpers import copied, edit

GUARD = Guard(0.02, 0.1)


@pytest.fixture(scope="module")
def guarded(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared workspace with a surrogate of the guarded tier."""
    made = copied(workspace, tmp_path_factory.mktemp("guarded"))
    made = edit(made, "rho = 0.0\nnoise = []", f"rho = {GUARD.rho}\nnoise = [{GUARD.noise}]")
    made = edit(made, 'error = "0.05"', 'error = "0.1"')
    trainer.train_surrogate(made, again=True)
    return made.path


@pytest.fixture(scope="module")
def source(guarded: Path) -> ExportSource:
    return load_source(guarded)


@pytest.fixture(scope="module")
def exported(guarded: Path) -> Path:
    """The bundle of `guarded` in all precisions; copy it before you damage it."""
    return export_onnx(guarded, precisions=("fp32", "fp16", "int8")).path


@pytest.fixture
def copy_of(exported: Path, tmp_path: Path) -> Path:
    return copy(exported, tmp_path / "bundle")


class Heard:
    """A session that notes every batch of noise that it is fed."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.noise: list[np.ndarray] = []

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> Any:
        self.noise.append(feeds["noise"].copy())
        return self.session.run(names, feeds)


def listen(runtime: Any) -> Heard:
    runtime.session = Heard(runtime.session)
    return runtime.session


@pytest.mark.parametrize("artefact", ["fp32", "fp16", "int8"])
def test_certificates_come_out_of_a_guarded_bundle(
    exported: Path, source: ExportSource, artefact: str
) -> None:
    with Certifier.load(exported, artefact=artefact) as certifier:
        assert certifier.state.state is State.CALIBRATED
        assert certifier.guarantee is not None and certifier.guarantee.guard == GUARD
        certificates = certifier.certify_batch(list(source.verification.frames))
    issued = [certificate for certificate in certificates if certificate]
    assert len(issued) > len(certificates) // 4
    assert all(certificate.frame_radius > 0 for certificate in issued), "a crop alone has norm 1"


def test_graph_equals_pytorch_given_the_same_noise(exported: Path, source: ExportSource) -> None:
    frames = source.verification.frames
    noise = FreshNoise(GUARD, (len(frames), *source.preprocess.output_shape)).draw()
    with torch.inference_mode():
        logits = source.module(torch.from_numpy(frames), torch.from_numpy(noise))
    bundle = Bundle.open(exported)
    mine = run_all(OnnxRuntime.load(bundle.model("fp32")), frames, noise=noise)
    np.testing.assert_array_equal(mine.label, logits.argmax(1).numpy())
    replayed = run_all(OnnxRuntime.load(bundle.model("fp32")), frames, noise=source.replay)
    label, probit, _ = torch_reference(source.module, source.replay)(frames)
    np.testing.assert_array_equal(replayed.label, label)
    np.testing.assert_allclose(replayed.probit, probit, atol=1e-5)


def test_no_swap_lets_a_frame_be_answered_again(exported: Path, source: ExportSource, tmp_path: Path) -> None:
    """To the next release, to the same one again, and back: each time it would be another draw, and the best could be kept."""
    first, second = source.verification.frames[:2]
    with Certifier.load(exported) as certifier:
        assert certifier.certify(first).answered
        certifier.swap(copy(exported, tmp_path / "next"))
        assert certifier.certify(first).status is Status.INVALID_INPUT
        with certifier.clone() as twin:
            assert twin.certify(second).answered
        certifier.rollback()
        assert certifier.certify(second).status is Status.INVALID_INPUT


@pytest.mark.parametrize("artefact", ["fp32", "fp16", "int8"])
def test_answers_are_a_function_of_the_sum_bit_for_bit(
    exported: Path, source: ExportSource, artefact: str
) -> None:
    """Frame and noise moved against each other by whole levels: the theorem needs that nothing changes."""
    runtime = OnnxRuntime.load(Bundle.open(exported).model(artefact))
    frames = source.verification.frames[:20] // 2
    noise = FreshNoise(GUARD, (20, *source.preprocess.output_shape)).draw()
    step = np.random.default_rng(0).integers(-60, 120, frames.shape)
    step = np.maximum(step, -frames.astype(int))
    moved = (frames + step).astype(np.uint8)
    against = noise - step.transpose(0, 3, 1, 2).astype(np.float32)
    here, there = run_all(runtime, frames, noise=noise), run_all(runtime, moved, noise=against)
    np.testing.assert_array_equal(here.probit, there.probit)
    np.testing.assert_array_equal(here.radius, there.radius)


def test_every_pass_draws_its_own_noise_also_in_clones(exported: Path, source: ExportSource) -> None:
    frame = source.verification.frames[0]
    with Certifier.load(exported) as certifier, certifier.clone() as twin:
        for one in (certifier, twin):
            one._remember_no_frames()  # the same frame on purpose
        heard, other = listen(certifier.runtime), listen(twin.runtime)
        for _ in range(5):
            certifier.certify(frame)
            twin.certify(frame)
        certifier.certify_batch([frame] * 3)
    assert (len(heard.noise), len(other.noise)) == (8, 5), "one pass for each frame"
    assert len({noise.tobytes() for noise in heard.noise + other.noise}) == 13
    recorded = source.replay.of(frame[None]).tobytes()
    assert recorded not in {noise.tobytes() for noise in heard.noise}


def test_a_frame_is_passed_once(exported: Path, source: ExportSource) -> None:
    """Ten tries, of which the best is kept, would be wrong up to eight times as often as promised."""
    frames = source.verification.frames[:3]
    with Certifier.load(exported) as certifier, certifier.clone() as twin:
        first = certifier.certify(frames[0])
        assert first.status is not Status.INVALID_INPUT
        again = [
            certifier.certify(frames[0].copy()),
            certifier.certify(frames[0], encoding="mono8"),
            twin.certify(frames[0]),
        ]
        batch = certifier.certify_batch([frames[1], frames[1], frames[0], frames[2]])
        heard = listen(certifier.runtime)
        certifier.certify(frames[2])
    for certificate in [*again, batch[1], batch[2]]:
        assert certificate.status is Status.INVALID_INPUT and "expected each frame once" in certificate.reason
    assert Status.INVALID_INPUT not in (batch[0].status, batch[3].status)
    assert not heard.noise, "not even a draw"


def test_only_the_last_frames_are_remembered() -> None:
    once, frames = Once(2), np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    for frame in frames:
        once.check(frame)
    once.check(frames[0])
    with pytest.raises(FrameError, match="once"):
        once.check(frames[2])


def test_no_noise_no_certificate(
    exported: Path, source: ExportSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no entropy")

    with Certifier.load(exported) as certifier:
        monkeypatch.setattr("rrise.edge_sdk.formats.noise.NoiseSource", fail)
        certificate = certifier.certify(source.verification.frames[0])
        assert certificate.status is Status.FAULT and not certificate


def test_offset_is_ranked_against_the_reference_less_rho(exported: Path, source: ExportSource) -> None:
    """Recomputed from the counts: at most n - k radii exceed max(R_low - rho, 0), and one more at a smaller offset."""
    bundle, pack = Bundle.open(exported), source.calibration
    record = bundle.calibrations["fp32"]
    runtime = OnnxRuntime.load(bundle.model("fp32"))
    scores = score_runtime(runtime, pack, noise=source.replay)
    radius = run_all(runtime, pack.frames, noise=source.replay).radius
    assert check_rank(scores, radius, record)
    counts = np.take_along_axis(pack.counts, scores.label[:, None], 1)
    reference = reference_radius(counts, pack.num_samples, pack.sigma, 0.1)[:, 0].astype(np.float64)
    allowed = np.maximum(reference - GUARD.rho, 0.0)
    most = record.num_frames - record.rank
    assert (radius > allowed).sum() <= most
    smaller = record.head.with_offset((record.head.offset[0] - 1e-4,))
    assert (smaller.radius(scores.probit, scores.label, scores.difficulty) > allowed).sum() > most
    tightened = replace(record.guarantee, guard=None)
    assert record.guarantee.alpha < tightened.alpha and record.rank > tightened.rank(record.num_frames)


def without_guard(model: onnx.ModelProto) -> None:
    kept = [entry for entry in model.metadata_props if entry.key != "rrise.guard"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def with_smaller_rho(model: onnx.ModelProto) -> None:
    entry = next(entry for entry in model.metadata_props if entry.key == "rrise.guard")
    entry.value = json.dumps({"noise": GUARD.noise, "rho": np.nextafter(GUARD.rho, 0)})


def with_less_noise(model: onnx.ModelProto) -> None:
    entry = next(entry for entry in model.metadata_props if entry.key == "rrise.guard")
    entry.value = json.dumps({"noise": 0.001, "rho": GUARD.rho})


@pytest.mark.parametrize("damage", [without_guard, with_smaller_rho, with_less_noise])
def test_a_graph_that_lost_its_guard_is_refused(copy_of: Path, damage: Callable[[Any], None]) -> None:
    model = onnx.load(copy_of / "surrogate.onnx")
    damage(model)
    replace_graph(copy_of, model.SerializeToString(deterministic=True))
    with pytest.raises(BundleError, match="guard"):
        Certifier.load(copy_of, artefact="fp32")


def test_a_manifest_without_the_guard_is_refused(copy_of: Path) -> None:
    rewrite_sealed(copy_of / "manifest.json", guard=None)
    with pytest.raises(BundleError, match="guard"):
        Certifier.load(copy_of)


def test_a_manifest_with_another_guard_is_refused(copy_of: Path) -> None:
    guard = {"rho": 2 * GUARD.rho, "noise": GUARD.noise, "replay": "0" * 64}
    rewrite_sealed(copy_of / "manifest.json", guard=guard)
    with pytest.raises(BundleError, match="guard"):
        Certifier.load(copy_of)


def test_a_record_without_the_guard_is_refused(copy_of: Path) -> None:
    path = copy_of / "calibration" / "fp32.json"
    record = json.loads(path.read_text())
    record["guarantee"]["guard"] = None
    path.write_text(json.dumps(record))
    relist(copy_of)
    with pytest.raises(BundleError, match="guard"):
        Certifier.load(copy_of)


def test_a_probe_without_noise_is_refused(copy_of: Path) -> None:
    replace(Probe.load(copy_of / "probe.npz"), noise=None).save(copy_of / "probe.npz")
    relist(copy_of)
    with pytest.raises(BundleError, match="noise"):
        Certifier.load(copy_of)


def test_verification_replays_recorded_noise_and_judges_with_fresh_noise(
    exported: Path, source: ExportSource
) -> None:
    bundle = Bundle.open(exported)
    runtime = OnnxRuntime.load(bundle.model("fp32"))
    heard = listen(runtime)
    result = verify(bundle, "fp32", runtime, source.verification, write=False)
    assert result and result.replay is not None and result.coverage is not None
    assert result.replay.complete and (result.replay.flipped, result.replay.largest_increase) == (0, 0.0)
    assert result.coverage.allowed_rate == float(bundle.calibrations["fp32"].guarantee.alpha) < 0.09
    count = len(source.verification)
    fresh = [noise.tobytes() for noise in heard.noise[-count:]]
    known = {noise[None].tobytes() for noise in source.replay.of(source.verification.frames)}
    assert len(set(fresh)) == count and not known & set(fresh)


def test_verification_subtracts_rho_from_what_it_compares_with(
    exported: Path, source: ExportSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """References that fit the radii exactly pass the plain comparison; less rho, every certificate exceeds them."""
    bundle, runtime = Bundle.open(exported), OnnxRuntime.load(Bundle.open(exported).model("fp32"))
    runtime.fresh = Fixed(GUARD, runtime.graph.signature.noise_shape)
    outputs = run_all(runtime, source.verification.frames)
    monkeypatch.setattr(
        "rrise.edge_sdk.device.verify.misfit", lambda *_, **__: ""
    )  # no counts prove these radii
    claimed = np.repeat(outputs.radius[:, None], 10, axis=1)
    result = verify(bundle, "fp32", runtime, replace(source.verification, radius=claimed), write=False)
    assert result.verdict is VerificationVerdict.STATISTICS
    assert result.coverage is not None and result.coverage.exceeding == int((outputs.radius > 0).sum())


class Fixed(FreshNoise):
    """What no product may have: the same noise for every frame."""

    def draw(self) -> np.ndarray:
        return np.zeros(self.shape, np.float32)


def test_another_stream_of_random_numbers_is_noticed(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(exported)
    monkeypatch.setattr("rrise.edge_sdk.formats.noise.ReplayNoise._seed", lambda *_: 5)
    with pytest.raises(BundleError, match="replay noise"):
        bundle.replay_noise()
    with Certifier.load(exported) as certifier:
        assert certifier.state.state is State.CALIBRATED, "live frames need no replay"


def test_recalibration_uses_one_fresh_draw_for_each_frame(copy_of: Path, source: ExportSource) -> None:
    bundle, pack = Bundle.open(copy_of), source.calibration
    runtime = OnnxRuntime.load(bundle.model("fp32"))
    heard = listen(runtime)
    result = recalibrate(bundle, "fp32", runtime, pack)
    # The first passes are the frames', the rest is the probe's fingerprint.
    noise = np.concatenate(heard.noise[: len(pack)])
    assert len(np.unique(noise.reshape(len(pack), -1), axis=0)) == len(pack)
    outputs = run_all(OnnxRuntime.load(bundle.model("fp32")), pack.frames, noise=noise)
    reference = pack.radius[np.arange(len(pack)), outputs.label].astype(np.float64)
    excess = np.sort(outputs.radius - np.maximum(reference - GUARD.rho, 0))
    record = bundle.calibrations["fp32"]
    assert result.rank == record.guarantee.spent_here(record.attempt, result.attempt).rank(len(pack))
    assert result.margin == pytest.approx(max(excess[result.rank - 1], 0.0), abs=1e-7)
    with Certifier.load(copy_of) as certifier:
        assert certifier.state.state is State.CALIBRATED and certifier.state.margin == result.margin


def test_engines_and_providers_that_may_round_the_sum_are_refused(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportError, match="guarded"):
        export_tensorrt(exported)
    monkeypatch.setattr("rrise.edge_sdk.runtime.onnxruntime.EXACT_PROVIDERS", ("cuda",))
    with pytest.raises(RuntimeUnavailable, match="lower precision"):
        OnnxRuntime.load(Bundle.open(exported).model("fp32"))


def test_going_over_to_another_tier_is_refused(exported: Path, bundle: Path) -> None:
    with Certifier.load(exported) as certifier:
        with pytest.raises(EdgeError, match="guard"):
            certifier.swap(bundle)
        assert certifier.state.state is State.CALIBRATED


def test_bench_times_the_draw_in_certify_only(exported: Path) -> None:
    with Certifier.load(exported) as certifier:
        heard = listen(certifier.runtime)
        bench(certifier, count=5, warm_up=1)
    assert len(heard.noise) == 6 * 3 and len({noise.tobytes() for noise in heard.noise}) <= 6 + 6


def test_the_gate_checks_a_guarded_bundle_again(exported: Path, guarded: Path) -> None:
    reports = gate_bundle(exported, guarded)
    assert len(reports) == 3 and all(reports)


def test_the_gate_stops_noise_that_is_not_fresh(
    exported: Path, guarded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrise.edge_sdk.formats.noise.NoiseSource.__init__", seeded)
    report = gate_bundle(exported, guarded)[0]
    assert not report and any("the same" in failure for failure in report.failures())


def seeded(self: Any, noise: float, seed: int | None = None) -> None:
    self._scale = noise * 255 * 1024
    self._random = np.random.Generator(np.random.Philox(7 if seed is None else seed))


def test_a_second_export_repeats_every_byte(exported: Path, source: ExportSource, tmp_path: Path) -> None:
    again = export_source(source, tmp_path / "again").path
    assert (again / "surrogate.onnx").read_bytes() == (exported / "surrogate.onnx").read_bytes()
    assert (again / "calibration/fp32.json").read_bytes() == (exported / "calibration/fp32.json").read_bytes()


def test_a_plain_bundle_says_nothing_of_noise(bundle: Path) -> None:
    assert "guard" not in json.loads((bundle / "manifest.json").read_text())
    model = onnx.load(bundle / "surrogate.onnx")
    assert [tensor.name for tensor in model.graph.input] == ["frame"]
    assert "rrise.guard" not in {entry.key for entry in model.metadata_props}
    assert Probe.load(bundle / "probe.npz").noise is None


def resized(source: ExportSource, *, grid: bool) -> ExportSource:
    """`source` in the guarded tier, with a crop and a resize in the graph."""
    before = source.preprocess
    after = Preprocess(before.frame_shape, before.encoding, before.crop, before.size, grid=grid).eval()
    network = source.module.get_submodule("network")
    guarantee = Guarantee.of(error="0.1", confidence="0.9", beta="0.1", guard=GUARD)
    module = joined(after, network, guarded=True)
    return replace(source, preprocess=after, module=module, guarantee=guarantee)


def test_resized_frames_lie_on_the_grid_of_the_noise(colour_source: ExportSource, tmp_path: Path) -> None:
    result = export_source(resized(colour_source, grid=True), tmp_path / "bundle", batch_size=3)
    with Certifier.load(result.path) as certifier:
        certificates = certifier.certify_batch(list(colour_source.verification.frames))
    assert sum(map(bool, certificates)) > len(certificates) // 5
    assert all(certificate.frame_radius == 0 for certificate in certificates), "rounding has no norm"


def test_what_the_network_sees_is_the_exact_sum_also_after_a_resize(colour_source: ExportSource) -> None:
    """ONNX Runtime's x, against float64 sums of the graph's own levels with the noise: equal bit for bit."""
    made = resized(colour_source, grid=True)
    parts = split_preprocessing(lower_source(made, 1))
    session = InferenceSession(parts.preprocessing.SerializeToString(), providers=["CPUExecutionProvider"])
    frames = made.verification.frames[:40]
    noise = made.replay.of(frames)

    def seen(drawn: np.ndarray) -> np.ndarray:
        pairs = zip(frames, drawn, strict=True)
        return np.stack([session.run(None, {"frame": f[None], "noise": e[None]})[0][0] for f, e in pairs])

    steps = seen(np.zeros_like(noise)).astype(np.float64) * 255 * 1024
    # Scaling to [0, 1] rounds by up to 0.03 of a step.
    assert np.abs(steps - np.rint(steps)).max() < 0.05, "levels lie on the grid"
    total = np.rint(steps) / 1024 + noise.astype(np.float64)
    np.testing.assert_array_equal(total.astype(np.float32).astype(np.float64), total)
    np.testing.assert_array_equal(seen(noise), total.astype(np.float32) * np.float32(1 / 255))


def test_resized_frames_off_the_grid_are_refused(colour_source: ExportSource) -> None:
    with pytest.raises(ExportError, match="grid"):
        resized(colour_source, grid=False)


def test_a_manifest_without_the_grid_is_refused(colour_source: ExportSource, tmp_path: Path) -> None:
    path = export_source(resized(colour_source, grid=True), tmp_path / "bundle").path
    preprocessing = json.loads((path / "manifest.json").read_text())["preprocessing"]
    rewrite_sealed(path / "manifest.json", preprocessing={**preprocessing, "grid": False})
    with pytest.raises(BundleError, match="grid"):
        Bundle.open(path)
