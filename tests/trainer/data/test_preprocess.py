from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rrise.calibration.images.resizing import triangle_filter
from rrise.calibration.promise.guarded import NoiseSource
from rrise.trainer.data.preprocess import Preprocess
from rrise.trainer.errors import TrainerError


def random_frames(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(4, 5), (7, 3), (12, 10), (9, 20), (1, 1)])
def test_resize_equals_torch_antialiased_bilinear(size: tuple[int, int]) -> None:
    frames = random_frames(3, 12, 10, 3)
    got = Preprocess((12, 10, 3), "rgb8", size=size)(torch.from_numpy(frames))
    chw = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    expected = F.interpolate(chw, size, mode="bilinear", antialias=True, align_corners=False)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)


def test_crop_and_colour_order() -> None:
    frames = random_frames(2, 12, 10, 3)
    rgb = Preprocess((12, 10, 3), "rgb8", crop=(2, 1, 6, 8))(torch.from_numpy(frames))
    bgr = Preprocess((12, 10, 3), "bgr8", crop=(2, 1, 6, 8))(torch.from_numpy(frames[..., ::-1].copy()))
    expected = frames[:, 2:8, 1:9].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    assert torch.equal(rgb, bgr)
    np.testing.assert_allclose(rgb.numpy(), expected, atol=6e-8)


def test_without_resize_the_scaling_is_all() -> None:
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    out = Preprocess((16, 16, 1), "mono8")(torch.from_numpy(frames)).flatten().numpy()
    assert out[0] == 0 and out[-1] == 1
    np.testing.assert_allclose(out, np.arange(256) / 255, atol=6e-8)


@pytest.mark.parametrize("size", [None, (4, 5), (24, 17)])
def test_operator_norm_is_the_largest_singular_value(size: tuple[int, int] | None) -> None:
    preprocess = Preprocess((12, 10, 1), "mono8", crop=(1, 2, 9, 7), size=size)
    basis = np.zeros((120, 12, 10, 1), np.uint8)
    basis.reshape(120, 120)[np.arange(120), np.arange(120)] = 255
    matrix = preprocess(torch.from_numpy(basis)).flatten(1).double().numpy()
    assert preprocess.operator_norm() == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-5)


def test_rows_of_the_resize_sum_to_one() -> None:
    for source, target in ((10, 3), (3, 10), (7, 7)):
        np.testing.assert_allclose(triangle_filter(source, target).sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "encoding", "options", "message"),
    [
        ((8, 8, 1), "rgb8", {}, "set .preprocess. encoding"),
        ((8, 8, 3), "mono8", {}, "mono8 with 1"),
        ((8, 8, 1), "yuv", {}, "encoding 'yuv'"),
        ((8, 8, 1), "mono8", {"crop": (0, 4, 8, 8)}, "part of the 8x8 frame"),
        ((8, 8, 1), "mono8", {"size": (0, 4)}, "expected positive"),
    ],
)
def test_bad_settings(shape: tuple[int, int, int], encoding: str, options: dict, message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        Preprocess(shape, encoding, **options)


def test_json_round_trip() -> None:
    preprocess = Preprocess((12, 10, 3), "bgr8", crop=(1, 2, 9, 7), size=(5, 6))
    again = Preprocess.from_json(preprocess.to_json())
    frames = torch.from_numpy(random_frames(2, 12, 10, 3))
    assert torch.equal(preprocess(frames), again(frames))
    assert preprocess.output_shape == again.output_shape == (3, 5, 6)


def test_exports_with_the_cast_first_and_equal_numbers(tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    preprocess = Preprocess((12, 10, 3), "bgr8", crop=(1, 2, 9, 7), size=(5, 6))
    frames = random_frames(2, 12, 10, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            preprocess, (torch.from_numpy(frames),), dynamo=True, opset_version=18, verbose=False
        )
    program.save(tmp_path / "p.onnx")
    assert onnx.load(tmp_path / "p.onnx").graph.node[0].op_type == "Cast"
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: frames})
    np.testing.assert_allclose(got, preprocess(torch.from_numpy(frames)).numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [None, (5, 6)])
def test_guard_noise_is_added_exactly(size: tuple[int, int] | None) -> None:
    """What comes after the sum is a function of x' + e, as the guarded tier's proof needs: nothing is rounded."""
    preprocess = Preprocess((12, 10, 3), "rgb8", size=size, grid=True)
    frames = torch.from_numpy(random_frames(2, 12, 10, 3))
    noise = NoiseSource(0.3, seed=0).draw((2, *preprocess.output_shape))
    levels = preprocess.levels(frames)
    assert torch.equal(levels * 1024, (levels * 1024).round()), "pixel values lie on the grid of the noise"
    exact = levels.double() + torch.from_numpy(noise).double()
    assert torch.equal((levels + torch.from_numpy(noise)).double(), exact)
    assert torch.equal(preprocess(frames, torch.from_numpy(noise)), exact.float() * (1.0 / 255.0))
    assert preprocess.to_json().get("grid", False) == (size is not None)
    again = Preprocess.from_json(preprocess.to_json())
    assert torch.equal(again(frames), preprocess(frames))


def test_the_grid_moves_pixels_by_half_a_step_at_most() -> None:
    frames = torch.from_numpy(random_frames(2, 12, 10, 3))
    plain = Preprocess((12, 10, 3), "rgb8", size=(5, 6)).levels(frames)
    gridded = Preprocess((12, 10, 3), "rgb8", size=(5, 6), grid=True).levels(frames)
    assert 0 < (plain - gridded).abs().max() <= 0.5 / 1024 + 1e-4
