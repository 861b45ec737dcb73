"""base.onnx: the same function as the network, one digest everywhere, and nothing that fits by accident."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from rrise.trainer.base_classifier.stage import train_base
from rrise.trainer.classifiers import base_file
from rrise.trainer.classifiers.base_file import BaseFile, NotWritten, logit_difference, read_onnx, write
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import OnnxClassifier
from rrise.trainer.networks import ResNet
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied, edit

NOISY = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def resnet() -> nn.Module:
    torch.manual_seed(0)
    network = ResNet(1, 3, [4, 8], [1, 1], [0.3], [0.3])
    network(NOISY)  # in training mode: statistics that folding must carry over
    return network.eval()


def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.safetensors").write_bytes(b"weights")
    return tmp_path


def test_the_file_is_the_network_folded_in_float32(tmp_path: Path) -> None:
    network, place = resnet(), folder(tmp_path)
    record = write(place, network, NOISY)
    assert isinstance(record, BaseFile) and record.frames == 16 and record.difference < 1e-5
    assert record == base_file.read_record(place)
    data = read_onnx(place)
    assert data is not None and hashlib.sha256(data).hexdigest() == record.onnx == base_file.base_digest(
        place
    )
    x = torch.rand(5, 1, 8, 8)
    np.testing.assert_allclose(OnnxClassifier(data)(x.numpy()), network(x).detach().numpy(), atol=1e-5)
    model = onnx.load_model_from_string(data)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert {entry.version for entry in model.opset_import if entry.domain == ""} == {18}
    assert {item.data_type for item in model.graph.initializer} <= {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }


def test_the_same_network_gives_the_same_digest(tmp_path: Path) -> None:
    digests = {write(folder(tmp_path), resnet(), NOISY).onnx for _ in range(2)}  # type: ignore[union-attr]
    assert len(digests) == 1


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x[0, 0, 0, 0] > 2):  # what the example does not show
            return x.flatten(1)[:, :3]
        return torch.linalg.eigvals(x[:, 0]).real[:, :3]


def test_a_network_without_a_counterpart_stays_a_module(tmp_path: Path) -> None:
    place = folder(tmp_path)
    found = write(place, Branching(), NOISY)
    assert isinstance(found, NotWritten) and found.reason
    assert not (place / "base.json").exists() and read_onnx(place) is None
    assert base_file.base_digest(place) == hashlib.sha256(b"weights").hexdigest()


def test_another_function_is_not_taken_for_the_network(tmp_path: Path) -> None:
    place = folder(tmp_path)
    write(place, resnet(), NOISY)
    data, other = read_onnx(place), resnet()
    with torch.no_grad():
        other.head.bias[0] += 0.01 * other(NOISY).abs().max()  # type: ignore[index, operator, union-attr]
    with pytest.raises(TrainerError, match="logits differ from the network's"):
        logit_difference(data, other, NOISY)


@pytest.mark.parametrize("name", ["base.onnx", "base.safetensors"])
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, name: str) -> None:
    place = folder(tmp_path)
    write(place, resnet(), NOISY)
    (place / name).write_bytes((place / name).read_bytes() + b" ")
    with pytest.raises(TrainerError, match=r"--again"):
        read_onnx(place)
    (place / "base.json").write_text("{}")
    with pytest.raises(TrainerError, match="cannot be read"):
        read_onnx(place)


def test_the_base_digest_of_a_workspace_is_that_of_the_file(workspace: Path, tmp_path: Path) -> None:
    made = Workspace.open(workspace)
    digest = hashlib.sha256((workspace / "base.onnx").read_bytes()).hexdigest()
    assert made.base().digest == digest == made.base_digest
    assert made.references("calibration").base_digest == digest
    assert made.surrogate().metadata["base_digest"] == digest
    copy = copied(workspace, tmp_path)
    (copy.path / "base.onnx").write_bytes(b"other")
    for read in (copy.base, copy.surrogate, lambda: copy.references("tuning"), lambda: train_base(copy)):
        with pytest.raises(TrainerError, match=r"base.onnx: missing or changed"):
            read()


def test_a_workspace_from_before_keeps_its_module(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    for name in ("base.onnx", "base.json"):
        (copy.path / name).unlink()
    before = hashlib.sha256(copy.base_path.read_bytes()).hexdigest()
    assert train_base(copy).digest == before, "its targets were counted by the module"
    (copy.path / "targets.zarr").rename(tmp_path / "away")
    assert train_base(copy).digest != before and (copy.path / "base.onnx").exists()


def test_a_run_killed_between_weights_and_file_is_mended(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    digest = copy.base_digest
    record = copy.path / "base.json"
    record.write_text(record.read_text().replace(base_file.read_record(copy.path).weights, "0" * 64))
    assert train_base(copy).kept and copy.base_digest == digest


def test_a_failed_training_leaves_the_old_classifier_whole(workspace: Path, tmp_path: Path) -> None:
    copy = edit(copied(workspace, tmp_path), "learning_rate = 0.0", "learning_rate = 1e+30")
    digest = copy.base_digest
    with pytest.raises(TrainerError, match="lower the learning_rate"):
        train_base(copy, again=True)
    assert copy.base_digest == digest
