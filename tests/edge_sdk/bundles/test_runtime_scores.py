"""Scores of references on an execution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rrise.calibration.statistics.probit import probit_from_logits
from rrise.edge_sdk import BundleError, EdgeError, FrameError, RuntimeFault
from rrise.edge_sdk.bundles.runtime_scores import run_all, score_runtime
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

SPEC = Spec(batch=4)


@pytest.fixture(scope="module")
def runtime():
    return OnnxRuntime.load(helpers.graph(SPEC, (0.1,), {}))


def test_scores_carry_the_references_and_the_numpy_probit(runtime, tmp_path):
    references = helpers.make_references(SPEC, "tuning", 11, seed=2)
    done: list[int] = []
    scores = score_runtime(runtime, references, advance=done.append)
    expected = probit_from_logits(helpers.logits(SPEC, references.frames).astype(np.float32))
    assert scores.label.tolist() == expected.label.tolist()
    np.testing.assert_allclose(scores.probit, expected.probit, rtol=0, atol=1e-5)
    assert scores.frames_digest == references.frames_digest and scores.split == "tuning"
    assert (scores.counts == references.counts).all() and scores.execution == runtime.execution
    assert sum(done) == 11
    scores.save(tmp_path / "scores.npz")


def test_execution_says_what_was_loaded(runtime):
    import hashlib
    import platform

    import onnxruntime

    execution = runtime.execution
    assert execution.artefact == hashlib.sha256(helpers.graph(SPEC, (0.1,), {})).hexdigest()
    assert (execution.runtime, execution.version) == ("onnxruntime", onnxruntime.__version__)
    assert (execution.provider, execution.architecture, execution.batch_size) == (
        "cpu",
        platform.machine(),
        4,
    )
    assert dict(execution.options)["intra_op_threads"] == "1"
    assert runtime.graph.offset == (float(np.float32(0.1)),) and runtime.graph.sigma == 0.25


def test_misfits_are_refused(runtime):
    references = helpers.make_references(SPEC, "tuning", 5, seed=2)
    with pytest.raises(EdgeError, match="sigma"):
        score_runtime(runtime, replace(references, sigma=0.5))
    with pytest.raises(FrameError, match="expected uint8"):
        score_runtime(runtime, replace(references, frames=references.frames[:, :4]))
    with pytest.raises(FrameError, match="n >= 1"):
        run_all(runtime, references.frames[:0])


def test_probits_that_are_not_finite_are_refused(monkeypatch, runtime):
    sound = runtime.run

    def broken(frames):
        return replace(sound(frames), probit=np.full(4, np.nan, np.float32))

    monkeypatch.setattr(runtime, "run", broken)
    with pytest.raises(RuntimeFault, match="not finite"):
        score_runtime(runtime, helpers.make_references(SPEC, "tuning", 5, seed=2))


def test_a_closed_or_failing_session_is_a_fault(runtime):
    with pytest.raises(RuntimeFault, match="onnxruntime failed"):
        runtime.run(np.zeros((1, 8, 8, 1), np.uint8))


def test_graph_with_two_offsets_picks_by_label():
    offset = (0.1, 0.2, 0.3)
    runtime = OnnxRuntime.load(helpers.graph(Spec(), offset, {}))
    frames = helpers.random_frames(Spec(seed=0), 200)
    outputs = run_all(runtime, frames)
    expected = np.float32(0.25) * outputs.probit - np.array(offset, np.float32)[outputs.label]
    np.testing.assert_allclose(outputs.radius, np.maximum(expected, 0), rtol=0, atol=1e-6)
    assert len(set(outputs.label.tolist())) > 1


def test_bytes_that_are_no_model():
    with pytest.raises(BundleError, match="cannot load"):
        OnnxRuntime.load(b"")
