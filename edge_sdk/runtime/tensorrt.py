"""TensorRT: runs an engine that `rrise-export tensorrt` built on this device. One adapter for tensorrt and tensorrt_rtx."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from calibration.execution import Execution
from edge_sdk.bundle import Bundle
from edge_sdk.contract import (
    DIFFICULTY,
    FRAME,
    LABEL,
    OFFSET,
    PROBIT,
    RADIUS,
    SIGMA,
    TensorInfo,
    check_signature,
    guard_of,
)
from edge_sdk.errors import RuntimeFault, RuntimeUnavailable
from edge_sdk.runtime.base import Graph, Outputs
from edge_sdk.runtime.cuda import Driver
from edge_sdk.runtime.engines import engine_key, import_tensorrt, load_engine, stale_engines
from edge_sdk.runtime.onnx_file import read_metadata


class TensorRTRuntime:
    """A `Runtime` on TensorRT. Build one with `TensorRTRuntime.load`.

    Shapes are fixed: buffers are allocated once and their addresses are given to the context once.
    """

    def __init__(self, engine: Any, driver: Driver, execution: Execution, tensors: List[TensorInfo]) -> None:
        self.execution = execution
        self._engine = engine
        self._tensors = tensors
        driver.attach()
        self._context: Optional[Any] = engine.create_execution_context()
        self._driver = driver
        self._stream = driver.stream()
        self._host = {tensor.name: np.zeros(_sides(tensor), tensor.dtype) for tensor in tensors}
        self._device = {name: driver.allocate(array.nbytes) for name, array in self._host.items()}
        for name, address in self._device.items():
            if not self._context.set_tensor_address(name, address):
                raise RuntimeFault(f"TensorRT refused the address of tensor {name!r}; build the engine again")
        self.graph: Graph
        self._per_frame: List[str]

    @classmethod
    def load(
        cls, bundle: Bundle, artefact: str, *, trt: Optional[Any] = None, driver: Optional[Driver] = None
    ) -> "TensorRTRuntime":
        """Load the engine that this device built for `artefact`.

        Raises:
            RuntimeUnavailable: no driver, no TensorRT, or no engine for exactly this GPU, driver and TensorRT.
            BundleError: the engine was changed, or is not of this bundle.
        """
        # Without a driver TensorRT hands out objects that crash the process when they are used or freed.
        driver = driver or Driver.open()
        trt = trt or import_tensorrt()
        key = engine_key(bundle, artefact, trt, driver.device)
        plan = load_engine(bundle, key)
        if plan is None:
            stale = stale_engines(bundle, key)
            found = f"only engines for something else ({', '.join(stale)})" if stale else "none"
            raise RuntimeUnavailable(
                f"no engine of {artefact} for {key.module} {key.version} on {driver.device.architecture}, driver {key.driver}: "
                f"found {found}; run `rrise-export tensorrt {bundle.path}` here"
            )
        engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)
        if engine is None:
            raise RuntimeUnavailable(
                f"TensorRT {key.version} cannot load the engine {key.name}; build it again"
            )
        if engine.name != key.onnx:
            raise RuntimeUnavailable(
                f"the engine {key.name} was built from ONNX file {engine.name[:16]}, expected {key.onnx[:16]}; "
                "build it again"
            )
        execution = Execution(
            artefact=hashlib.sha256(plan).hexdigest(),
            runtime=key.module,
            version=key.version,
            provider="cuda",
            architecture=driver.device.architecture,
            options=(("driver", key.driver), ("onnx", key.onnx)),
            batch_size=key.shape[0],
        )
        runtime = cls(engine, driver, execution, _tensors(trt, engine))
        runtime._describe(trt, engine, read_metadata(bundle.model(artefact)))
        return runtime

    def _describe(self, trt: Any, engine: Any, metadata: Dict[str, str]) -> None:
        """What the graph says about itself; its two constants come out of the very engine that will certify."""
        inputs = [tensor for tensor in _tensors(trt, engine) if _is_input(trt, engine, tensor.name)]
        outputs = [tensor for tensor in _tensors(trt, engine) if not _is_input(trt, engine, tensor.name)]
        signature = check_signature(inputs, outputs)
        if guard_of(signature, metadata) is not None:
            raise RuntimeUnavailable(
                "TensorRT: this runtime does not feed the noise of the guarded tier; use ONNX Runtime"
            )
        self._per_frame = [LABEL, RADIUS, PROBIT] + ([DIFFICULTY] if signature.difficulty else [])
        black = np.zeros((signature.batch_size, *signature.frame_shape), signature.dtype)
        offset, sigma = self._execute(black, [OFFSET, SIGMA])
        self.graph = Graph(
            signature, metadata, tuple(float(value) for value in offset.ravel()), float(sigma.ravel()[0])
        )

    def _execute(self, frames: np.ndarray, wanted: List[str]) -> List[np.ndarray]:
        if self._context is None:
            raise RuntimeFault("TensorRT: this runtime is closed")
        self._driver.attach()
        self._driver.to_device(self._device[FRAME], frames, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise RuntimeFault("TensorRT failed to run the engine; build it again")
        for name in wanted:
            self._driver.to_host(self._host[name], self._device[name], self._stream)
        self._driver.synchronize(self._stream)
        return [self._host[name].copy() for name in wanted]

    def run(self, frames: np.ndarray, noise: Optional[np.ndarray] = None) -> Outputs:
        """Every per-frame output for one batch. Raises: RuntimeFault: it failed, or got noise, which no engine takes."""
        if noise is not None:
            raise RuntimeFault("noise: got some for an engine of a plain pass, expected none")
        answers = self._execute(frames, self._per_frame)
        return Outputs(answers[0], answers[1], answers[2], answers[3] if len(answers) > 3 else None)

    def answer(self, frames: np.ndarray) -> List[np.ndarray]:
        """[label int64 [B], radius float32 [B]] for one batch; the caller has checked dtype and shape."""
        return self._execute(frames, [LABEL, RADIUS])

    def bare(self, frames: np.ndarray) -> Callable[[], object]:
        """Copy in, run, copy out and wait: the least that any user of this engine does."""
        return partial(self._execute, frames, [LABEL, RADIUS])

    def clone(self) -> "TensorRTRuntime":
        """A further context with its own buffers on the same engine."""
        if self._engine is None:
            raise RuntimeFault("TensorRT: this runtime is closed")
        other = TensorRTRuntime(self._engine, self._driver, self.execution, self._tensors)
        other.graph, other._per_frame = self.graph, self._per_frame
        return other

    def close(self) -> None:
        """Release context, buffers and stream; afterwards it cannot run."""
        if self._context is None:
            return
        self._driver.attach()
        self._driver.synchronize(self._stream)
        self._context = self._engine = None
        for address in self._device.values():
            self._driver.free(address)
        self._driver.close_stream(self._stream)


def _tensors(trt: Any, engine: Any) -> List[TensorInfo]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return [
        TensorInfo(
            name,
            np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name,
            tuple(engine.get_tensor_shape(name)),
        )
        for name in names
    ]


def _is_input(trt: Any, engine: Any, name: str) -> bool:
    return bool(engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)


def _sides(tensor: TensorInfo) -> Tuple[int, ...]:
    return tuple(side or 0 for side in tensor.shape)
