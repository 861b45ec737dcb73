"""The gate passes what was exported and stops every listed damage, also when all digests were made to fit."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch

from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.promise.maps import staircase_map, step_map
from rrise.calibration.promise.offsets import LEAST
from rrise.edge_sdk import Certifier
from rrise.edge_sdk.errors import BundleError
from rrise.export.errors import ExportError
from rrise.export.gating.compare import TOLERANCES, Answers, compare_outputs, graded, parse_tolerances
from rrise.export.gating.gate import gate, most_by_chance
from rrise.export.gating.gate_report import Check, GateReport, junit, save_reports
from rrise.export.source import ExportSource, float32_tolerance, torch_reference
from rrise.trainer.data.preprocess import Preprocess
from tests.export import damage


def run_gate(bundle: Path, source: ExportSource, artefact: str = "fp32") -> GateReport:
    return gate(bundle, artefact, source.calibration, source.verification, torch_reference(source.module))


def failed(report: GateReport) -> set[str]:
    return {check.name for check in report.checks if not check.passed}


@pytest.mark.parametrize("artefact", ["fp32", "fp16", "int8"])
def test_a_sound_bundle_passes(colour_bundle: Path, colour_source: ExportSource, artefact: str) -> None:
    report = run_gate(colour_bundle, colour_source, artefact)
    assert report, report.failures()
    assert report.comparison is not None and report.comparison.frames == 270
    assert report.needed is not None and report.needed.probit > 0
    if artefact == "fp32":
        assert report.comparison.label_flips == report.comparison.abstain_flips == 0
        assert report.comparison.radius_increase < 1e-5


def standard_deviation(model: onnx.ModelProto) -> None:
    damage.set_values(model, "network.standardise.std", lambda values: values * np.float32(1.05))


def mean(model: onnx.ModelProto) -> None:
    damage.set_values(model, "network.standardise.mean", lambda values: values + np.float32(0.02))


def no_offset(model: onnx.ModelProto) -> None:
    damage.set_values(model, "head.offset", np.zeros_like)


def wrong_sigma(model: onnx.ModelProto) -> None:
    damage.set_values(model, "head.sigma", lambda values: values * np.float32(1.1))


def unused_offset(model: onnx.ModelProto) -> None:
    """The offset still is an output of the graph, but nothing is subtracted."""
    (subtract,) = [node for node in model.graph.node if node.output[0] == "head.shrunk"]
    subtract.input[1] = "head.zero"


def wrong_channel_order(model: onnx.ModelProto) -> None:
    damage.swap_channels(model)


@pytest.mark.parametrize(
    ("change", "found_by"),
    [
        (damage.scale_largest_weight(1.01), "change of the probit"),
        (damage.scale_largest_weight(0.99), "change of the probit"),
        (wrong_channel_order, "change of the probit"),
        (standard_deviation, "change of the probit"),
        (mean, "change of the probit"),
        (no_offset, "opens as a user opens it"),
        (wrong_sigma, "opens as a user opens it"),
        (unused_offset, "radius is map and offset of the probit"),
    ],
)
def test_damage_with_matching_digests_is_stopped(
    colour_bundle: Path,
    colour_source: ExportSource,
    tmp_path: Path,
    change: Callable[[onnx.ModelProto], None],
    found_by: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = damage.copy_of(colour_bundle, tmp_path)
    damage.change_graph(bundle, "surrogate.onnx", change)
    assert not run_gate(bundle, colour_source)
    # The probe frames notice most of these first; the checks behind them must not depend on it.
    monkeypatch.setattr("rrise.export.gating.gate.matches_probe", lambda *_: True)
    assert found_by in failed(run_gate(bundle, colour_source))


def test_the_offset_of_another_precision_is_stopped(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path
) -> None:
    bundle = damage.copy_of(colour_bundle, tmp_path)
    other = onnx.load(bundle / "surrogate.int8.onnx")
    values = onnx.numpy_helper.to_array(damage.initializer(other, "head.offset"))
    assert values != onnx.numpy_helper.to_array(
        damage.initializer(onnx.load(bundle / "surrogate.onnx"), "head.offset")
    )
    damage.change_graph(
        bundle, "surrogate.onnx", lambda model: damage.set_values(model, "head.offset", lambda _: values)
    )
    with pytest.raises(BundleError, match="the graph computes offset"):
        Certifier.load(bundle)
    assert failed(run_gate(bundle, colour_source)) == {"opens as a user opens it"}


def test_the_graph_of_another_precision_is_stopped(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path
) -> None:
    bundle = damage.copy_of(colour_bundle, tmp_path)
    (bundle / "surrogate.onnx").write_bytes((bundle / "surrogate.int8.onnx").read_bytes())
    damage.reseal(bundle)
    assert not run_gate(bundle, colour_source)


@pytest.mark.parametrize("size", [0, 1, 1000, -1])
def test_a_truncated_file_is_stopped(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path, size: int
) -> None:
    bundle = damage.copy_of(colour_bundle, tmp_path)
    data = (bundle / "surrogate.onnx").read_bytes()
    (bundle / "surrogate.onnx").write_bytes(data[:size])
    assert failed(run_gate(bundle, colour_source)) == {"opens as a user opens it"}
    damage.reseal(bundle)
    assert failed(run_gate(bundle, colour_source))


def by_extract_model(source: Path, target: Path) -> None:
    model = onnx.load(source)
    onnx.utils.extract_model(
        source,
        target,
        [value.name for value in model.graph.input],
        [value.name for value in model.graph.output],
    )


def by_graphsurgeon(source: Path, target: Path) -> None:
    surgeon = pytest.importorskip("onnx_graphsurgeon", reason="onnx-graphsurgeon is not installed")
    onnx.save(surgeon.export_onnx(surgeon.import_onnx(onnx.load(source))), target)


def by_polygraphy(source: Path, target: Path) -> None:
    pytest.importorskip("polygraphy", reason="polygraphy is not installed")
    pytest.importorskip("onnx_graphsurgeon", reason="onnx-graphsurgeon is not installed")
    program = "from polygraphy.tools import main; main()"
    arguments = ["surgeon", "sanitize", str(source), "--fold-constants", "-o", str(target)]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("tool", [by_extract_model, by_graphsurgeon, by_polygraphy])
def test_stripped_metadata_is_stopped(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path, tool: Callable[[Path, Path], None]
) -> None:
    bundle = damage.copy_of(colour_bundle, tmp_path)
    tool(colour_bundle / "surrogate.onnx", bundle / "surrogate.onnx")
    assert not onnx.load(bundle / "surrogate.onnx").metadata_props
    damage.reseal(bundle)
    with pytest.raises(BundleError, match="metadata"):
        Certifier.load(bundle)
    (check,) = run_gate(bundle, colour_source).checks
    assert not check.passed and "metadata" in check.got


def test_other_references_are_stopped(colour_bundle: Path, colour_source: ExportSource) -> None:
    """The rank is checked on the frames of the record and on no others."""
    reference = torch_reference(colour_source.module)
    with pytest.raises(ExportError, match="got references of splits"):
        gate(colour_bundle, "fp32", colour_source.verification, colour_source.verification, reference)
    others = replace(colour_source.verification, split="calibration")
    report = gate(colour_bundle, "fp32", others, colour_source.verification, reference)
    assert failed(report) == {"rank of the offset"}


def test_an_offset_that_is_too_small_is_stopped(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path
) -> None:
    """A smaller offset that graph, metadata and record agree on: only the replay against the references can tell."""
    bundle = damage.copy_of(colour_bundle, tmp_path)
    damage.lower_offset_everywhere(bundle, "fp32", by=0.15)
    found = failed(run_gate(bundle, colour_source))
    assert "rank of the offset" in found and "opens as a user opens it" not in found


def test_findings_are_written_for_machines(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path
) -> None:
    good = run_gate(colour_bundle, colour_source)
    bundle = damage.copy_of(colour_bundle, tmp_path)
    damage.change_graph(bundle, "surrogate.onnx", damage.scale_largest_weight(1.3))
    bad = run_gate(bundle, colour_source)
    save_reports(tmp_path, [good, bad], "digits")
    written = json.loads((tmp_path / "gate.json").read_text())
    assert written["passed"] is False and [entry["passed"] for entry in written["artefacts"]] == [True, False]
    assert written["artefacts"][0]["needed_tolerance"]["label_flips"] == 0
    suites = ElementTree.fromstring((tmp_path / "gate.xml").read_bytes())
    assert [suite.get("failures") for suite in suites] == ["0", str(len(bad.failures()))]
    assert len(suites.findall(".//failure")) == len(bad.failures()) >= 1
    assert all(float(case.get("time", "")) >= 0 for case in suites.iter("testcase"))
    assert sum(float(case.get("time", "0")) for case in suites.iter("testcase")) > 0
    assert {case.get("classname") for case in suites.iter("testcase")} == {"gate.digits.fp32"}


def test_junit_is_xml_whatever_a_message_holds() -> None:
    odd = "a \x00\x1b[2K\ufffe\ud800 <&> é"
    text = junit([GateReport("fp32", (Check("opens", False, odd, "sound"),))], "w")
    (failure,) = ElementTree.fromstring(text).iter("failure")
    assert failure.text == "got a ??[2K?? <&> é, expected sound"


def test_coverage_counts_what_the_guarantee_counts() -> None:
    """Against binomial tails computed by hand: P(X > k) <= false alarm, and k is the smallest such."""
    for units, rate in ((100, 0.045), (215, 0.09), (1, 0.5)):
        most = most_by_chance(units, rate, 1e-4)
        mass = [math.comb(units, k) * rate**k * (1 - rate) ** (units - k) for k in range(units + 1)]
        tail = [sum(mass[first:]) for first in (most, most + 1)]
        assert tail[1] <= 1e-4 < tail[0]
    assert most_by_chance(0, 0.1, 1e-4) == 0


def test_the_frame_that_gave_the_offset_is_no_abstain_flip() -> None:
    head = CertificateHead(0.25, offset=(0.1,))
    probit = np.array([0.4, 0.5], np.float32)
    answers = [
        Answers.of(np.zeros(2, np.int64), probit + np.float32(change), head) for change in (0, 1e-6, 0.1)
    ]
    assert (answers[0].radius[0] > 0) != (answers[1].radius[0] > 0)
    assert compare_outputs(answers[1], answers[0], 0.25).abstain_flips == 0
    assert compare_outputs(answers[2], answers[0], 0.25).abstain_flips == 1


def test_nan_answers_are_infinitely_far() -> None:
    head = CertificateHead(0.25, offset=(0.1,))
    labels = np.zeros(2, np.int64)
    sound = Answers.of(labels, np.array([1, 2], np.float32), head)
    found = compare_outputs(Answers.of(labels, np.array([1, np.nan], np.float32), head), sound, 0.25)
    assert found.not_finite == 1 and found.probit == math.inf and found.radius_decrease > 0
    assert json.dumps(found.to_json(), allow_nan=False)


def test_tolerances_are_set_one_by_one() -> None:
    changed = parse_tolerances(["int8.abstain_flips=0.2", "int8.probit=3"])
    assert changed["int8"] == replace(TOLERANCES["int8"], abstain_flips=0.2, probit=3.0)
    assert set(changed) == {"int8"}
    for text in (
        "int8.abstain_flip=0.2",
        "int4.probit=1",
        "probit=1",
        "fp16.probit",
        "fp16.probit=-1",
        "fp16.probit=nan",
    ):
        with pytest.raises(ExportError, match="tolerance"):
            parse_tolerances([text])


def test_the_least_tolerance_is_the_least(colour_bundle: Path, colour_source: ExportSource) -> None:
    """What the report calls needed passes, and a hair less fails and is named again."""
    reference = torch_reference(colour_source.module)
    packs = (colour_source.calibration, colour_source.verification)
    needed = run_gate(colour_bundle, colour_source, "int8").needed
    assert needed is not None and needed.probit > 1e-3
    assert gate(colour_bundle, "int8", *packs, reference, tolerance=needed)
    report = gate(
        colour_bundle, "int8", *packs, reference, tolerance=replace(needed, probit=needed.probit * 0.999)
    )
    assert failed(report) == {"change of the probit"}
    assert f"least tolerance that would pass: label_flips {needed.label_flips:.3g}" in report.failures()[-1]


def test_float32_is_held_to_its_own_rounding(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path
) -> None:
    """Each of twenty weights drawn at random, off by 1 %: nearly all are noticed, and a sound graph passes."""
    allowed = float32_tolerance(colour_source.module, colour_source.verification.frames)
    assert 5e-6 <= allowed.probit < 1e-4
    packs, reference = (
        (colour_source.calibration, colour_source.verification),
        torch_reference(colour_source.module),
    )
    assert gate(colour_bundle, "fp32", *packs, reference, tolerance=allowed)
    random = np.random.default_rng(0)
    noticed = 0
    for number in range(20):
        bundle = damage.copy_of(colour_bundle, tmp_path / str(number))
        damage.change_graph(bundle, "surrogate.onnx", damage.scale_random_weight(1.01, random))
        noticed += not gate(bundle, "fp32", *packs, reference, tolerance=allowed)
    assert noticed >= 15


def test_a_network_without_float64_keeps_the_default_tolerance() -> None:
    class Single(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype != torch.float32:
                raise RuntimeError("float32 only")
            return x.flatten(1)[:, :3]

    module = torch.nn.Sequential(OrderedDict(preprocess=Preprocess((4, 4, 1), "mono8"), network=Single()))
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    assert float32_tolerance(module, frames) == TOLERANCES["fp32"]


def test_radii_of_a_step_are_compared_by_how_far_they_lie_beyond_it() -> None:
    head = CertificateHead(0.25, step_map(0.3), (0.1,))
    label = np.zeros(4, np.int64)
    theirs = Answers.of(label, np.array([1.7, 1.5, 1.6, 2.0], np.float32), head)
    mine = Answers.of(label, np.array([1.7, 1.7, 1.6 - 1e-7, 2.02], np.float32), head)
    # As they are, a frame at the very boundary counts as a whole certificate lost.
    assert compare_outputs(mine, theirs, 0.25).radius_increase == pytest.approx(0.3)
    found = compare_outputs(graded(mine, head), graded(theirs, head), 0.25)
    assert found.abstain_flips == 1 and found.radius_increase == pytest.approx(0.025, abs=1e-6)
    plain = CertificateHead(0.25, offset=(0.1,))
    assert graded(mine, plain) is mine


def test_radii_of_a_staircase_are_compared_by_how_far_they_lie_beyond_its_first_step() -> None:
    head = CertificateHead(0.25, staircase_map((0.1, 0.3), (0.1, 0.35)), (0.0,))
    label = np.zeros(4, np.int64)
    theirs = Answers.of(label, np.array([0.5, 1.39, 0.3, 9.0], np.float32), head)
    mine = Answers.of(label, np.array([0.5, 1.41, 0.5, 9.1], np.float32), head)
    assert (mine.radius - theirs.radius).tolist() == pytest.approx([0, 0.2, 0.1, 0])
    found = compare_outputs(graded(mine, head), graded(theirs, head), 0.25)
    assert found.radius_increase == pytest.approx(0.025, abs=1e-6) and found.abstain_flips == 1


def test_where_everything_is_issued_rounding_of_far_distances_does_not_count() -> None:
    head = CertificateHead(0.25, step_map(0.3), (float(LEAST),))
    label, probit = np.zeros(2000, np.int64), np.linspace(-3, 3, 2000, dtype=np.float32)
    theirs = Answers.of(label, probit, head)
    mine = Answers.of(label, probit + np.float32(1e-5), head)
    assert (mine.radius > 0).all() and compare_outputs(
        graded(mine, head), graded(theirs, head), 0.25
    ).radius_increase == 0


def test_a_bundle_that_certifies_nothing_is_stopped() -> None:
    from rrise.export.gating.compare import Answers
    from rrise.export.gating.gate import _check_worth

    label, probit = np.zeros(3, np.int64), np.zeros(3, np.float32)
    assert not _check_worth(Answers(label, np.zeros(3, np.float32), probit)).passed
    assert _check_worth(Answers(label, np.array([0, 0.1, 0], np.float32), probit)).passed
