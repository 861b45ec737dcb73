"""From a source to a bundle: what a user gets, and that nothing is left behind when it fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from rrise.calibration.promise.fit import check_rank
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.maps import RadiusMap, staircase_map, step_map
from rrise.calibration.promise.offsets import smallest_offsets
from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.digests import file_digest
from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores
from rrise.edge_sdk import Certifier
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import run_all, score_runtime
from rrise.edge_sdk.device.device_calibration import recalibrate
from rrise.edge_sdk.device.loading import State
from rrise.edge_sdk.device.verify import VerificationVerdict, verify
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.export import pipeline, products
from rrise.export.errors import ExportError
from rrise.export.pipeline import GateFailed, export_source
from rrise.export.releasing.bundle import whole_or_not_at_all
from rrise.export.source import ExportSource, torch_reference
from tests.export import damage

ARTEFACTS = ("fp32", "fp16", "int8")


LOWER = products.lower  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def lowered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing the same network takes seconds and is tested in test_lower.py: each batch size is lowered once."""
    monkeypatch.setattr(products, "lower", lower_from_memory)


def lower_from_memory(module: Any, example: Any, outputs: tuple[str, ...]) -> onnx.ModelProto:
    key = (id(module), tuple(example.shape))
    if key not in MEMORY:
        MEMORY[key] = LOWER(module, example, outputs)
    copy = onnx.ModelProto()
    copy.CopyFrom(MEMORY[key])
    return copy


MEMORY: dict[Any, onnx.ModelProto] = {}


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_every_precision_certifies_on_the_execution_it_was_calibrated_on(
    colour_bundle: Path, colour_source: ExportSource, artefact: str
) -> None:
    with Certifier.load(colour_bundle, artefact=artefact) as certifier:
        assert certifier.state.state is State.CALIBRATED
        certificates = certifier.certify_batch(colour_source.verification.frames)
    issued = [certificate for certificate in certificates if certificate]
    assert len(issued) > len(certificates) // 3
    # The norm of crop and resize turns the radius into one in the camera's own pixels.
    assert all(certificate.frame_radius > 0 for certificate in issued)


def test_without_the_sdk_any_onnx_runtime_gives_label_and_radius(
    colour_bundle: Path, colour_source: ExportSource
) -> None:
    session = onnxruntime.InferenceSession(
        colour_bundle / "surrogate.onnx", providers=["CPUExecutionProvider"]
    )
    frame = colour_source.verification.frames[:1]
    label, radius = session.run(["label", "radius"], {"frame": frame})
    with Certifier.load(colour_bundle) as certifier:
        certificate = certifier.certify(frame[0])
    assert (label[0], radius[0]) == (certificate.label, np.float32(certificate.radius))


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_the_offset_is_the_kth_smallest_score_of_this_artefact(
    colour_bundle: Path, colour_source: ExportSource, artefact: str
) -> None:
    """Recomputed from the shipped file alone, by a plain session and a plain sort."""
    bundle = Bundle.open(colour_bundle)
    record, pack = bundle.calibrations[artefact], colour_source.calibration
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        bundle.model(artefact), settings, providers=["CPUExecutionProvider"]
    )
    answers = [session.run(["label", "radius", "probit"], {"frame": frame[None]}) for frame in pack.frames]
    label, radius, probit = (np.concatenate(column) for column in zip(*answers, strict=True))
    reference = pack.radius[np.arange(len(label)), label]
    assert record.rank == colour_source.guarantee.spent(1).rank(150) and record.num_frames == 150
    assert (
        np.sort(smallest_offsets(record.head.raw_radius(probit), reference))[record.rank - 1]
        == record.head.offset[0]
    )
    assert (radius > reference).sum() <= 150 - record.rank
    assert record.execution.artefact == file_digest(colour_bundle / bundle.manifest.artefacts[artefact].file)


