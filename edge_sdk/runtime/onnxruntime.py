"""ONNX Runtime: one thread, sequential, no spinning by default, and the provider that was asked for or none."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np

from rrise.calibration.requirements import install
from rrise.calibration.storage.execution import Execution
from rrise.edge_sdk.errors import BundleError, FrameError, RuntimeFault, RuntimeUnavailable
from rrise.edge_sdk.formats.contract import (
    DIFFICULTY,
    FRAME,
    LABEL,
    NOISE,
    OFFSET,
    PROBIT,
    RADIUS,
    SIGMA,
    GraphSignature,
    TensorInfo,
    check_signature,
    guard_of,
)
from rrise.edge_sdk.formats.noise import FreshNoise
from rrise.edge_sdk.runtime.base import Graph, Outputs, architecture
from rrise.edge_sdk.runtime.binding import Binding
from rrise.edge_sdk.runtime.cuda import Driver
from rrise.edge_sdk.runtime.device_frames import DeviceFrame
from rrise.edge_sdk.runtime.onnx_file import refuse_external

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
EXACT_PROVIDERS = ("cpu", "cuda")
"""Providers that compute every node in the precision that the graph states, so that frame + noise is exact."""
PROVIDER_OPTIONS = {
    # TF32 would round the inputs of float32 convolutions; an algorithm found by timing may be another at each start.
    "cuda": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
}
OLDEST = (1, 18)
"""The first version that reads the graphs that export writes, as pyproject.toml says."""
_STRICT = "session.disable_cpu_ep_fallback"
_HOT = [LABEL, RADIUS]
_ON_DEVICE = "frame: lies in device memory, and ONNX Runtime reads host memory; copy it with .cpu() or .get(), or use TensorRT"


class OnnxRuntime:
    """A `Runtime` on ONNX Runtime. Build one with `OnnxRuntime.load`.

    On a GPU frames and answers go through buffers that are bound once (IOBinding); on the processor there is nothing to
    gain by it.

    Attributes:
        fresh: where the noise of a guarded graph comes from; None for a plain pass.
    """

    def __init__(self, session: Any, execution: Execution, graph: Graph, note: str = "") -> None:
        self.execution = execution
        self.note = note
        self.graph = graph
        self.session: Any = session
        guard, shape = guard_of(graph.signature, graph.metadata), graph.signature.noise_shape
        self.fresh = None if guard is None or shape is None else FreshNoise(guard, shape)
        self._names = [LABEL, RADIUS, PROBIT] + ([DIFFICULTY] if graph.signature.difficulty else [])
        self._binding: Optional[Binding] = None
        # The noise is new for every call, so a guarded graph has nothing that could stay bound.
        if execution.provider != "cpu" and self.fresh is None:
            self._binding = Binding(import_onnxruntime(), session, graph.signature, self._names, "cuda")

    @classmethod
    def load(
        cls,
        model: Union[bytes, str, Path],
        *,
        provider: str = "cpu",
        threads: int = 1,
        provider_options: Optional[Dict[str, str]] = None,
    ) -> "OnnxRuntime":
        """Load a graph that keeps the ONNX contract.

        Args:
            model: the file's bytes, or its path.
            provider: "cpu", "cuda" or "tensorrt". Checked after loading: there is no silent fallback to another.
            threads: intra-op threads. One has the best tail where cores are shared.
            provider_options: passed to the provider; part of the execution.

        Raises:
            RuntimeUnavailable: onnxruntime or the provider is not there.
            BundleError: the bytes are no ONNX model, or it breaks the contract.
        """
        if threads < 1:
            raise RuntimeUnavailable(f"threads: got {threads}, expected at least 1")
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        extra = {**PROVIDER_OPTIONS.get(provider, {}), **(provider_options or {})}
        session, note = open_session(data, provider, threads, extra), ""
        options = {"graph_optimization": "all", "intra_op_threads": str(threads), **extra}
        where = architecture()
        if provider != "cpu":
            device = Driver.open().device
            where = device.architecture
            options.update(driver=device.driver, cpu_nodes="none" if session.strict else "some")
            note = (
                ""
                if session.strict
                else f"some nodes run on the processor, {provider} has no kernel for them"
            )
        signature = check_signature(_describe(session.get_inputs()), _describe(session.get_outputs()))
        if signature.noise_shape is not None and provider not in EXACT_PROVIDERS:
            raise RuntimeUnavailable(
                f"provider {provider}: may add the noise of the guarded tier to the frame in a lower precision, which voids the"
                f" guarantee; expected one of {', '.join(EXACT_PROVIDERS)}"
            )
        sigma, offset = _constants(session, signature)
        metadata = dict(session.get_modelmeta().custom_metadata_map)
        execution = Execution(
            artefact=hashlib.sha256(data).hexdigest(),
            runtime="onnxruntime",
            version=import_onnxruntime().__version__,
            provider=provider,
            architecture=where,
            options=tuple(options.items()),
            batch_size=signature.batch_size,
        )
        return cls(session, execution, Graph(signature, metadata, offset, sigma), note)

    def answer(self, frames: Union[np.ndarray, DeviceFrame]) -> List[np.ndarray]:
        """[label int64 [B], radius float32 [B]] for one batch; the caller has checked dtype and shape."""
        frames = _on_host(frames)
        if self.fresh is None and self._binding is not None:
            return self._binding.run(frames)[:2]
        feed = {FRAME: frames} if self.fresh is None else {FRAME: frames, NOISE: self.fresh.draw()}
        answered: List[np.ndarray] = self.session.run(_HOT, feed)
        return answered

    def device_frame(self, frame: Any) -> DeviceFrame:
        """Raises: FrameError: always."""
        raise FrameError(_ON_DEVICE)

    def host_copy(self, frame: DeviceFrame) -> np.ndarray:
        """Raises: FrameError: always."""
        raise FrameError(_ON_DEVICE)

    def run(self, frames: Union[np.ndarray, DeviceFrame], noise: Optional[np.ndarray] = None) -> Outputs:
        """Every per-frame output for one batch, with `noise` or, in the guarded tier, fresh noise. Raises: RuntimeFault."""
        frames = _on_host(frames)
        inputs = self._inputs(frames, noise)
        if self._binding is not None:
            bound = [array.copy() for array in self._binding.run(frames)]
            return Outputs(bound[0], bound[1], bound[2], bound[3] if len(bound) > 3 else None)
        try:
            answers = self.session.run(self._names, inputs)
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise RuntimeFault(
                f"onnxruntime failed on a batch {frames.dtype} {frames.shape}: {error}"
            ) from error
        return Outputs(answers[0], answers[1], answers[2], answers[3] if len(answers) > 3 else None)

    def bare(self, frames: np.ndarray) -> Callable[[], object]:
        """`session.run` of label and radius on this batch, or the same through bound buffers.

        In the guarded tier with noise that was drawn before.
        """
        if self._binding is not None:
            return partial(self._binding.run, frames)
        return partial(self.session.run, _HOT, self._inputs(frames, None))

    def _inputs(self, frames: np.ndarray, noise: Optional[np.ndarray]) -> Dict[str, np.ndarray]:
        if self.fresh is not None:
            return {FRAME: frames, NOISE: self.fresh.draw() if noise is None else noise}
        if noise is not None:
            raise RuntimeFault("noise: got some for a graph of a plain pass, expected none")
        return {FRAME: frames}

    def clone(self) -> "OnnxRuntime":
        """Share the session, whose `run` may be called by several threads. No noise is shared: there is no generator."""
        return OnnxRuntime(self.session, self.execution, self.graph, self.note)

    def close(self) -> None:
        self.session = self._binding = None


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises: RuntimeUnavailable: it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailable(
            f"onnxruntime is not installed: {install('onnxruntime')} (on a Jetson: the wheel for your JetPack)"
        ) from error
    return onnxruntime


def open_session(
    data: Union[bytes, str], provider: str, threads: int, provider_options: Dict[str, str]
) -> Any:
    """An onnxruntime session with our settings; it never goes over to another provider, at load or later.

    On a GPU every node must run there (`session.strict`); a graph with nodes that the provider has no kernel for is
    loaded with those on the processor, and `session.strict` is False.

    Raises:
        RuntimeUnavailable: the provider is unknown, not installed, or was not taken.
        BundleError: onnxruntime cannot load the graph, or the bytes of a graph refer to another file.
    """
    onnxruntime = import_onnxruntime()
    if isinstance(data, bytes):
        refuse_external(data, "graph")
    if provider not in PROVIDERS:
        raise RuntimeUnavailable(f"provider: got {provider!r}, expected one of {', '.join(PROVIDERS)}")
    wanted = PROVIDERS[provider]
    if wanted not in onnxruntime.get_available_providers():
        raise RuntimeUnavailable(
            f"provider {provider}: this onnxruntime {onnxruntime.__version__} has only"
            f" {', '.join(onnxruntime.get_available_providers())}; install a build with {wanted}, or ask for provider 'cpu'"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Without it int8 products saturate on x86 processors that lack VNNI: one label in five flipped on a small network.
    options.add_session_config_entry("session.x64quantprecision", "1")
    strict = provider != "cpu"
    try:
        try:
            options.add_session_config_entry(_STRICT, "1" if strict else "0")
            session = _session(onnxruntime, data, options, wanted, provider_options)
        except Exception as error:
            if not (strict and "assigned to the default CPU EP" in str(error)):
                raise
            strict = False
            options.add_session_config_entry(_STRICT, "0")
            session = _session(onnxruntime, data, options, wanted, provider_options)
    except Exception as error:  # onnxruntime's exceptions have no common public base
        if _older(onnxruntime.__version__, OLDEST):
            raise RuntimeUnavailable(
                f"onnxruntime {onnxruntime.__version__} cannot load the graph ({error}); expected version "
                f"{'.'.join(map(str, OLDEST))} or newer: {install('onnxruntime')}, or as the bundle's requirements.txt says"
            ) from error
        raise BundleError(
            f"onnxruntime cannot load the graph: {error}; restore the bundle or export it again"
        ) from error
    loaded = session.get_providers()
    if loaded[:1] != [wanted]:
        raise RuntimeUnavailable(
            f"provider {provider}: onnxruntime fell back to {', '.join(loaded)}; `rrise-edge doctor` says what is missing"
        )
    taken = session.get_provider_options().get(wanted, {})
    ignored = {
        name: taken[name] for name, value in provider_options.items() if taken.get(name, value) != value
    }
    if ignored:
        raise RuntimeUnavailable(
            f"provider {provider}: asked for {provider_options}, onnxruntime {onnxruntime.__version__} took {ignored}"
        )
    session.strict = strict
    return session


def _older(version: str, than: Tuple[int, int]) -> bool:
    """Whether a version such as "1.16.3" is older; what is no such text is not."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found.group(1)), int(found.group(2))) < than


