"""A surrogate with copies, from rrise.toml to a certificate: nothing behind the network knows of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from rrise.edge_sdk import Certifier
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.cli import main
from rrise.export import export_onnx
from rrise.trainer.reports.stages import look
from rrise.trainer.scores.calibrate import calibrate_surrogate
from rrise.trainer.scores.surrogate_scores import run_surrogate
from rrise.trainer.surrogates.stage import train_surrogate
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit

PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def exported(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Path]:
    """A workspace whose surrogate has eight copies, and its bundle in all precisions."""
    copy = edit(copied(workspace, tmp_path_factory.mktemp("copies")), "copies = 0", "copies = 8")
    copy = edit(copy, 'error = "0.05"', 'error = "0.1"')  # a second attempt with so few frames
    train_surrogate(copy)
    calibrate_surrogate(copy)
    return copy, export_onnx(copy.path, precisions=PRECISIONS).path


def test_every_precision_passes_the_gate_and_has_its_own_offset(exported: tuple[Workspace, Path]) -> None:
    bundle = Bundle.open(exported[1])
    assert set(bundle.manifest.artefacts) == set(PRECISIONS)
    records = [bundle.calibrations[name] for name in PRECISIONS]
    assert all(records) and len({record.execution.artefact for record in records}) == 3


def test_certifier_answers_as_the_network_does(exported: tuple[Workspace, Path]) -> None:
    workspace, path = exported
    frames = workspace.frames("test")
    wanted = run_surrogate(workspace.surrogate().module, workspace.preprocess, frames)
    certifier = Certifier.load(path)
    found = [certifier.certify(frame) for frame in frames]
    assert [item.label for item in found] == wanted.label.tolist()
    head = Bundle.open(path).calibrations["fp32"].head
    np.testing.assert_allclose(
        [item.radius for item in found], head.radius(wanted.probit, wanted.label), atol=1e-4
    )
    assert sum(map(bool, found)) > 5


def test_the_graph_holds_the_noise_and_draws_none(exported: tuple[Workspace, Path]) -> None:
    workspace, path = exported
    graph = onnx.load_model_from_string(Bundle.open(path).model("fp32")).graph
    kinds = {node.op_type for node in graph.node}
    assert not {kind for kind in kinds if "Random" in kind or kind in ("Multinomial", "Bernoulli")}
    noise = workspace.surrogate().module.noise.numpy()  # type: ignore[operator]
    constants = [onnx.numpy_helper.to_array(item) for item in graph.initializer]
    assert any(item.size == noise.size and np.array_equal(item.ravel(), noise.ravel()) for item in constants)


def test_tuning_frames_are_predicted_better_than_by_the_surrogate_alone(
    exported: tuple[Workspace, Path],
) -> None:
    workspace, _ = exported
    with_copies, references = workspace.surrogate().module, workspace.references("tuning")
    shares = references.counts / references.num_samples[:, None]

    def loss(module: object) -> float:
        import torch

        with torch.inference_mode():
            logits = module(workspace.inputs("tuning"))  # type: ignore[operator]
        return float(-(shares * logits.log_softmax(1).numpy()).sum(1).mean())

    assert loss(with_copies) < loss(with_copies.network)


def test_the_bundle_says_how_many_copies_it_asks_about(exported: tuple[Workspace, Path]) -> None:
    workspace, path = exported
    assert Bundle.open(path).manifest.copies == 8
    sentence = "8: beside the surrogate the graph asks the base classifier about 8 noisy copies of the frame"
    info = CliRunner().invoke(main, ["info", str(path)])
    assert info.exit_code == 0 and sentence in info.output
    page = (path / "report.html").read_text()
    assert sentence in page and "not in the bundle, so nothing can be confirmed here" in page
    assert look(workspace).copies == 8 and "8 copies in the graph; without base.onnx" in str(
        look(workspace).stages
    )