def test_precisions_have_their_own_offsets_and_files(colour_bundle: Path) -> None:
    bundle = Bundle.open(colour_bundle)
    assert len({record.head.offset for record in bundle.calibrations.values()}) == 3
    sizes = {
        name: (colour_bundle / artefact.file).stat().st_size
        for name, artefact in bundle.manifest.artefacts.items()
    }
    assert sizes["fp16"] < sizes["fp32"] and sizes["int8"] < sizes["fp32"]
    kinds = {
        tensor.data_type for tensor in onnx.load(colour_bundle / "surrogate.int8.onnx").graph.initializer
    }
    assert onnx.TensorProto.INT8 in kinds


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_only_the_network_has_a_lower_precision(colour_bundle: Path, artefact: str) -> None:
    bundle = Bundle.open(colour_bundle)
    model = onnx.shape_inference.infer_shapes(
        onnx.load_model_from_string(bundle.model(artefact)), strict_mode=True
    )
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in [*model.graph.value_info, *model.graph.output]
    }
    lower = {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8}
    for node in model.graph.node:
        if node.name.startswith(("preprocess/", "node.head.")) or node.output[0] in ("radius", "probit"):
            assert kinds[node.output[0]] not in lower, node.name
    assert any(kind in lower for kind in kinds.values()) == (artefact != "fp32")


def test_the_recorded_scores_are_of_the_final_file(colour_bundle: Path, colour_source: ExportSource) -> None:
    bundle = Bundle.open(colour_bundle)
    for name in ARTEFACTS:
        recorded = bundle.recorded(name)
        assert recorded is not None and recorded.split == "verification"
        assert recorded.execution == bundle.calibrations[name].execution
        assert np.array_equal(recorded.digest, colour_source.verification.digest)


def test_the_same_input_gives_the_same_bytes(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path
) -> None:
    again = export_source(colour_source, tmp_path / "again", ARTEFACTS)
    assert contents(again.path) == contents(colour_bundle)


def test_batches_are_fixed_in_the_graph(colour_source: ExportSource, tmp_path: Path) -> None:
    result = export_source(colour_source, tmp_path / "bundle", batch_size=3)
    assert result.manifest.input.shape == (3, 20, 24, 3)
    with Certifier.load(result.path) as certifier:
        certificates = certifier.certify_batch(colour_source.verification.frames[:7])
    label, probit, _ = torch_reference(colour_source.module)(colour_source.verification.frames[:7])
    wanted = result.products[0].record.head.radius(probit, label)
    np.testing.assert_allclose([certificate.radius for certificate in certificates], wanted, atol=1e-5)


def damaged_lowering(*arguments: Any) -> onnx.ModelProto:
    model = lower_from_memory(*arguments)
    damage.scale_largest_weight(1.01)(model)
    return model


def test_a_failed_gate_leaves_no_bundle(
    colour_source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export itself is wrong by 1 % in one weight; offset, rank and digests all fit what was exported."""
    monkeypatch.setattr(products, "lower", damaged_lowering)
    source = replace(colour_source, path=tmp_path)
    with pytest.raises(GateFailed, match=r"fp32: change of the probit: got .*, expected at most") as caught:
        export_source(source)
    assert {check.name for check in caught.value.reports[0].checks if not check.passed} <= {
        "change of the probit",
        "largest radius increase",
        "abstain flips against PyTorch",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert json.loads((tmp_path / "report" / "gate.json").read_text())["passed"] is False


def test_too_few_frames_name_how_many_are_needed(colour_source: ExportSource, tmp_path: Path) -> None:
    source = replace(colour_source, guarantee=Guarantee.of(error="0.01"))
    with pytest.raises(ExportError, match=r"150 calibration frames are too few: .* needs at least 409"):
        export_source(source, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_training_frames_are_no_calibration_frames(colour_source: ExportSource, tmp_path: Path) -> None:
    seen = frozenset(colour_source.calibration.digest[:2].tolist())
    with pytest.raises(Exception, match="2 calibration frames were used in training or tuning"):
        export_source(replace(colour_source, training_digests=seen), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_touched(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path
) -> None:
    bundle = damage.copy_of(colour_bundle, tmp_path)
    with pytest.raises(ExportError, match="exists already; pass --force"):
        export_source(colour_source, bundle)
    (bundle / "device" / "onnxruntime-x").mkdir(parents=True)
    with pytest.raises(ExportError, match="holds records that a device made"):
        export_source(colour_source, bundle, replace_existing=True)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "text").write_text("mine")
    with pytest.raises(ExportError, match="is not a bundle"):
        export_source(colour_source, notes, replace_existing=True)
    assert (notes / "text").read_text() == "mine"


def test_an_existing_bundle_is_replaced_on_request(
    colour_bundle: Path, colour_source: ExportSource, tmp_path: Path
) -> None:
    bundle = damage.copy_of(colour_bundle, tmp_path)
    export_source(colour_source, bundle, replace_existing=True)
    assert set(Bundle.open(bundle).manifest.artefacts) == {"fp32"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Another export was quicker: nobody asked to replace what it wrote."""
    out = tmp_path / "bundle"
    with pytest.raises(ExportError, match="writing stopped"), whole_or_not_at_all(out) as folder:
        (folder / "mine").write_text("")
        out.mkdir()
        (out / "theirs").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "theirs"]


