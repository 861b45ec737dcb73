"""ONNX Runtime's IOBinding: one input and all outputs in buffers that are bound once, on whatever device a session runs."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from rrise.edge_sdk.errors import FrameError, RuntimeFault
from rrise.edge_sdk.formats.contract import FRAME, LABEL, GraphSignature


class Binding:
    """Runs a session on one batch at a time; the first failure is the last run."""

    def __init__(
        self, onnxruntime: Any, session: Any, signature: GraphSignature, names: Sequence[str], device: str
    ) -> None:
        """Bind the input and the outputs of a session.

        Args:
            names: outputs to fetch, each one value per frame.
            device: "cuda" or "cpu": where the input's buffer lies. Outputs lie in host memory.

        Raises:
            RuntimeFault: onnxruntime cannot bind them.
        """
        self._session = session
        self._shape = (signature.batch_size, *signature.frame_shape)
        self._dtype = np.dtype(signature.dtype)
        self.outputs: Dict[str, np.ndarray] = {
            name: np.zeros(signature.batch_size, np.int64 if name == LABEL else np.float32) for name in names
        }
        self._failed = ""
        value = onnxruntime.OrtValue
        try:
            self._input = value.ortvalue_from_shape_and_type(self._shape, self._dtype.type, device, 0)
            self._kept = {name: value.ortvalue_from_numpy(array) for name, array in self.outputs.items()}
            self._binding = session.io_binding()
            self._binding.bind_ortvalue_input(FRAME, self._input)
            for name, kept in self._kept.items():
                self._binding.bind_ortvalue_output(name, kept)
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise RuntimeFault(f"onnxruntime cannot bind buffers on {device}: {error}") from error

    def run(self, frames: np.ndarray) -> List[np.ndarray]:
        """The outputs, in arrays that the next call overwrites.

        Raises:
            FrameError: another dtype or shape.
            RuntimeFault: onnxruntime failed, now or before.
        """
        if frames.shape != self._shape or frames.dtype != self._dtype:
            raise FrameError(
                f"frames: got {frames.dtype} {list(frames.shape)}, expected {self._dtype} {list(self._shape)}"
            )
        if self._failed:
            raise RuntimeFault(f"onnxruntime: out of use since an earlier failure: {self._failed}")
        # Answers that never arrive must not look like the ones of the frame before.
        for array in self.outputs.values():
            array.fill(-1 if array.dtype.kind == "i" else np.nan)
        try:
            self._input.update_inplace(frames)
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
        except Exception as error:
            self._failed = str(error)
            raise RuntimeFault(f"onnxruntime failed on a batch: {error}") from error
        return list(self.outputs.values())
