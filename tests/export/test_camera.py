"""Camera frames in the graph: the exported preprocessing, its operator norm, and radii in the camera's own pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from rrise.edge_sdk import Certifier
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.export.lowering.lower import lower
from rrise.export.lowering.precision import split_preprocessing
from rrise.export.releasing.bundle import preprocessing_record
from rrise.export.source import ExportSource
from rrise.trainer.data.preprocess import Preprocess


@pytest.fixture(scope="module")
def exported_map(colour_source: ExportSource, colour_bundle: Path) -> np.ndarray:
    """The exported preprocessing as a matrix float64 [outputs, inputs], read off the shipped graph column by column.

    uint8 frames with a single pixel of 255 are the unit vectors of frame / 255.
    """
    model = onnx.load(colour_bundle / "surrogate.onnx")
    keep = [node for node in model.graph.node if node.name.startswith("preprocess/")]
    made, read = (
        {name for node in keep for name in node.output},
        {name for node in keep for name in node.input},
    )
    (border,) = made - read
    extracted = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(
        ["frame"], [border]
    )
    session = onnxruntime.InferenceSession(extracted.SerializeToString(), providers=["CPUExecutionProvider"])
    size = int(np.prod(colour_source.preprocess.frame_shape))
    columns = []
    for pixel in range(size):
        frame = np.zeros(size, np.uint8)
        frame[pixel] = 255
        columns.append(session.run(None, {"frame": frame.reshape(1, 20, 24, 3)})[0].ravel())
    return np.stack(columns, axis=1).astype(np.float64)


def test_the_operator_norm_is_the_largest_singular_value(
    exported_map: np.ndarray, colour_source: ExportSource, colour_bundle: Path
) -> None:
    largest = np.linalg.svd(exported_map, compute_uv=False)[0]
    stated = Bundle.open(colour_bundle).manifest.preprocessing["operator_norm"]
    assert stated == preprocessing_record(colour_source)["operator_norm"]
    assert largest <= stated <= largest * (1 + 2e-4)


@pytest.mark.parametrize("encoding", ["mono8", "bgr8"])
@pytest.mark.parametrize("size", [None, (7, 5), (19, 23), (40, 40)])
def test_the_norm_covers_the_rounding_of_a_change_by_one_level(
    colour_source: ExportSource, encoding: str, size: tuple[int, int] | None
) -> None:
    """Even frames of every grey and the next: float32 moves a bright frame by more than the exact map would."""
    channels = {"mono8": 1, "bgr8": 3}[encoding]
    preprocess = Preprocess((19, 23, channels), encoding, None, size).eval()
    stated = preprocessing_record(replace(colour_source, preprocess=preprocess))["operator_norm"]
    greys = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 19, 23, channels)
    with torch.inference_mode():
        tensors = preprocess(greys).double().flatten(1)
    moved = (tensors[1:] - tensors[:-1]).norm(dim=1).max()
    assert moved <= stated * np.sqrt(19 * 23 * channels) / 255


def test_the_exported_map_crops_resizes_and_turns_bgr_into_rgb(
    exported_map: np.ndarray, colour_source: ExportSource
) -> None:
    """Against torch's own antialiased resize, on real frames."""
    frames = colour_source.verification.frames[:5]
    mine = frames.reshape(5, -1).astype(np.float64) / 255 @ exported_map.T
    rgb = torch.from_numpy(frames[..., ::-1].copy()).permute(0, 3, 1, 2).float()[:, :, 1:19, 2:20] / 255
    wanted = torch.nn.functional.interpolate(rgb, size=(10, 9), mode="bilinear", antialias=True)
    np.testing.assert_allclose(mine, wanted.numpy().reshape(5, -1), atol=2e-6)


def test_a_change_within_the_frame_radius_stays_within_the_radius(
    exported_map: np.ndarray, colour_bundle: Path, colour_source: ExportSource
) -> None:
    """The worst direction in camera pixels, of the length that the certificate allows there."""
    _, _, directions = np.linalg.svd(exported_map)
    with Certifier.load(colour_bundle) as certifier:
        issued = [
            certificate
            for certificate in certifier.certify_batch(list(colour_source.verification.frames))
            if certificate
        ]
    assert issued
    for certificate in issued:
        moved = np.linalg.norm(exported_map @ (directions[0] * certificate.frame_radius))
        assert moved <= certificate.radius
        assert moved >= 0.9998 * certificate.radius


def test_the_preprocessing_is_one_linear_part_of_the_graph(colour_source: ExportSource) -> None:
    parts = split_preprocessing(lower(colour_source.module, torch.zeros((2, 20, 24, 3), dtype=torch.uint8)))
    kinds = [node.op_type for node in parts.preprocessing.graph.node]
    assert (
        kinds[0] == "Cast"
        and kinds.count("MatMul") == 2
        and set(kinds)
        <= {"Cast", "Transpose", "Slice", "Gather", "MatMul", "Mul", "Concat", "Flip", "Constant", "Identity"}
    )
    shape = [side.dim_value for side in parts.network.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [2, 3, 10, 9]
