"""An ONNX file as base classifier: a black box for the sampler, run by ONNX Runtime on the CPU or a GPU."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from rrise.calibration.requirements import install
from rrise.trainer.brought.onnx_files import read_file, refuse_references
from rrise.trainer.errors import TrainerError

CPU = "CPUExecutionProvider"


def quiet_onnxruntime() -> Any:
    """The module onnxruntime, kept from writing telemetry.

    Raises:
        TrainerError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise TrainerError(f"onnxruntime is not installed: {install('onnxruntime')}") from error
    return onnxruntime


class OnnxClassifier:
    """float32 [B, C, H, W] -> logits float32 [B, K], or whatever the file's first output is.

    digest: SHA-256 of the file, the `base_digest` of counts that are drawn with it. A file with a fixed batch size is
    fed in batches of that size. Raises TrainerError where the file cannot be read, keeps weights in other files, has another
    input than one float32 image tensor, or the provider is not there (ONNX Runtime would silently take another one).

    source: a path, or the bytes of a file, which messages then name by `origin`.
    """

    def __init__(
        self, source: str | Path | bytes, provider: str = CPU, threads: int | None = None, *, origin: str = ""
    ) -> None:
        onnxruntime = quiet_onnxruntime()
        path = origin or ("the ONNX file" if isinstance(source, bytes) else str(source))
        data = source if isinstance(source, bytes) else read_file(Path(source))
        # From bytes, ONNX Runtime would look for external weights in the working directory.
        refuse_references(data, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise TrainerError(
                f"ONNX Runtime provider: got {provider!r}, expected one of {', '.join(available)}; install the "
                "onnxruntime build that has it"
            )
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=[provider])
        except Exception as error:  # the runtime's own exception classes have no public base
            raise TrainerError(f"{path}: ONNX Runtime cannot load it ({error})") from error
        self.provider = self._session.get_providers()[0]
        if self.provider != provider:
            raise TrainerError(f"{path}: asked for {provider}, but ONNX Runtime runs it on {self.provider}")
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            got = ", ".join(f"{item.name} {item.type} {item.shape}" for item in inputs)
            raise TrainerError(f"{path}: has inputs {got}; expected one float32 [batch, C, H, W] in [0, 1]")
        self._input, batch = inputs[0].name, inputs[0].shape[0]
        self._output = self._session.get_outputs()[0].name
        self._fixed: int | None = batch if isinstance(batch, int) else None
        self.digest = hashlib.sha256(data).hexdigest()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The first output for `x`, float32 [B, C, H, W]."""
        size = self._fixed or len(x)
        return np.concatenate([self._run(x[start : start + size], size) for start in range(0, len(x), size)])

    def _run(self, x: np.ndarray, size: int) -> np.ndarray:
        short = size - len(x)
        if short:
            x = np.concatenate([x, np.zeros((short, *x.shape[1:]), dtype=x.dtype)])
        try:
            output = np.asarray(self._session.run([self._output], {self._input: x})[0])
        except Exception as error:  # see above
            raise TrainerError(
                f"the ONNX base classifier fails on float32 {list(x.shape)} ({error}); does its input fit what the "
                "preprocessing delivers?"
            ) from error
        return output[: len(output) - short]
