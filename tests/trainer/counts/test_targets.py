from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_law
from scipy.stats import norm

from rrise.calibration.console import Progress
from rrise.calibration.statistics.bounds import reference_radius
from rrise.calibration.tables.references import References
from rrise.trainer.base_classifier.stage import train_base
from rrise.trainer.counts.targets import build_targets
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.storage.store import recorded_engines
from rrise.trainer.networks import load_network, save_network
from rrise.trainer.scores.calibrate import calibrate_surrogate
from rrise.trainer.streams import all_streams, bundle_streams, comparison_streams, stored_counts
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit


def test_streams_of_the_digits_demo(tmp_path: Path) -> None:
    streams = {
        stream.name: (stream.split, stream.num_samples) for stream in all_streams(Workspace.create(tmp_path))
    }
    assert streams["verification"] == ("verification", 2000)
    assert streams["certify-10000"] == ("test", 10000)
    assert streams["audit"] == ("test", 10000)
    assert set(streams) == {
        *("train", "tuning", "calibration", "verification"),
        *("selection", "certify-100", "certify-1000", "certify-10000", "audit"),
    }


def test_nothing_is_sampled_twice(workspace: Path) -> None:
    made = Workspace.open(workspace)
    result = build_targets(made)
    assert result.drawn == 0 and result.found == 360 * 100 + 200 * 200
    compared = build_targets(made, comparison_streams(made))
    assert compared.drawn == 0 and compared.found == 40 * (100 + 100 + 200 + 400)


