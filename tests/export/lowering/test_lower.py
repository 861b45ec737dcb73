"""Lowering PyTorch to ONNX: equal numbers, clean files, and errors that name operator and layer."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from rrise.export.errors import ExportError
from rrise.export.lowering.lower import check_model, lower
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.networks import ResNet


class Tail(nn.Module):
    """Preprocessing, network, and a last layer that is the subject of a test."""

    def __init__(self, tail: nn.Module, encoding: str = "rgb8") -> None:
        super().__init__()
        channels = 1 if encoding == "mono8" else 3
        self.preprocess = Preprocess((20, 26, channels), encoding, crop=(1, 2, 18, 24), size=(8, 10))
        self.network = ResNet(channels, 5, [4, 6], [1, 1], [0.4] * channels, [0.3] * channels)
        self.tail = tail
        for layer in self.network.modules():
            if isinstance(
                layer, nn.BatchNorm2d
            ):  # fresh statistics are 0 and 1, which would hide a folding error
                nn.init.uniform_(layer.running_mean, -0.3, 0.3)
                nn.init.uniform_(layer.running_var, 0.5, 2.0)

    def forward(self, frame: Tensor) -> Tensor:
        return self.tail(self.network(self.preprocess(frame)))


class ErfInv(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.erfinv(x * 0.01)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class WrongShape(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(3, 11)


def example(batch: int, channels: int = 3) -> Tensor:
    return torch.zeros(batch, 20, 26, channels, dtype=torch.uint8)


@pytest.mark.parametrize(("encoding", "channels"), [("bgr8", 3), ("mono8", 1)])
def test_the_graph_gives_the_logits_of_pytorch(encoding: str, channels: int) -> None:
    torch.manual_seed(0)
    module = Tail(nn.Identity(), encoding).eval()
    model = lower(module, example(3, channels))
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 26, channels), np.uint8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"frame": frames})
    with torch.inference_mode():
        wanted = module(torch.from_numpy(frames)).numpy()
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_the_file_is_clean_portable_and_reproducible() -> None:
    torch.manual_seed(0)
    module = Tail(nn.Identity())
    first, second = (lower(module, example(1)) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert first.ir_version <= 10 and [(opset.domain, opset.version) for opset in first.opset_import] == [
        ("", 18)
    ]
    assert not first.functions and not first.metadata_props and not first.producer_version
    for node in first.graph.node:
        assert not node.metadata_props and not node.doc_string and node.domain == ""
    for trace in (b"/usr", b"/home", b".py", b"Traceback", b"site-packages", torch.__version__.encode()):
        assert trace not in first.SerializeToString()
    # TensorRT takes uint8 only into a Cast.
    assert [node.op_type for node in first.graph.node if "frame" in node.input] == ["Cast"]
    assert "BatchNormalization" not in {node.op_type for node in first.graph.node}


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (ErfInv(), r"operator .*erf_?inv.* in layer 'tail \(ErfInv\)' has no ONNX counterpart"),
        (
            Branch(),
            r"layer 'tail \(Branch\)' branches on the values of its input .*test_lower.py line \d+: return x if",
        ),
        (WrongShape(), r"layer 'tail \(WrongShape\)' cannot be traced .*shape '\[3, 11\]' is invalid"),
    ],
)
def test_what_cannot_be_exported_is_named_with_its_layer(
    tail: nn.Module, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=message):
        lower(Tail(tail), example(1))
    said = capfd.readouterr()
    assert said.out == "" and said.err == ""


def test_nan_weights_are_refused() -> None:
    module = Tail(nn.Identity())
    with torch.no_grad():
        module.network.head.weight[0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"network\.head\.weight holds NaN or infinity"):
        lower(module, example(1))


def test_a_graph_that_breaks_the_limits_is_refused() -> None:
    model = lower(Tail(nn.Identity()), example(1))
    newer = onnx.ModelProto()
    newer.CopyFrom(model)
    newer.ir_version = 11
    with pytest.raises(ExportError, match="IR version 11"):
        check_model(newer)
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.node[3].input[0] = "nowhere"
    with pytest.raises(ExportError, match="not valid ONNX"):
        check_model(broken)
