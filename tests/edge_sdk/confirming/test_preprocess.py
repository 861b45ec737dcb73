"""Preprocessing in numpy against the trainer's module."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.confirming.preprocess import FramePreprocess
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.formats.manifest import InputSpec


def _manifest(bundle, shape, encoding, preprocessing):
    spec = InputSpec("uint8", (1, *shape), "NHWC", encoding)
    return replace(Bundle.open(bundle).manifest, input=spec, preprocessing=preprocessing)


@pytest.mark.parametrize(
    ("shape", "encoding", "crop", "size", "grid"),
    [
        ((9, 7, 3), "rgb8", None, None, False),
        ((9, 7, 3), "bgr8", (1, 2, 6, 4), None, False),
        ((20, 30, 1), "mono8", (2, 3, 16, 24), (7, 9), False),
        ((12, 10, 3), "bgr8", None, (24, 5), True),
    ],
)
def test_it_is_the_trainers(audit_bundle, shape, encoding, crop, size, grid):
    torch = pytest.importorskip("torch")
    from rrise.trainer.data.preprocess import Preprocess

    theirs = Preprocess(shape, encoding, crop, size, grid)
    mine = FramePreprocess.of(_manifest(audit_bundle, shape, encoding, theirs.to_json()))
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = theirs(torch.from_numpy(frame)[None]).numpy()[0]
    got = mine(frame)
    assert got.dtype == np.float32 and got.shape == expected.shape == mine.output_shape
    # A value between two steps of the grid may be rounded to either.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1.1 / 1024 / 255 if grid else 3e-7)


@pytest.mark.parametrize(
    "change",
    [
        {"gamma": 2.2},
        {"size": None},
        {"crop": [0, 0, 9, 8]},
        {"crop": [-1, 0, 8, 8]},
        {"frame_shape": [8, 9, 1]},
        {"encoding": "rgb8"},
        {"size": [0, 8]},
    ],
)
def test_another_step_is_refused(audit_bundle, change):
    manifest = Bundle.open(audit_bundle).manifest
    with pytest.raises(EdgeError, match="audit"):
        FramePreprocess.of(replace(manifest, preprocessing={**manifest.preprocessing, **change}))


def test_a_bundle_without_uint8_frames_is_refused(audit_bundle):
    manifest = Bundle.open(audit_bundle).manifest
    spec = InputSpec("float32", (1, 1, 8, 8), "NCHW", "float32")
    with pytest.raises(EdgeError, match="float32 frames"):
        FramePreprocess.of(replace(manifest, input=spec))
