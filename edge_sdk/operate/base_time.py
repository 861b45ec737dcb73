"""How long a base classifier takes: what Monte Carlo would cost on this machine."""

from __future__ import annotations

from time import perf_counter
from typing import Union

import numpy as np

from rrise.edge_sdk.errors import EdgeError


def time_base(model: Union[str, bytes], *, threads: int = 1, seconds: float = 2.0) -> float:
    """Seconds of one forward pass of a base classifier given as ONNX, in its own batches (64 where it leaves them open).

    Raises:
        RuntimeUnavailable: onnxruntime is not installed.
        EdgeError: the file is no model with a single image input.
    """
    from rrise.edge_sdk.runtime.onnxruntime import open_session

    session = open_session(model, "cpu", threads, {})
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in ("tensor(float)", "tensor(uint8)"):
        raise EdgeError(
            f"base: got inputs {[one.name for one in inputs]}, expected one image as float32 or uint8"
        )
    shape = [side if isinstance(side, int) else 64 for side in inputs[0].shape]
    dtype = np.float32 if inputs[0].type == "tensor(float)" else np.uint8
    batch = {inputs[0].name: np.random.default_rng(0).random(shape).astype(dtype)}
    session.run(None, batch)
    calls, start = 0, perf_counter()
    while calls < 3 or perf_counter() - start < seconds:
        session.run(None, batch)
        calls += 1
    return (perf_counter() - start) / (calls * shape[0])