def test_a_replacement_that_fails_leaves_the_old_bundle(
    colour_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, before = damage.copy_of(colour_bundle, tmp_path), contents(colour_bundle)
    original = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target) == bundle and ".old." not in str(source):
            raise OSError(errno.EIO, "Input/output error")
        original(source, target)

    monkeypatch.setattr("os.replace", failing)
    # A system that cannot exchange two folders in one step moves the old one aside first.
    monkeypatch.setattr("rrise.export.releasing.bundle._exchange", lambda *_: False)
    with pytest.raises(ExportError, match="Input/output error"), whole_or_not_at_all(bundle, replace=True):
        pass
    assert contents(bundle) == before and [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("when", [Scores.save, Calibration.save, pipeline.fill])  # type: ignore[attr-defined]
def test_a_full_disk_leaves_nothing_behind(
    colour_source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: Callable[..., Any]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = {Scores.save: Scores, Calibration.save: Calibration, pipeline.fill: pipeline}[when]  # type: ignore[attr-defined]
    monkeypatch.setattr(owner, when.__name__, full)
    with pytest.raises(ExportError, match=r"writing stopped .No space left on device.; nothing was left"):
        export_source(colour_source, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(colour_source: ExportSource, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write there"):
        export_source(colour_source, tmp_path / "file" / "bundle")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"precisions": ("int4",)}, "precision: got 'int4'"), ({"batch_size": 0}, "batch size: got 0")],
)
def test_wrong_arguments(
    colour_source: ExportSource, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export_source(colour_source, tmp_path / "bundle", **arguments)


def test_replayed_scores_pass_the_rank_check_of_the_record(
    colour_bundle: Path, colour_source: ExportSource
) -> None:
    """`check_rank` on what a device would score, through the SDK's own `score_runtime`."""
    bundle = Bundle.open(colour_bundle)
    runtime = OnnxRuntime.load(bundle.model("int8"))
    pack: References = colour_source.calibration
    assert check_rank(
        score_runtime(runtime, pack), run_all(runtime, pack.frames).radius, bundle.calibrations["int8"]
    )


class TwoHeads(torch.nn.Module):
    """A network with a difficulty beside its logits."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.second = inner, torch.nn.Linear(10, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.inner(x)
        return logits, torch.nn.functional.softplus(self.second(logits)).squeeze(1) + 0.1


def test_a_difficulty_head_goes_through_every_precision(colour_source: ExportSource, tmp_path: Path) -> None:
    """The offset is scaled by a second head: graph and numpy agree bit for bit, and the gate passes."""
    torch.manual_seed(1)
    module = torch.nn.Sequential()
    module.add_module("preprocess", colour_source.preprocess)
    module.add_module("network", TwoHeads(colour_source.module.network))  # type: ignore[arg-type]
    source = replace(colour_source, module=module.eval(), outputs=("logits", "difficulty"), difficulty=True)
    result = export_source(source, tmp_path / "bundle", ARTEFACTS)
    for product in result.products:
        head = product.record.head
        with Certifier.load(result.path, artefact=product.name) as certifier:
            outputs = run_all(certifier.runtime, colour_source.verification.frames)
        assert head.difficulty and np.ptp(outputs.difficulty) > 0.01
        wanted = head.radius(outputs.probit, outputs.label, outputs.difficulty)
        assert outputs.radius.tobytes() == wanted.tobytes() and (wanted > 0).any()


def test_a_selective_rule_is_in_the_graph(colour_source: ExportSource, tmp_path: Path) -> None:
    guarantee = Guarantee.of("selective", error="0.1", confidence="0.8", beta="0.1")
    source = replace(colour_source, guarantee=guarantee, threshold=0.02)
    result = export_source(source, tmp_path / "bundle")
    head, answers = result.products[0].record.head, result.products[0].answers
    assert head.threshold == 0.02 and (answers.radius > 0).any()
    assert (answers.radius[head.raw_radius(answers.probit) <= np.float32(0.02)] == 0).all()


@pytest.mark.parametrize(
    ("map", "artefacts"),
    [(step_map(0.1), ARTEFACTS), (staircase_map((0.05, 0.1, 0.3), (0.06, 0.12, 0.25)), ("fp32", "int8"))],
    ids=["step", "staircase"],
)
def test_a_bundle_may_issue_given_radii_and_nothing_else(
    colour_source: ExportSource, tmp_path: Path, map: RadiusMap, artefacts: "tuple[str, ...]"
) -> None:
    """From export over the gate to the loop and the device's own calibration."""
    source = replace(colour_source, map=map)
    out = export_source(source, tmp_path / "bundle", artefacts).path
    frames = source.verification.frames
    for artefact in artefacts:
        with Certifier.load(out, artefact=artefact, threads=1) as certifier:
            record = certifier.bundle.calibrations[artefact]
            answers = run_all(certifier.runtime, frames)
            wanted = record.head.radius(answers.probit, answers.label)
            assert answers.radius.tobytes() == wanted.tobytes() and set(wanted.tolist()) == {0.0, *map.radii}
            assert [certifier.certify(frame).radius for frame in frames[:20]] == wanted[:20].tolist()
    bundle = Bundle.open(out)
    runtime = OnnxRuntime.load(bundle.model("fp32"), threads=2)
    assert recalibrate(bundle, "fp32", runtime, source.calibration, write=False).margin == 0.0
    # Where the references lie lower, a margin makes the certificates a little smaller than the steps.
    # (Of frames that are not all of the export's: its own frames with other radii are refused.)
    pack = source.calibration
    rows = ("digest", "frames", "clip", "target", "counts", "num_samples", "radius")
    lower = replace(pack, **{name: getattr(pack, name)[1:] for name in rows})
    lower = replace(lower, radius=np.maximum(lower.radius - np.float32(0.02), 0))
    shutil.rmtree(out / "device")  # as if on another device: a second attempt here would be stricter by far
    assert 0 < recalibrate(bundle, "fp32", runtime, lower, write=False).margin < 0.1
    # Another execution whose probits rise by a rounding is not verified, unless the caller takes the risk.
    for artefact_runtime, verdict in (
        (runtime, VerificationVerdict.PASSED),
        (Nudged(runtime), VerificationVerdict.NUMERICS),
    ):
        assert verify(bundle, "fp32", artefact_runtime, source.verification, write=False).verdict is verdict  # type: ignore[arg-type]
    found = verify(bundle, "fp32", Nudged(runtime), source.verification, write=False, tolerance=1e-4)  # type: ignore[arg-type]
    assert found.verdict is VerificationVerdict.PASSED and 0 < found.replay.largest_increase < 1e-5


class Nudged:
    """A runtime whose probits are a millionth larger; its radii, of the same head, are hardly ever."""

    def __init__(self, runtime: OnnxRuntime) -> None:
        self._runtime, self.graph, self.note = runtime, runtime.graph, ""
        self.execution = replace(runtime.execution, provider="other")

    def run(self, frames: np.ndarray) -> Any:
        outputs = self._runtime.run(frames)
        return replace(outputs, probit=outputs.probit + np.float32(1e-6))
