"""Base classifiers that are not torch modules: ONNX files and any callable; and the verified tier on top of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from scipy import stats

from rrise.calibration.statistics.sequential import SequentialTest
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import OnnxClassifier, sample_counts, verify_proposals

N = 40


def make_onnx(
    path: Path, batch: int | str, weight: np.ndarray, bias: np.ndarray, rank: int = 4, side: int = 4
) -> Path:
    """logits = flatten(x) @ weight + bias."""
    shape = [batch, 1, side, side][:rank]
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, weight.shape[1]])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture
def linear() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)


def as_module(weight: np.ndarray, bias: np.ndarray) -> torch.nn.Module:
    layer = torch.nn.Linear(16, 3)
    layer.weight.data, layer.bias.data = torch.from_numpy(weight.T.copy()), torch.from_numpy(bias)
    return torch.nn.Sequential(torch.nn.Flatten(), layer)


@pytest.mark.parametrize("batch", ["batch", 16])
def test_an_onnx_file_gets_the_counts_of_the_same_torch_module(
    make_store, preprocess, frames, linear, tmp_path, batch
):
    expected = make_store(tmp_path / "torch.zarr")
    sample_counts(as_module(*linear), preprocess, frames, expected, N)
    classifier = OnnxClassifier(make_onnx(tmp_path / "f.onnx", batch, *linear), threads=1)
    store = make_store(tmp_path / "onnx.zarr", base_digest=classifier.digest)
    sample_counts(classifier, preprocess, frames, store, N, batch_size=50)
    # The same noise; another matrix kernel may turn a near tie.
    assert np.abs(store.counts().astype(int) - expected.counts()).sum() <= 4


def test_any_callable_with_logits_or_labels(make_store, preprocess, frames, linear, tmp_path):
    weight, bias = linear

    def logits(x: np.ndarray) -> np.ndarray:
        assert x.dtype == np.float32 and x.flags.c_contiguous and x.shape[1:] == (1, 4, 4)
        return x.reshape(len(x), -1) @ weight + bias

    stores = [make_store(tmp_path / f"{name}.zarr") for name in ("logits", "labels")]
    sample_counts(logits, preprocess, frames, stores[0], N)
    sample_counts(lambda x: logits(x).argmax(axis=1), preprocess, frames, stores[1], N, batch_size=9)
    assert np.abs(stores[0].counts().astype(int) - stores[1].counts()).sum() <= 4


@pytest.mark.parametrize(
    ("black_box", "message"),
    [
        (lambda x: np.full(len(x), 3), "labels from 3 to 3, expected 0 to 2"),
        (lambda x: np.full(len(x), -1), "labels from -1 to -1"),
        (lambda x: np.zeros((len(x), 4)), r"returned \[\d+, 4\]"),
        (lambda x: np.zeros(len(x)), r"returned \[\d+\]"),
        (lambda x: np.full((len(x), 3), np.nan), "returned NaN"),
    ],
)
def test_broken_black_boxes_are_refused(make_store, preprocess, frames, black_box, message):
    store = make_store()
    with pytest.raises(TrainerError, match=message):
        sample_counts(black_box, preprocess, frames, store, N)
    assert store.samples().sum() == 0


def test_a_black_box_has_no_dtype_of_ours(make_store, preprocess, frames):
    with pytest.raises(TrainerError, match="takes float32 arrays in host memory: got dtype 'bfloat16'"):
        sample_counts(lambda x: x, preprocess, frames, make_store(dtype="bfloat16"), N)


def test_onnx_files_that_do_not_fit_are_refused(make_store, preprocess, frames, linear, tmp_path):
    with pytest.raises(TrainerError, match="cannot load it"):
        (tmp_path / "no.onnx").write_bytes(b"no")
        OnnxClassifier(tmp_path / "no.onnx")
    with pytest.raises(TrainerError, match=r"expected one float32 \[batch, C, H, W\]"):
        OnnxClassifier(make_onnx(tmp_path / "rank.onnx", 2, linear[0][:1], linear[1], rank=2))
    with pytest.raises(TrainerError, match="got 'TPUExecutionProvider', expected one of"):
        OnnxClassifier(make_onnx(tmp_path / "f.onnx", "batch", *linear), provider="TPUExecutionProvider")
    wide = np.zeros((64, 3), np.float32)  # for frames of 8 x 8 pixels
    classifier = OnnxClassifier(
        make_onnx(tmp_path / "wide.onnx", "batch", wide, linear[1], side=8), threads=1
    )
    with pytest.raises(TrainerError, match="fails on float32"):
        sample_counts(classifier, preprocess, frames, make_store(), N)


@pytest.mark.parametrize("kind", ["module", "callable"])
def test_verified_tier_confirms_what_is_true_only(kind):
    """A linear classifier: the true radius of class 1 is x_0 - 1/2."""

    def on_arrays(x: np.ndarray) -> np.ndarray:
        margin = x[:, 0, 0, 0] - 0.5
        return np.stack([0 * margin, margin], axis=1)

    class OnTensors(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            margin = x[:, 0, 0, 0] - 0.5
            return torch.stack([0 * margin, margin], dim=1)

    true = np.linspace(0.1, 0.5, 24)
    x = torch.zeros(24, 1, 2, 2)
    x[:, 0, 0, 0] = torch.from_numpy(0.5 + true).float()
    test = SequentialTest(sigma=0.25, alpha=0.001)
    classifier = on_arrays if kind == "callable" else OnTensors()
    generator = torch.Generator().manual_seed(1)
    for proposed, confirmed in ((true - 0.075, True), (true + 0.02, False)):
        result = verify_proposals(
            classifier,
            x,
            np.ones(24, int),
            proposed,
            test,
            num_classes=2,
            max_samples=8000,
            generator=generator,
        )
        assert (result.radius <= true + 1e-6).all()
        assert result.confirmed.mean() > 0.9 if confirmed else not result.confirmed.any()
    # At level 0.001 for each of 24 frames a wrong confirmation has probability below .03; under this seed none.
    with pytest.raises(TrainerError, match="24 frames and 3 labels"):
        verify_proposals(classifier, x, np.ones(3, int), true, test, num_classes=2)


def test_verified_tier_refuses_nan():
    test = SequentialTest(sigma=0.25, alpha=0.001)
    with pytest.raises(TrainerError, match="returned NaN"):
        verify_proposals(
            lambda x: np.full((len(x), 2), np.nan), torch.zeros(2, 1, 2, 2), np.ones(2, int), np.full(2, 0.1), test,
            num_classes=2,
        )  # fmt: skip


def test_verified_tier_draws_new_noise_every_time():
    """Without a generator of its own two runs differ (noise that can be predicted voids the guarantee)."""
    seen: list[float] = []

    def classify(x: np.ndarray) -> np.ndarray:
        if len(x) > 16:  # smaller batches are the check of the first one
            seen.append(float(x[0, 0, 0, 0]))
        return np.tile([0.0, 1.0], (len(x), 1))

    test = SequentialTest(sigma=0.25, alpha=0.001)
    for _ in range(2):
        verify_proposals(
            classify,
            torch.zeros(1, 1, 2, 2),
            np.ones(1, int),
            np.full(1, 0.1),
            test,
            num_classes=2,
            max_samples=64,
        )
    assert len(set(seen)) == len(seen) > 1
    assert (
        abs(np.mean(seen)) < 5 * 0.25 / np.sqrt(len(seen))
        and stats.kstest(seen, "norm", (0, 0.25)).pvalue > 1e-6
    )