def _session(onnxruntime: Any, data: Any, options: Any, wanted: str, provider_options: Dict[str, str]) -> Any:
    # By default a session that fails, even in the middle of a run, prints a line and goes on with another provider.
    return onnxruntime.InferenceSession(
        data, options, providers=[(wanted, provider_options)], enable_fallback=0
    )


def _on_host(frames: Union[np.ndarray, DeviceFrame]) -> np.ndarray:
    if isinstance(frames, DeviceFrame):
        raise FrameError(_ON_DEVICE)
    return frames


_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(int64)": "int64"}


def _describe(arguments: Any) -> List[TensorInfo]:
    return [
        TensorInfo(
            argument.name,
            _DTYPES.get(argument.type, argument.type),
            tuple(side if isinstance(side, int) else None for side in argument.shape or ()),
        )
        for argument in arguments
    ]


def _constants(session: Any, signature: GraphSignature) -> Tuple[float, Tuple[float, ...]]:
    """Run the graph once on a black frame: the constants must come out of the very session that will certify."""
    inputs = {FRAME: np.zeros((signature.batch_size, *signature.frame_shape), signature.dtype)}
    if signature.noise_shape is not None:
        inputs[NOISE] = np.zeros(signature.noise_shape, np.float32)
    try:
        sigma, offset = session.run([SIGMA, OFFSET], inputs)
    except Exception as error:
        raise RuntimeFault(
            f"onnxruntime failed on a black frame: {error}; export the bundle again"
        ) from error
    if sigma.size != 1 or offset.size < 1:
        raise BundleError(
            f"graph constants: got sigma {sigma.shape}, offset {offset.shape}; expected one and at least one value"
        )
    return float(sigma.ravel()[0]), tuple(float(value) for value in offset.ravel())
