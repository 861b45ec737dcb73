"""ONNX Runtime: one thread, sequential, no spinning by default, and the provider that was asked for or none."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np

from calibration.execution import Execution
from edge_sdk.contract import (
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
from edge_sdk.errors import BundleError, RuntimeFault, RuntimeUnavailable
from edge_sdk.noise import FreshNoise
from edge_sdk.runtime.base import Graph, Outputs, architecture

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
EXACT_PROVIDERS = ("cpu", "cuda")
"""Providers that compute every node in the precision that the graph states, so that frame + noise is exact."""

_HOT = [LABEL, RADIUS]


class OnnxRuntime:
    """A `Runtime` on ONNX Runtime. Build one with `OnnxRuntime.load`.

    Attributes:
        fresh: where the noise of a guarded graph comes from; None for a plain pass.
    """

    def __init__(self, session: Any, execution: Execution, graph: Graph) -> None:
        self.execution = execution
        self.graph = graph
        self.session = session
        guard, shape = guard_of(graph.signature, graph.metadata), graph.signature.noise_shape
        self.fresh = None if guard is None or shape is None else FreshNoise(guard, shape)
        self._names = [LABEL, RADIUS, PROBIT] + ([DIFFICULTY] if graph.signature.difficulty else [])

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
        extra = dict(provider_options or {})
        session = open_session(data, provider, threads, extra)
        options = {"graph_optimization": "all", "intra_op_threads": str(threads), **extra}
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
            version=_import().__version__,
            provider=provider,
            architecture=architecture(),
            options=tuple(options.items()),
            batch_size=signature.batch_size,
        )
        return cls(session, execution, Graph(signature, metadata, offset, sigma))

    def answer(self, frames: np.ndarray) -> List[np.ndarray]:
        """[label int64 [B], radius float32 [B]] for one batch; the caller has checked dtype and shape."""
        if self.fresh is None:
            return self.session.run(_HOT, {FRAME: frames})
        return self.session.run(_HOT, {FRAME: frames, NOISE: self.fresh.draw()})

    def run(self, frames: np.ndarray, noise: Optional[np.ndarray] = None) -> Outputs:
        """Every per-frame output for one batch, with `noise` or, in the guarded tier, fresh noise. Raises: RuntimeFault."""
        inputs = self._inputs(frames, noise)
        try:
            answers = self.session.run(self._names, inputs)
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise RuntimeFault(
                f"onnxruntime failed on a batch {frames.dtype} {frames.shape}: {error}"
            ) from error
        return Outputs(answers[0], answers[1], answers[2], answers[3] if len(answers) > 3 else None)

    def bare(self, frames: np.ndarray) -> Callable[[], object]:
        """`session.run` of label and radius on this batch; in the guarded tier with noise that was drawn before."""
        return partial(self.session.run, _HOT, self._inputs(frames, None))

    def _inputs(self, frames: np.ndarray, noise: Optional[np.ndarray]) -> Dict[str, np.ndarray]:
        if self.fresh is not None:
            return {FRAME: frames, NOISE: self.fresh.draw() if noise is None else noise}
        if noise is not None:
            raise RuntimeFault("noise: got some for a graph of a plain pass, expected none")
        return {FRAME: frames}

    def clone(self) -> "OnnxRuntime":
        """Share the session, whose `run` may be called by several threads. No noise is shared: there is no generator."""
        return OnnxRuntime(self.session, self.execution, self.graph)

    def close(self) -> None:
        self.session = None


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailable(
            "onnxruntime is not installed: `pip install rrise[onnxruntime]` (on a Jetson: the wheel for your JetPack)"
        ) from error
    return onnxruntime


def open_session(
    data: Union[bytes, str], provider: str, threads: int, provider_options: Dict[str, str]
) -> Any:
    """An onnxruntime session with our settings. Raises: RuntimeUnavailable, BundleError."""
    onnxruntime = _import()
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
    try:
        session = onnxruntime.InferenceSession(data, options, providers=[(wanted, provider_options)])
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise BundleError(
            f"onnxruntime cannot load the graph: {error}; restore the bundle or export it again"
        ) from error
    loaded = session.get_providers()
    if loaded[:1] != [wanted]:
        raise RuntimeUnavailable(
            f"provider {provider}: onnxruntime fell back to {', '.join(loaded)}; `rrise-edge doctor` says what is missing"
        )
    return session


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
