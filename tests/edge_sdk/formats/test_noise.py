"""Noise of the guarded tier: fresh in every draw, process and copy; the same again only for recorded frames."""

from __future__ import annotations

import copy
import os
import pickle

import numpy as np
import pytest

from rrise.calibration.promise.guarded import GRID, Guard
from rrise.edge_sdk.errors import RuntimeFault
from rrise.edge_sdk.formats.noise import FreshNoise, ReplayNoise
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

FRESH = FreshNoise(Guard(0.05, 0.12), (1, 3, 20, 20))
REPLAY = ReplayNoise(0.12, "a" * 64, (3, 20, 20))
FRAMES = np.random.default_rng(0).integers(0, 256, (50, 20, 20, 3), dtype=np.uint8)


def test_fresh_noise_is_never_twice_the_same():
    draws = [
        source.draw() for source in (FRESH, FRESH, copy.deepcopy(FRESH), pickle.loads(pickle.dumps(FRESH)))
    ]
    assert len({draw.tobytes() for draw in draws}) == 4
    assert all(draw.shape == (1, 3, 20, 20) and draw.dtype == np.float32 for draw in draws)


def test_seeding_numpy_does_not_make_it_foreseeable():
    draws = []
    for _ in range(2):
        np.random.seed(0)
        draws.append(FRESH.draw().tobytes())
    assert draws[0] != draws[1]


def test_a_forked_process_draws_other_noise():
    """Parent and child draw after the fork from the same object; the parent has drawn before it as well."""
    before = FRESH.draw().tobytes()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, FRESH.draw().tobytes())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    assert len(theirs) == len(before) and len({before, theirs, FRESH.draw().tobytes()}) == 3


def test_fresh_noise_has_its_size_and_lies_on_the_grid():
    """False-alarm probability of the size check about 1e-9: six standard errors of a variance of 120,000 draws."""
    drawn = np.concatenate([FRESH.draw() for _ in range(100)])
    assert abs(np.mean(np.square(drawn, dtype=np.float64)) / (0.12 * 255) ** 2 - 1) < 6 * np.sqrt(
        2 / drawn.size
    )
    np.testing.assert_array_equal(drawn, np.rint(drawn / GRID) * GRID)


def test_replayed_noise_belongs_to_its_frame_alone():
    noise = REPLAY.of(FRAMES)
    assert noise.dtype == np.float32 and noise.shape == (50, 3, 20, 20)
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(REPLAY.of(FRAMES[order]), noise[order])
    assert len(np.unique(noise.reshape(50, -1), axis=0)) == 50
    other = ReplayNoise(0.12, "b" * 64, (3, 20, 20)).of(FRAMES)
    assert not (other == noise).all(axis=(1, 2, 3)).any()


def test_replayed_noise_is_uncorrelated_with_the_frames():
    """Five standard errors of the correlation of 60,000 pairs: false-alarm probability 6e-7."""
    pixels = FRAMES.transpose(0, 3, 1, 2).ravel().astype(np.float64)
    correlation = np.corrcoef(pixels, REPLAY.of(FRAMES).ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(len(pixels))


def test_a_plain_graph_takes_no_noise():
    spec = Spec()
    runtime = OnnxRuntime.load(helpers.graph(spec, (0.0,), helpers.metadata(spec, (0.0,), "")))
    frame = np.zeros((1, 8, 8, 1), np.uint8)
    assert runtime.fresh is None
    with pytest.raises(RuntimeFault, match="noise"):
        runtime.run(frame, np.zeros((1, 1, 8, 8), np.float32))
