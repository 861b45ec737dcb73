"""Latency of each artefact's bare forward pass on this processor, beside fp32 in the same run."""

from __future__ import annotations

from contextlib import ExitStack, closing
from time import perf_counter
from typing import Dict, Mapping

import numpy as np

from rrise.edge_sdk.bundles.runtime_scores import padded
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime

ROUNDS = 300
SECONDS = 3.0
WARM_UP = 10


def measure_latency(
    models: Mapping[str, bytes], frames: np.ndarray, *, rounds: int = ROUNDS
) -> Dict[str, np.ndarray]:
    """Raw samples in seconds, float64 [rounds] for each artefact; nothing is removed.

    Args:
        models: artefact -> bytes of its graph.
        frames: real frames [n, ...], played in turn.
        rounds: calls of each artefact; fewer where they would take longer than some seconds.

    Artefacts take turns within each round, so that a change of the processor's clock meets all of them.
    """
    with ExitStack() as stack:
        runtimes = {
            name: stack.enter_context(closing(OnnxRuntime.load(model))) for name, model in models.items()
        }
        batch = next(iter(runtimes.values())).graph.signature.batch_size
        batches = [padded(frames[first : first + batch], batch) for first in range(0, len(frames), batch)]
        start = perf_counter()
        for runtime in runtimes.values():
            for _ in range(WARM_UP):
                runtime.answer(batches[0])
        each_round = (perf_counter() - start) / WARM_UP
        taken = max(20, min(rounds, int(SECONDS / each_round)))
        samples: Dict[str, list[float]] = {name: [] for name in runtimes}
        for turn in range(taken):
            for name, runtime in runtimes.items():
                frame = batches[turn % len(batches)]
                start = perf_counter()
                runtime.answer(frame)
                samples[name].append(perf_counter() - start)
    return {name: np.array(values) for name, values in samples.items()}
