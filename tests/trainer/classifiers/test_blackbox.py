from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from rrise.trainer.attacks.attack import attack
from rrise.trainer.attacks.search import Search
from rrise.trainer.base_classifier.stage import train_base
from rrise.trainer.brought.onnx_files import external_references
from rrise.trainer.classifiers.blackbox import (
    BlackBoxModule,
    classifier_of,
    label_function,
    onnx_spec,
    open_black_box,
)
from rrise.trainer.counts.targets import build_targets
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import OnnxClassifier
from rrise.trainer.networks import load_network
from rrise.trainer.scores.calibrate import calibrate_surrogate
from rrise.trainer.streams import all_streams, stored_counts
from rrise.trainer.surrogates.stage import train_surrogate
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit

CALLABLES = """
import numpy as np

def brightest(x):
    "Ten classes by the place of the brightest of the first ten pixels: any array code will do."
    return x.reshape(len(x), -1)[:, 20:30].argmax(axis=1)

def eleven(x):
    return np.full(len(x), 10)

def nans(x):
    return np.full((len(x), 10), np.nan, np.float32)

number = 3
"""


@pytest.fixture
def module_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "boxes.py").write_text(CALLABLES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "boxes"


def with_black_box(workspace: Path, tmp_path: Path, function: str) -> Workspace:
    copy = copied(workspace, tmp_path)
    copy.base_path.unlink()
    return edit(copy, 'black_box = ""\nversion = ""', f'black_box = "{function}"\nversion = "1"')


@pytest.fixture(scope="module")
def onnx_workspace(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The shared workspace, with its own base classifier as an ONNX file from elsewhere."""
    pytest.importorskip("onnx")
    root = tmp_path_factory.mktemp("onnx")
    copy = copied(workspace, root)
    network = copy.base().module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(2, 1, 8, 8),)
        batch = {0: torch.export.Dim("batch")}
        torch.onnx.export(
            network, example, dynamo=True, opset_version=18, dynamic_shapes=(batch,), verbose=False
        ).save(root / "classifier.onnx")
    for name in ("base.safetensors", "surrogate.safetensors"):
        (copy.path / name).unlink()
    for stage in ("targets.zarr", "references", "scores"):
        (copy.path / stage).rename(copy.path / f"old-{stage}")
    return edit(copy, 'onnx = ""', f'onnx = "{root / "classifier.onnx"}"')


def test_onnx_base_through_the_whole_loop(workspace: Path, onnx_workspace: Workspace) -> None:
    made = onnx_workspace
    result = train_base(made)
    assert result.noisy_accuracy == pytest.approx(
        train_base(Workspace.open(workspace)).noisy_accuracy, abs=0.01
    )
    build_targets(made, all_streams(made))  # the attack starts from the audited test frames
    before = Workspace.open(workspace)
    old = stored_counts(before, "verification", before.base().digest).astype(int)
    new = stored_counts(made, "verification", made.base().digest).astype(int)
    # The same network, seed and noise through another runtime: only evaluations on the very edge may differ.
    assert np.abs(old - new).sum() < 0.005 * old.sum()
    surrogate = train_surrogate(made)
    network = load_network(made.surrogate_path)
    assert network.spec["kind"] == "resnet", (
        "a network of its own, since a black box has no weights to start from"
    )
    assert surrogate.chosen.agreement > 0.3
    assert calibrate_surrogate(made).record.base_digest == made.base().digest
    assert attack(made, Search(0.1, steps=2), num_samples=100).attacked.verdict.frames == 40


def test_a_changed_onnx_file_is_noticed(onnx_workspace: Workspace, tmp_path: Path) -> None:
    train_base(onnx_workspace)
    copy = copied(onnx_workspace.path, tmp_path)
    path = copy.path / "base.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(TrainerError, match="missing or changed since the base classifier was taken"):
        copy.base()


def test_missing_or_broken_onnx_file(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), 'onnx = ""', 'onnx = "none.onnx"')
    with pytest.raises(TrainerError, match=r"none.onnx: no such file"):
        train_base(copy, again=True)
    (copy.path / "none.onnx").write_bytes(b"no model")
    with pytest.raises(TrainerError, match="cannot load it"):
        train_base(copy, again=True)


def test_any_callable_is_counted(workspace: Path, tmp_path: Path, module_name: str) -> None:
    copy = with_black_box(workspace, tmp_path, f"{module_name}:brightest")
    with pytest.raises(TrainerError, match="--allow-code"):
        train_base(copy)
    train_base(copy, allow_code=True)
    base = copy.base(allow_code=True)
    assert isinstance(base.module, BlackBoxModule)
    answer = label_function(base.module, 10, "float32")
    x = copy.inputs("test")
    expected = x.flatten(1)[:, 20:30].argmax(1)
    assert torch.equal(answer(x), expected)
    with pytest.raises(TrainerError, match="another base classifier"):
        build_targets(copy, allow_code=True)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("boxes:eleven", "labels from 10 to 10"),
        ("boxes:nans", "returned NaN"),
        ("boxes:number", "got int, expected a callable"),
        ("boxes:missing", "cannot import it"),
        ("boxes", "expected 'package.module:function'"),
    ],
)
def test_bad_callables(
    workspace: Path, tmp_path: Path, module_name: str, function: str, message: str
) -> None:
    copy = with_black_box(workspace, tmp_path, function)
    with pytest.raises(TrainerError, match=message):
        train_base(copy, allow_code=True)
    assert not copy.base_path.exists()


def test_black_box_needs_a_version(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="go together"):
        edit(copied(workspace, tmp_path), 'black_box = ""', 'black_box = "a:b"')


def test_a_module_is_its_own_classifier() -> None:
    module = torch.nn.Flatten()
    assert classifier_of(module) is module


def test_external_weights_become_part_of_what_is_digested(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    elsewhere, work = tmp_path / "elsewhere", tmp_path / "work"
    elsewhere.mkdir()
    work.mkdir()

    def save(seed: int) -> None:
        weight = np.random.default_rng(seed).standard_normal((64, 3)).astype(np.float32)
        nodes = [
            onnx.helper.make_node("Flatten", ["x"], ["f"]),
            onnx.helper.make_node("MatMul", ["f", "w"], ["y"]),
        ]
        kind = onnx.TensorProto.FLOAT
        ends = (
            [onnx.helper.make_tensor_value_info("x", kind, ["b", 1, 8, 8])],
            [onnx.helper.make_tensor_value_info("y", kind, ["b", 3])],
        )
        graph = onnx.helper.make_graph(nodes, "g", *ends, [onnx.numpy_helper.from_array(weight, "w")])
        opset = [onnx.helper.make_opsetid("", 18)]
        model = onnx.helper.make_model(graph, ir_version=10, opset_imports=opset)
        (elsewhere / "m.data").unlink(missing_ok=True)
        onnx.save(
            model, elsewhere / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
        )

    save(0)
    x = np.ones((2, 1, 8, 8), np.float32)
    spec = onnx_spec(elsewhere / "m.onnx", work)
    before = open_black_box(spec, work, allow_code=False).function(x)
    save(1)
    after = open_black_box(spec, work, allow_code=False).function(x)
    np.testing.assert_array_equal(before, after)
    assert onnx_spec(elsewhere / "m.onnx", work)["sha256"] != spec["sha256"]
    # Even with the right digest: a graph whose weights lie elsewhere is no classifier.
    data = (elsewhere / "m.onnx").read_bytes()
    (work / "base.onnx").write_bytes(data)
    with pytest.raises(TrainerError, match=r"weight 'w' \(m.data\) lies outside the file"):
        open_black_box({**spec, "sha256": hashlib.sha256(data).hexdigest()}, work, allow_code=False)
    with pytest.raises(TrainerError, match="lies outside the file"):
        OnnxClassifier(elsewhere / "m.onnx")
    (elsewhere / "m.data").unlink()
    with pytest.raises(TrainerError, match="keeps weights in other files, which cannot be read"):
        onnx_spec(elsewhere / "m.onnx", work)


def test_references_are_found_wherever_they_are(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    outside = onnx.TensorProto(name="deep", data_type=kind, data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/passwd")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=outside)], "branch", [],
        [helper.make_tensor_value_info("c", kind, [])],
    )  # fmt: skip
    deep = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    engine = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", name="built")
    for node, text in (
        (deep, "weight 'deep' (/etc/passwd)"),
        (engine, "the compiled engine of node 'built'"),
    ):
        graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", kind, [])])
        assert external_references(helper.make_model(graph).SerializeToString(), "f")[0] == text
