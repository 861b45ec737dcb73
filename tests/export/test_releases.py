"""Acceptance policy, baseline, difference, cache and pack: what a build server relies on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from scipy.stats import norm

from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.keys import PrivateKey
from rrise.edge_sdk.formats.manifest import Manifest
from rrise.edge_sdk.formats.signing import Trust
from rrise.export.cli import main
from rrise.export.errors import ExportError
from rrise.export.gating import baseline
from rrise.export.gating.gate_report import Check, GateReport
from rrise.export.gating.policy import Policy, check_policy
from rrise.export.gating.quality import Quality, flags, latency_ratios, quality_table
from rrise.export.pipeline import GateFailed, export_source
from rrise.export.releasing import bundle as bundle_module
from rrise.export.releasing import cache as cache_module
from rrise.export.releasing.bundle import whole_or_not_at_all
from rrise.export.releasing.cache import Cache, conversion_key
from rrise.export.releasing.export_report import export_page, operator_notes
from rrise.export.releasing.keys import sign_bundle
from rrise.export.releasing.pack import pack_bundle, unpack_bundle
from rrise.export.source import ExportSource
from tests.export import damage


def quality(artefact: str, accuracy: tuple[float, ...], offset: float = 0.1) -> Quality:
    return Quality(artefact, 1000, offset, (0.0, 0.25), accuracy, accuracy, 100)


def test_certified_accuracy_counts_abstentions_and_wrong_labels(
    colour_bundle: Path, colour_source: ExportSource
) -> None:
    """Against a plain loop over the recorded table."""
    record = Bundle.open(colour_bundle).calibrations["fp32"]
    scores = Bundle.open(colour_bundle).recorded("fp32")
    assert scores is not None
    radius = record.head.radius(scores.probit, scores.label)
    for level in (0.0, 0.1):
        right = [
            bool(r > 0 and r >= level and label == target)
            for r, label, target in zip(radius, scores.label, scores.target, strict=True)
        ]
        found = baseline.diff(colour_bundle, colour_bundle).artefacts
        mine = next(item.new for item in found if item.artefact == "fp32")
        assert mine.certified_accuracy[mine.radii.index(level)] == pytest.approx(sum(right) / 120)
        share = scores.counts[np.arange(120), scores.label] / scores.num_samples
        holds = radius <= scores.sigma * norm.ppf(share)
        assert mine.net[mine.radii.index(level)] == pytest.approx(np.mean(np.array(right) & holds))
    assert (
        mine.offset == record.head.offset[0]
        and mine.size == (colour_bundle / "surrogate.onnx").stat().st_size
    )


def test_a_costly_precision_is_flagged() -> None:
    table = [
        quality("fp32", (0.8, 0.5)),
        quality("fp16", (0.81, 0.491)),
        quality("int8", (0.8, 0.489), offset=0.15),
    ]
    assert flags(table) == ["int8 costs 1.1 points of certified accuracy against fp32"]
    header, rows = quality_table(table)
    assert len(header) == 9 and rows[2][2] == "0.1500 (1.500x)" and rows[1][3] == "0.810 (1.012x)"


def product(model: onnx.ModelProto) -> Any:
    return SimpleNamespace(name="fp32", model=model.SerializeToString())


def test_the_report_has_every_figure_as_a_ratio_and_names_foreign_operators(colour_bundle: Path) -> None:
    table = [quality("fp32", (0.8, 0.5)), quality("int8", (0.8, 0.48), offset=0.15)]
    times = {
        name: {"p50_us": 10 * ratio, "p50_ratio": ratio, "p99_us": 20 * ratio, "p99_ratio": ratio}
        for name, ratio in (("fp32", 1.0), ("int8", 0.5))
    }
    page = re.sub("<[^>]*>", "", export_page(table, times, flags(table), 300).decode())
    for cell in (
        "0.1500 (1.500x)",
        "0.480 (0.960x)",
        "5 us (0.500x)",
        "10 us (0.500x)",
        "int8 costs 2.0 points",
    ):
        assert cell in page, cell
    model = onnx.load(colour_bundle / "surrogate.onnx")
    assert operator_notes([product(model)]) == []
    layer = next(node for node in model.graph.node if node.name.startswith("network/"))
    layer.op_type = "Det"
    (note,) = operator_notes([product(model)])
    assert f"operator Det in layer {layer.name!r} is not on the list of what TensorRT 10.3" in note


def test_latency_is_a_ratio_of_raw_samples() -> None:
    samples = {"fp32": np.array([1e-3] * 99 + [2e-3]), "int8": np.array([5e-4] * 99 + [3e-3])}
    assert latency_ratios(samples, "fp32")["int8"]["p50_ratio"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            Policy(radii=(0.0, 0.33), certified_accuracy=(0.1, 0.99)),
            r"certified accuracy at 0\.33: got .*at least 0\.99",
        ),
        (Policy(largest_offset=-1.0), r"acceptance: offset: got .* at most -1"),
        (Policy(largest_label_flips=-0.1), r"acceptance: label flips"),
    ],
)
def test_a_release_that_misses_the_policy_is_stopped(
    colour_source: ExportSource, tmp_path: Path, policy: Policy, message: str, memory: Cache
) -> None:
    with pytest.raises(GateFailed, match=message):
        export_source(colour_source, tmp_path / "bundle", policy=policy, cache=memory)
    assert not list(tmp_path.iterdir())


def test_a_release_that_reaches_the_policy_is_written(
    colour_source: ExportSource, tmp_path: Path, memory: Cache
) -> None:
    policy = Policy((0.0, 0.1), (0.2, 0.1), largest_offset=0.9, largest_label_flips=0.0, max_drop=0.0)
    result = export_source(colour_source, tmp_path / "bundle", policy=policy, cache=memory)
    assert sum(check.name.startswith("acceptance") for check in result.reports[0].checks) == 4


def test_radii_without_values_are_refused() -> None:
    with pytest.raises(ExportError, match="got 2 radii and 1 values"):
        Policy(radii=(0.0, 0.1), certified_accuracy=(0.5,))


def wider_offset(source: ExportSource) -> ExportSource:
    """The same model promised more strictly: a larger offset, hence smaller certificates."""
    from rrise.calibration.promise.guarantee import Guarantee

    return replace(source, guarantee=Guarantee.of(error="0.04", confidence="0.9", beta="0.1"))


def test_a_baseline_stops_a_drop(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path, memory: Cache
) -> None:
    worse = wider_offset(colour_source)
    arguments: dict[str, Any] = {"baseline": colour_bundle, "cache": memory}
    with pytest.raises(GateFailed, match="drop of certified accuracy against the baseline"):
        export_source(worse, tmp_path / "bundle", policy=Policy(max_drop=0.001), **arguments)
    result = export_source(worse, tmp_path / "bundle", policy=Policy(max_drop=0.9), **arguments)
    found = baseline.diff(colour_bundle, result.path)
    assert found.largest_drop() > 0.001
    (item,) = found.artefacts
    assert item.common == 120 and item.comparison is not None
    assert item.comparison.label_flips == 0 and item.comparison.radius_decrease > 0
    assert {name for name, _, _ in found.settings} >= {"release", "artefacts", "guarantee of fp32"}
    assert not baseline.diff(colour_bundle, colour_bundle).settings


def test_a_precision_that_the_baseline_lacks_is_held_against_its_fp32(
    colour_source: ExportSource, tmp_path: Path, memory: Cache
) -> None:
    old = export_source(colour_source, tmp_path / "old", cache=memory).path
    arguments: dict[str, Any] = {"baseline": old, "cache": memory}
    worse = wider_offset(colour_source)
    with pytest.raises(GateFailed, match=r"fp16: acceptance: drop .* against its fp32, expected at most"):
        export_source(worse, tmp_path / "new", ("fp16",), policy=Policy(max_drop=0.001), **arguments)


def test_a_drop_that_nothing_can_show_fails() -> None:
    """Frames without a known class: no number is no pass. A loss of exactly the limit is one."""
    blind, seen = replace(quality("fp32", ()), radii=()), quality("fp32", (0.95, 0.5))
    report = GateReport("fp32", (Check("opens", True, "", ""),))
    for old, new, passes in (
        (seen, blind, False),
        (blind, seen, False),
        (seen, quality("fp32", (0.94, 0.5)), True),
        (seen, quality("fp32", (0.939, 0.5)), False),
    ):
        assert bool(check_policy(Policy(max_drop=0.01), [new], [report], {"fp32": old})[0]) is passes
    assert flags([seen, quality("int8", (0.94, 0.5))]) == []


def test_bundles_without_a_common_artefact_have_no_difference(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path
) -> None:
    copy = damage.copy_of(colour_bundle, tmp_path)
    manifest = Manifest.load(copy / "manifest.json")
    artefacts = {name: replace(entry, calibration=None) for name, entry in manifest.artefacts.items()}
    replace(manifest, artefacts=artefacts).save(copy / "manifest.json")
    result = CliRunner().invoke(main, ["diff", str(colour_bundle), str(copy), "--max-drop", "1"])
    assert result.exit_code == 2 and "expected one that both bundles have" in result.stderr
    with pytest.raises(ExportError, match="has no calibrated artefact"):
        baseline.baseline_qualities(copy, colour_source.verification, (0.0,))


def test_a_baseline_with_other_classes_is_refused(colour_bundle: Path, colour_source: ExportSource) -> None:
    other = replace(colour_source.verification, class_names=tuple("abcdefghij"))
    with pytest.raises(ExportError, match="its classes are"):
        baseline.baseline_qualities(colour_bundle, other, (0.0,))


def test_the_diff_command_fails_beyond_max_drop(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path, memory: Cache
) -> None:
    worse = export_source(wider_offset(colour_source), tmp_path / "bundle", cache=memory).path
    result = CliRunner().invoke(
        main, ["diff", str(colour_bundle), str(worse), "--max-drop", "0.001", "--json"]
    )
    assert result.exit_code == 1 and json.loads(result.stdout)["largest_drop"] > 0.001
    result = CliRunner().invoke(main, ["diff", str(worse), str(colour_bundle), "--max-drop", "0.001"])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache that the tests of this file share."""
    return Cache(tmp_path_factory.mktemp("cache"))


