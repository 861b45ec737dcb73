"""TensorRT: runs an engine that `rrise-export tensorrt` built on this device. One adapter for tensorrt and tensorrt_rtx."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Union

import numpy as np

from rrise.calibration.storage.execution import Execution
from rrise.edge_sdk.errors import FrameError, RuntimeFault, RuntimeUnavailable
from rrise.edge_sdk.formats.contract import (
    DIFFICULTY,
    LABEL,
    OFFSET,
    PROBIT,
    RADIUS,
    SIGMA,
    TensorInfo,
    check_signature,
    guard_of,
)
from rrise.edge_sdk.runtime.base import Graph, Outputs
from rrise.edge_sdk.runtime.cuda import Driver
from rrise.edge_sdk.runtime.device_frames import DeviceFrame, view_on_device
from rrise.edge_sdk.runtime.engines import engine_key, import_tensorrt, load_engine, stale_engines, started
from rrise.edge_sdk.runtime.lane import GRAPH, Lane
from rrise.edge_sdk.runtime.onnx_file import read_metadata

if TYPE_CHECKING:
    from rrise.edge_sdk.bundles.bundle import Bundle


class TensorRTRuntime:
    """A `Runtime` on TensorRT. Build one with `TensorRTRuntime.load`.

    Shapes are fixed: buffers are allocated once, in page-locked memory on the host's side, and their addresses are given
    to the context once. Where TensorRT lets itself be captured, each frame replays one CUDA graph; which of the two it
    is belongs to the execution, so that a calibration holds for exactly that way of running.

    Attributes:
        note: why no CUDA graph is used, or "".
    """

    def __init__(self, engine: Any, driver: Driver, lane: Lane, execution: Execution) -> None:
        self.execution = execution
        self.note = lane.reason and f"no CUDA graph: {lane.reason}"
        self._engine: Optional[Any] = engine
        self._driver = driver
        self._lane = lane
        self._tensors: List[TensorInfo]
        self.graph: Graph
        self._per_frame: List[str]

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        artefact: str,
        *,
        trt: Optional[Any] = None,
        driver: Optional[Driver] = None,
        cuda_graph: bool = True,
    ) -> "TensorRTRuntime":
        """Load the engine that this device built for `artefact`.

        Args:
            trt, driver: by default what the machine has.
            cuda_graph: whether to try a CUDA graph; one that cannot be captured, or that answers other bits than plain
                runs, is given up for plain runs.

        Raises:
            RuntimeUnavailable: no driver, no TensorRT, or no engine for exactly this GPU, driver and TensorRT.
            RuntimeFault: CUDA or TensorRT failed while buffers were made or in the first runs.
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
        deserialiser = started(lambda: trt.Runtime(trt.Logger(trt.Logger.ERROR)), key)
        engine = deserialiser.deserialize_cuda_engine(plan)
        if engine is None:
            raise RuntimeUnavailable(
                f"TensorRT {key.version} cannot load the engine {key.name}; build it again"
            )
        if engine.name != key.onnx:
            raise RuntimeUnavailable(
                f"the engine {key.name} was built from ONNX file {engine.name[:16]}, expected {key.onnx[:16]}; "
                "build it again"
            )
        tensors = _tensors(trt, engine)
        lane = Lane(engine, driver, tensors, graph=cuda_graph)
        execution = Execution(
            artefact=hashlib.sha256(plan).hexdigest(),
            runtime=key.module,
            version=key.version,
            provider="cuda",
            architecture=driver.device.architecture,
            options=(("driver", key.driver), ("mode", lane.mode), ("onnx", key.onnx)),
            batch_size=key.shape[0],
        )
        runtime = cls(engine, driver, lane, execution)
        try:
            runtime._describe(trt, engine, tensors, read_metadata(bundle.model(artefact)))
        except BaseException:
            lane.close()
            raise
        return runtime

    def _describe(self, trt: Any, engine: Any, tensors: List[TensorInfo], metadata: Dict[str, str]) -> None:
        """What the graph says about itself; its two constants come out of the very engine that will certify."""
        inputs = [tensor for tensor in tensors if _is_input(trt, engine, tensor.name)]
        outputs = [tensor for tensor in tensors if not _is_input(trt, engine, tensor.name)]
        signature = check_signature(inputs, outputs)
        if guard_of(signature, metadata) is not None:
            raise RuntimeUnavailable(
                "TensorRT: this runtime does not feed the noise of the guarded tier; use ONNX Runtime"
            )
        self._tensors = tensors
        self._per_frame = [LABEL, RADIUS, PROBIT] + ([DIFFICULTY] if signature.difficulty else [])
        black = np.zeros((signature.batch_size, *signature.frame_shape), signature.dtype)
        offset, sigma = self._lane.run(black, [OFFSET, SIGMA])
        self.graph = Graph(
            signature, metadata, tuple(float(value) for value in offset.ravel()), float(sigma.ravel()[0])
        )

    def run(self, frames: Union[np.ndarray, DeviceFrame], noise: Optional[np.ndarray] = None) -> Outputs:
        """Every per-frame output for one batch. Raises: RuntimeFault: it failed, or got noise, which no engine takes."""
        if noise is not None:
            raise RuntimeFault("noise: got some for an engine of a plain pass, expected none")
        self._check(frames)
        answers = self._lane.run(frames, self._per_frame)
        return Outputs(answers[0], answers[1], answers[2], answers[3] if len(answers) > 3 else None)

    def answer(self, frames: Union[np.ndarray, DeviceFrame]) -> List[np.ndarray]:
        """[label int64 [B], radius float32 [B]] for one batch, overwritten by the next call."""
        self._check(frames)
        return self._lane.answer(frames)

    def _check(self, frames: Union[np.ndarray, DeviceFrame]) -> None:
        if not isinstance(frames, DeviceFrame):
            self._lane.check(frames)

    def device_frame(self, frame: Any) -> DeviceFrame:
        """Take a frame that lies in this device's memory; the next `answer` or `run` copies it there.

        Raises:
            FrameError: another type, shape, memory layout or device.
            RuntimeFault: CUDA does not work any more.
        """
        view = view_on_device(frame, self.graph.signature, self._lane.stream)
        if not self._lane.holds(view.address):
            raise FrameError(
                f"frame: its address is not in memory of the first CUDA device ({self._driver.device.name});"
                " move it there, or copy it to the host"
            )
        return view

    def host_copy(self, frame: DeviceFrame) -> np.ndarray:
        """The pixels [1, H, W, C] of a device frame, for whatever has to look at them."""
        return self._lane.fetch(frame)

    def bare(self, frames: np.ndarray) -> Callable[[], object]:
        """Copy in, run, copy out and wait: the least that any user of this engine does."""
        return partial(self._lane.answer, frames)

    def clone(self) -> "TensorRTRuntime":
        """A further context on the same engine, with its own stream, buffers and CUDA graph.

        Raises:
            RuntimeFault: this runtime is closed, or CUDA failed.
            RuntimeUnavailable: the clone would run in another way than was calibrated.
        """
        if self._engine is None:
            raise RuntimeFault("TensorRT: this runtime is closed")
        mode = dict(self.execution.options)["mode"]
        lane = Lane(self._engine, self._driver, self._tensors, graph=mode == GRAPH)
        if lane.mode != mode:
            lane.close()
            raise RuntimeUnavailable(
                f"clone: the original runs by {mode}, its clone could not ({lane.reason}); load another certifier instead"
            )
        other = TensorRTRuntime(self._engine, self._driver, lane, self.execution)
        other.graph, other._per_frame, other._tensors = self.graph, self._per_frame, self._tensors
        other.note = self.note
        return other

    def close(self) -> None:
        """Release context, buffers, CUDA graph and stream; afterwards it cannot run."""
        self._engine = None
        self._lane.close()


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