def test_more_samples_continue(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    before = copy.references("tuning").counts
    more = edit(copy, "tuning = 200", "tuning = 300")
    assert build_targets(more).drawn == 40 * 100
    after = more.references("tuning")
    assert (after.counts >= before).all() and (after.num_samples == 300).all()
    # The counts could be looked at with 200 samples already: beta 0.1 is split over the two looks.
    hits = after.counts.max(axis=1).astype(float)
    expected = np.maximum(0.25 * norm.ppf(beta_law.ppf(0.05, hits, 300 - hits + 1)), 0)
    np.testing.assert_allclose(after.radius.max(axis=1), expected, atol=1e-6)


def test_how_often_n_may_be_raised_is_fixed_beforehand(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    with pytest.raises(TrainerError, match=r"would be look 2 .* looks = 1 was fixed beforehand"):
        build_targets(edit(copy, "calibration = 200", "calibration = 300"))
    with pytest.raises(TrainerError, match="got looks = 2, expected 1"):
        build_targets(edit(copy, "looks = 1", "looks = 2"))
    planned = edit(copied(workspace, tmp_path / "planned"), "looks = 1", "looks = 2")
    shutil.rmtree(planned.targets_path)
    for num_samples in (200, 300):
        opened = edit(planned, "calibration = 200", "calibration = 300") if num_samples == 300 else planned
        build_targets(opened)
        pack = opened.references("calibration")
        hits = pack.counts.max(axis=1).astype(float)
        # Half of beta 0.1 from the first look on.
        expected = 0.25 * norm.ppf(beta_law.ppf(0.05, hits, num_samples - hits + 1))
        np.testing.assert_allclose(pack.radius.max(axis=1), np.maximum(expected, 0), atol=1e-6)
    with pytest.raises(TrainerError, match="would be look 3"):
        build_targets(edit(planned, "calibration = 300", "calibration = 400"))


def test_reference_radius_against_scipy(workspace: Path) -> None:
    pack = Workspace.open(workspace).references("calibration")
    assert (pack.num_samples == 200).all() and len(pack) == 100
    hits = pack.counts.max(axis=1).astype(float)
    lower = beta_law.ppf(0.1, hits, 200 - hits + 1)
    expected = np.maximum(0.25 * norm.ppf(lower), 0)
    np.testing.assert_allclose(pack.radius.max(axis=1), expected, atol=1e-6)


def test_streams_are_independent_draws_of_one_classifier(workspace: Path) -> None:
    made = Workspace.open(workspace)
    base = made.base()
    small, large = (
        stored_counts(made, "certify-100", base.digest),
        stored_counts(made, "selection", base.digest),
    )
    assert not np.array_equal(small, large)
    generator = torch.Generator().manual_seed(1)
    x, hits = made.inputs("test"), np.zeros((40, 10))
    with torch.inference_mode():
        for _ in range(400):
            label = base.module(x + 0.25 * torch.randn(x.shape, generator=generator)).argmax(1)
            hits[np.arange(40), label] += 1
    audit = stored_counts(made, "audit", base.digest)
    # Two-sample comparison of 400 entries; |z| > 5.5 somewhere has probability below 400 * 4e-8
    share = (hits + audit) / 800
    deviation = np.sqrt(np.maximum(share * (1 - share) * 2 * 400, 1.0))
    assert np.abs((hits - audit) / deviation).max() < 5.5


def test_counts_of_another_base_are_refused_and_stay(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    digest, base = copy.base_digest, load_network(copy.base_path)
    save_network(copy.base_path, base.module, base.spec, {**base.metadata, "note": "another"})
    train_base(copy)
    assert copy.base_digest == digest, "the same weights give the same base.onnx"
    with torch.no_grad():
        base.module.head.bias[0] += 0.1  # type: ignore[index, operator, union-attr]
    save_network(copy.base_path, base.module, base.spec, base.metadata)
    train_base(copy)
    with pytest.raises(TrainerError, match="another base classifier"):
        build_targets(copy)
    assert (stored_counts(copy, "audit", digest).sum(axis=1) == 400).all()


def test_unfinished_stream_says_what_to_run(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "audit = 400", "audit = 500")
    with pytest.raises(TrainerError, match="4000 of its samples are still missing; run `rrise-train certify"):
        stored_counts(copy, "audit", copy.base().digest)


def test_sizes_that_no_block_divides_are_refused_before_sampling(workspace: Path, tmp_path: Path) -> None:
    """When the settings are read, before anything else is spent."""
    with pytest.raises(
        TrainerError, match=r"audit: got 450, expected a multiple of 100.* nearest are 400 and 500"
    ):
        edit(copied(workspace, tmp_path), "audit = 400", "audit = 450")


def test_one_engine_counts_everything_and_is_part_of_the_identity(workspace: Path, tmp_path: Path) -> None:
    made = Workspace.open(workspace)
    engines = recorded_engines(made.targets_path, made.base_digest)
    assert len(engines) == 1 and next(iter(engines)).startswith("onnxruntime ")
    copy = edit(copied(workspace, tmp_path), 'engine = "onnxruntime"', 'engine = "auto"')
    result = build_targets(copy)
    assert result.drawn == 0 and result.engine.startswith("onnxruntime "), (
        "auto goes on with the engine of the counts"
    )
    copy = edit(copy, 'engine = "auto"', 'engine = "torch"')
    with pytest.raises(
        TrainerError, match=r"was counted by 'onnxruntime .*', got 'torch .*one base classifier should"
    ):
        build_targets(copy)


def test_counts_from_before_go_on_with_the_module(workspace: Path, tmp_path: Path) -> None:
    """A store of version 1 names no engine; its counts were PyTorch's."""
    copy = edit(copied(workspace, tmp_path), 'engine = "onnxruntime"', 'engine = "auto"')
    for path in copy.targets_path.glob("*/zarr.json"):
        content = json.loads(path.read_text())
        content["attributes"].pop("engine")
        content["attributes"]["version"] = 1
        path.write_text(json.dumps(content))
    copy = edit(copy, "audit = 400", "audit = 500")
    assert build_targets(copy, comparison_streams(copy)).drawn == 40 * 100
    assert recorded_engines(copy.targets_path, copy.base_digest) == {""}


def test_a_pack_whose_counts_are_not_the_stores_is_refused(workspace: Path, tmp_path: Path) -> None:
    """Misses made hits in every pack would pass calibration, gate and check: nothing but the store knows better."""
    copy = copied(workspace, tmp_path)
    pack = copy.references("calibration")
    counts = pack.counts.copy()
    counts[:3] = 0
    counts[np.arange(3), pack.target[:3]] = pack.num_samples[:3]
    better = References.from_counts(
        pack.frames, pack.clip, pack.target, counts, pack.num_samples, split="calibration", sigma=pack.sigma,
        class_names=pack.class_names, base_digest=pack.base_digest, beta=pack.beta,
    )  # fmt: skip
    better.save(copy.references_path("calibration"))
    with pytest.raises(TrainerError, match=r"[123] frames have other counts than .*targets.zarr"):
        copy.references("calibration")
    radius = pack.radius.copy()
    radius[0, int(radius[0].argmax())] += np.float32(0.05)
    dataclasses.replace(pack, radius=radius).save(copy.references_path("calibration"))
    with pytest.raises(TrainerError, match="1 reference radii are larger than their counts prove"):
        copy.references("calibration")


def test_a_bundle_needs_no_comparison_and_fresh_training_no_counts(workspace: Path) -> None:
    made = Workspace.open(workspace)
    names = {}
    for method in ("auto", "stored", "fresh"):
        config = dataclasses.replace(
            made.config, surrogate=dataclasses.replace(made.config.surrogate, method=method)
        )
        names[method] = [stream.name for stream in bundle_streams(Workspace(made.path, config))]
    assert names["auto"] == names["stored"] == ["train", "tuning", "calibration", "verification"]
    assert names["fresh"] == ["tuning", "calibration", "verification"]
    assert [s.name for s in comparison_streams(made)] == ["selection", "certify-100", "certify-200", "audit"]


def test_without_the_audit_calibration_is_judged_on_verification_frames(
    workspace: Path, tmp_path: Path
) -> None:
    copy = copied(workspace, tmp_path)
    copy.references_path("test").unlink()
    shutil.rmtree(copy.targets_path / "audit")
    result = calibrate_surrogate(copy)
    assert result.judged_on == "verification" and result.verdict.frames == len(copy.splits.verification)
    assert calibrate_surrogate(Workspace.open(workspace)).judged_on == "test"


def test_what_it_will_take_is_said_before(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "tuning = 200", "tuning = 300")
    said: list[str] = []
    build_targets(copy, announce=said.append)
    assert len(said) == 1
    assert re.fullmatch(r"tuning: 4,000 evaluations of the base classifier, about \d+ s", said[0])
    build_targets(copy, announce=said.append)
    assert len(said) == 1, "nothing to draw, nothing to say"


def test_ctrl_c_says_what_is_stored(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = edit(copied(workspace, tmp_path), "tuning = 200", "tuning = 400")
    calls = itertools.count(1)

    def interrupt(self: Progress, amount: int = 1) -> None:
        if next(calls) == 20:  # after the first write
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", interrupt)
    with pytest.raises(
        TrainerError, match=r"stopped: ([\d,]+) of 8,000 evaluations .* the same command continues"
    ) as stopped:
        build_targets(copy)
    monkeypatch.undo()
    kept = int(str(stopped.value).split()[1].replace(",", ""))
    assert kept > 0 and build_targets(copy).drawn == 8000 - kept


def staged(workspace: Path, tmp_path: Path) -> Workspace:
    """A copy without counts whose references go on from 200 to 600 draws."""
    copy = edit(copied(workspace, tmp_path), "refine = 0", "refine = 600")
    shutil.rmtree(copy.targets_path)
    return copy


def test_undecided_frames_go_on_and_beta_is_split(workspace: Path, tmp_path: Path) -> None:
    copy = staged(workspace, tmp_path)
    said: list[str] = []
    result = build_targets(copy, announce=said.append)
    packs = {split: copy.references(split) for split in ("tuning", "calibration", "verification")}
    samples = np.concatenate([pack.num_samples for pack in packs.values()])
    assert set(samples.tolist()) == {200, 600}
    assert result.refined == (samples == 600).sum() > 0
    assert result.drawn == 360 * 100 + int(samples.sum()) and len(said) == 2
    assert "frames that their first draws leave undecided: " in said[1]
    for pack in packs.values():
        hits = pack.counts.max(axis=1).astype(float)
        level = np.where(pack.num_samples == 200, 0.01, 0.09)
        expected = 0.25 * norm.ppf(beta_law.ppf(level, hits, pack.num_samples - hits + 1))
        np.testing.assert_allclose(pack.radius.max(axis=1), np.maximum(expected, 0), atol=1e-6)
        assert pack.level is not None and np.allclose(pack.level, level)
    assert Workspace.open(workspace).references("calibration").level is None
    again = build_targets(copy)
    assert again.drawn == 0 and again.found == result.drawn and again.refined == result.refined
    record = calibrate_surrogate(copy).record
    assert record.num_samples == (200, 600)


def test_killed_between_the_stages_it_comes_to_the_same(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = staged(workspace, tmp_path / "whole")
    build_targets(expected)
    copy, calls = staged(workspace, tmp_path / "killed"), itertools.count(1)
    told: list[str] = []

    def interrupt(self: Progress, amount: int = 1) -> None:
        if told and told[-1].count("undecided") and next(calls) == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", interrupt)
    with pytest.raises(TrainerError, match="the same command continues"):
        build_targets(copy, announce=told.append)
    monkeypatch.undo()
    build_targets(copy)
    for split in ("tuning", "calibration", "verification"):
        np.testing.assert_array_equal(copy.references(split).counts, expected.references(split).counts)
        np.testing.assert_array_equal(copy.references(split).radius, expected.references(split).radius)


def test_whether_frames_go_on_is_fixed_beforehand(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainerError, match=r"got refine = 600, expected 0, which was fixed before its counts"
    ):
        build_targets(edit(copied(workspace, tmp_path), "refine = 0", "refine = 600"))
    copy = staged(workspace, tmp_path / "staged")
    build_targets(copy)
    # What whoever builds a pack from the counts alone gets: bounds at all of beta.
    pack = copy.references("calibration")
    whole = reference_radius(pack.counts, pack.num_samples, pack.sigma, pack.beta)
    dataclasses.replace(pack, radius=whole).save(copy.references_path("calibration"))
    with pytest.raises(TrainerError, match="radii are larger than their counts prove at their share of beta"):
        copy.references("calibration")
    pack.save(copy.references_path("calibration"))
    with pytest.raises(TrainerError, match=r"got refine = 0, expected 600"):
        build_targets(edit(copy, "refine = 600", "refine = 0"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("refine = 200", r"refine: got 200, expected 0 or more than the 200 draws"),
        ("refine = 650", r"refine: got 650, expected a multiple of 100"),
        ("refine = -100", r"refine: got -100, expected 0 or a number above it"),
        ("refine = 600\nlooks = 2", r"refine: got 600 with looks = 2, expected one of both"),
    ],
)
def test_stages_that_cannot_be(workspace: Path, tmp_path: Path, settings: str, message: str) -> None:
    copy = edit(copied(workspace, tmp_path), "looks = 1\n", "")
    with pytest.raises(TrainerError, match=message):
        edit(copy, "refine = 0", settings)