def test_the_cache_answers_only_for_what_it_was_made_from(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path), []

    def make() -> onnx.ModelProto:
        made.append(1)
        return onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))

    first, second = cache.graph("a", make), cache.graph("a", make)
    assert first == second and len(made) == 1
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + b"\0")
    assert cache.graph("a", make) == first and len(made) == 2
    cache.graph("b", make)
    assert len(made) == 3 and len(list(tmp_path.iterdir())) == 2


def test_the_cache_key_holds_everything_that_counts(colour_source: ExportSource) -> None:
    others = [
        (replace(colour_source, surrogate_digest="6" * 64), "int8", 1),
        (replace(colour_source, tuning=colour_source.verification), "int8", 1),
        (colour_source, "fp16", 1),
        (colour_source, "int8", 2),
    ]
    keys = {conversion_key(*other) for other in others} | {conversion_key(colour_source, "int8", 1)}
    assert len(keys) == 5
    tuned = replace(colour_source, tuning=colour_source.verification)
    assert conversion_key(tuned, "fp32", 1) == conversion_key(colour_source, "fp32", 1)


def test_tools_may_come_from_distributions_with_other_names(
    colour_source: ExportSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu brings the module onnxruntime."""
    wanted, original = conversion_key(colour_source, "fp32", 1), importlib.metadata.version

    def without_onnxruntime(name: str) -> str:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return original(name)

    monkeypatch.setattr(importlib.metadata, "version", without_onnxruntime)
    assert conversion_key(colour_source, "fp32", 1) == wanted


def test_a_packed_bundle_is_one_reproducible_file(
    colour_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = damage.copy_of(colour_bundle, tmp_path)
    (copy / "device").mkdir()
    (copy / "device" / "record.json").write_text("{}")
    assert pack_bundle(colour_bundle, tmp_path / "a.rrise") == pack_bundle(copy, tmp_path / "b.rrise")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert pack_bundle(copy, tmp_path / "c.rrise") == pack_bundle(colour_bundle, tmp_path / "d.rrise")
    assert zipfile.ZipFile(tmp_path / "c.rrise").infolist()[0].date_time == (2023, 11, 14, 22, 13, 20)
    digest = unpack_bundle(tmp_path / "c.rrise", tmp_path / "unpacked")
    assert (
        digest
        == Bundle.open(colour_bundle).manifest.digest
        == Bundle.open(tmp_path / "unpacked").manifest.digest
    )
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ExportError, match="SOURCE_DATE_EPOCH: got 'yesterday'"):
        pack_bundle(colour_bundle, tmp_path / "e.rrise")


def test_a_bundle_is_not_packed_into_itself(colour_bundle: Path, tmp_path: Path) -> None:
    copy = damage.copy_of(colour_bundle, tmp_path)
    with pytest.raises(ExportError, match="lies within the bundle"):
        pack_bundle(copy, copy / "recorded" / "a.rrise")
    assert Bundle.open(copy)


def outside(archive: zipfile.ZipFile) -> None:
    archive.writestr("../outside", b"x")


def extra(archive: zipfile.ZipFile) -> None:
    archive.writestr("extra.bin", b"x")


def device_record(archive: zipfile.ZipFile) -> None:
    """No digest of the release covers it, and a robot may accept local records."""
    archive.writestr("device/onnxruntime-1/calibration.json", b"{}")


@pytest.mark.parametrize(
    ("add", "error"), [(outside, ExportError), (extra, BundleError), (device_record, ExportError)]
)
def test_what_is_not_a_packed_bundle_is_refused(
    colour_bundle: Path, tmp_path: Path, add: Callable[[zipfile.ZipFile], None], error: type[Exception]
) -> None:
    pack_bundle(colour_bundle, tmp_path / "a.rrise")
    with zipfile.ZipFile(tmp_path / "a.rrise", "a") as archive:
        add(archive)
    with pytest.raises(error):
        unpack_bundle(tmp_path / "a.rrise", tmp_path / "bundle")
    (tmp_path / "cut.rrise").write_bytes((tmp_path / "a.rrise").read_bytes()[:5000])
    with pytest.raises(ExportError, match="not a readable packed bundle"):
        unpack_bundle(tmp_path / "cut.rrise", tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.rrise", "cut.rrise"]


def test_one_bad_workspace_does_not_stop_the_others(workspace: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workspace, tmp_path / "good")
    result = CliRunner().invoke(main, ["onnx", str(tmp_path / "nowhere"), str(copy), "--json"])
    assert result.exit_code == 2 and "no rrise.toml" in result.stderr
    said = json.loads(result.stdout)["exports"]
    assert said[0]["bundle"] is None and said[1]["bundle"] == str(copy / "bundle")
    record = Bundle.open(copy / "bundle").calibrations["fp32"]
    assert (copy / "scores" / record.execution.name / "calibration.npz").is_file()


def test_a_workspace_whose_report_cannot_be_written_does_not_stop_the_others(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rrise.export.pipeline.save_export_report", full)
    copy = shutil.copytree(workspace, tmp_path / "full")
    result = CliRunner().invoke(main, ["onnx", str(copy), str(tmp_path / "nowhere"), "--json"])
    assert result.exit_code == 2 and "No space left" in result.stderr and "no rrise.toml" in result.stderr
    assert [entry["bundle"] for entry in json.loads(result.stdout)["exports"]] == [None, None]


def test_the_check_command_runs_the_gate_again(workspace: Path, bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check", str(bundle), str(workspace), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["gate"][0]["passed"], result.output
    copy = damage.copy_of(bundle, tmp_path)
    damage.change_graph(copy, "surrogate.onnx", damage.scale_largest_weight(1.01))
    result = CliRunner().invoke(main, ["check", str(copy), str(workspace)])
    assert result.exit_code == 1 and "the bundle is not what the workspace exports" in result.stderr


def test_a_cache_from_elsewhere_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest fits; only the user's own key shows who wrote it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "theirs"))
    cache_module._secret.cache_clear()

    def graph(name: str) -> onnx.ModelProto:
        return onnx.helper.make_model(onnx.helper.make_graph([], name, [], []))

    cache = Cache(tmp_path / "workspace")
    cache.graph("a", lambda: graph("theirs"))
    assert cache.graph("a", lambda: graph("other")).graph.name == "theirs", "their own next export is quick"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    cache_module._secret.cache_clear()
    assert cache.graph("a", lambda: graph("mine")).graph.name == "mine"
    assert (tmp_path / "mine" / "rrise" / "export.key").stat().st_mode & 0o777 == 0o600
    cache_module._secret.cache_clear()


def test_nothing_is_unpacked_before_the_signature_was_looked_at(colour_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="cryptography is not installed")
    key, other = PrivateKey.generate(), PrivateKey.generate()
    copy = damage.copy_of(colour_bundle, tmp_path)
    sign_bundle(copy, key, 1)
    pack_bundle(copy, tmp_path / "a.rrise")
    extracted: list[str] = []

    def extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
        extracted.append(member.filename)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extract", extract)
        with pytest.raises(BundleError, match="signed by key"):
            unpack_bundle(tmp_path / "a.rrise", tmp_path / "out", trust=Trust.of(other.public))
    assert not extracted and not (tmp_path / "out").exists()
    unpack_bundle(tmp_path / "a.rrise", tmp_path / "out", trust=Trust.of(key.public))


@pytest.mark.parametrize("name", ["surrogate.onnx", "signature.json", "manifest.json"])
def test_a_member_that_unpacks_to_far_more_is_refused(
    colour_bundle: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrise.export.releasing.pack._LEAST", 30 << 20)
    with zipfile.ZipFile(tmp_path / "a.rrise", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in ("manifest.json", "surrogate.onnx"):
            if file != name:
                archive.write(colour_bundle / file, file)
        archive.writestr(name, b" " * ((40 << 20) if name == "surrogate.onnx" else (20 << 20)))
    with pytest.raises(ExportError, match=r"bytes unpacked, expected at most|is larger than"):
        unpack_bundle(tmp_path / "a.rrise", tmp_path / "out")


def test_a_replaced_bundle_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renamed away and then in place, a kill between the two would leave none."""
    out, replace_file = tmp_path / "bundle", os.replace
    _folder(out, "old")

    def watched(source: Path, target: Path) -> None:
        assert Path(source) != out, "the old bundle is moved away"
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", watched)
    with whole_or_not_at_all(out, replace=True) as folder:
        _folder(folder, "new")
    assert (out / "manifest.json").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == [
        "bundle"
    ]


def test_where_that_takes_two_steps_the_next_export_puts_the_old_bundle_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, replace_file = tmp_path / "bundle", os.replace
    _folder(out, "old")
    monkeypatch.setattr(bundle_module, "_exchange", lambda one, other: False)

    def killed(source: Path, target: Path) -> None:
        if Path(target) == out:
            raise SystemExit("killed between the two renames")
        replace_file(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(bundle_module.shutil, "rmtree", lambda *_, **__: None)  # type: ignore[attr-defined]
        with pytest.raises(SystemExit), whole_or_not_at_all(out, replace=True) as folder:
            _folder(folder, "new")
    assert not out.exists()
    with pytest.raises(ExportError, match="exists already"), whole_or_not_at_all(out):
        pass
    assert (out / "manifest.json").read_text() == "old"


def _folder(path: Path, content: str) -> None:
    path.mkdir(exist_ok=True)
    (path / "manifest.json").write_text(content)
