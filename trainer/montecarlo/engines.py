"""Engines: what evaluates the base classifier, behind one labeller, so that counting takes the fastest that agrees.

    labeller = open_engine("openvino", ClassifierForms(onnx=data), num_classes=10, dtype="float32", device=torch.device("cpu"))
    labels = labeller(x)            # float32 [B, C, H, W] -> int64 [B]; num_classes where a logit is NaN
    logits = labeller.logits(x)     # float [B, K], for comparisons
    labeller.engine                 # "openvino 2026.4.1 float32 cpu x86_64": part of a store's identity

Engines differ in rounding only; beyond it, `choose` refuses them. Each runs batches of any size on the device that it was
opened for. Nothing is imported before an engine is opened.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rrise.calibration.requirements import install
from rrise.trainer.brought.user_code import user_code
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.classifier import ModuleLabeller, exact, labels_from_logits
from rrise.trainer.montecarlo.engine_labeller import (
    ClassifierForms,
    EngineLabeller,
    expect_float32,
    imported,
    in_batches,
    loaded,
    whole_file,
)
from rrise.trainer.montecarlo.onnx_classifier import quiet_onnxruntime

INSTALL = {
    "torch": ("torch", "torch"),
    "torch-compile": ("torch", "torch"),
    "onnxruntime": ("onnxruntime", "onnxruntime"),
    "openvino": ("openvino", "openvino"),
    "tensorrt": ("tensorrt", "tensorrt"),
}
"""Every engine: the module that it needs, and the package that has it."""
NAMES = tuple(INSTALL)
CUDA = "CUDAExecutionProvider"


class TorchEngine(EngineLabeller):
    """PyTorch, eager: batch normalisation folded, channels_last. On a GPU the counter replays it as a CUDA graph."""

    def __init__(self, source: ClassifierForms, num_classes: int, dtype: str, device: torch.device) -> None:
        super().__init__("torch", torch.__version__, num_classes, dtype, device)
        if source.module is None:
            raise TrainerError(
                "engine 'torch': the base classifier is an ONNX file, expected a PyTorch network; take another engine"
            )
        self._labeller = ModuleLabeller(source.module, num_classes, getattr(torch, dtype), device)

    def __call__(self, x: Tensor) -> Tensor:
        return self._labeller(x)

    def _run(self, x: Tensor) -> Tensor:
        return self._labeller.logits(x)


class CompiledEngine(TorchEngine):
    """`torch.compile` of the same network; compiling takes a quarter of a minute or more at each new batch size."""

    # Compiled kernels share their work among PyTorch's own threads.
    concurrent = False

    def __init__(self, source: ClassifierForms, num_classes: int, dtype: str, device: torch.device) -> None:
        super().__init__(source, num_classes, dtype, device)
        self.name = "torch-compile"
        self.engine = self.engine.replace("torch ", "torch-compile ", 1)
        self._compiled: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._compiled is None:
            self._labeller(x)  # its checks, and its choice of the memory layout
        return labels_from_logits(self.logits(x), self.num_classes)

    def _run(self, x: Tensor) -> Tensor:
        if self._compiled is None:
            self._labeller.logits(x)
            self._compiled = torch.compile(self._labeller.module)
        ready = x.to(self._labeller.dtype).contiguous(memory_format=self._labeller.memory_format)
        with exact(self._labeller.dtype, x.device):
            return self._compiled(ready)


class OnnxRuntimeEngine(EngineLabeller):
    """ONNX Runtime on the CPU, one thread for each caller; or its CUDA provider, which reads and writes GPU tensors."""

    capturable = False  # it waits for its own stream

    def __init__(self, source: ClassifierForms, num_classes: int, dtype: str, device: torch.device) -> None:
        runtime = quiet_onnxruntime()
        super().__init__("onnxruntime", runtime.__version__, num_classes, dtype, device)
        expect_float32(self)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        provider: Any = "CPUExecutionProvider"
        if device.type == "cuda":
            _expect_provider(runtime, CUDA)
            # TF32 is another arithmetic than the float32 that the name of the engine says; an algorithm that is found by
            # timing may be another at each start, and is looked for anew at each batch size.
            chosen = {
                "device_id": str(device.index or 0),
                "use_tf32": "0",
                "cudnn_conv_algo_search": "HEURISTIC",
            }
            provider = (CUDA, chosen)
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self._session = loaded(
            lambda: runtime.InferenceSession(whole_file(source, self.name), options, providers=[provider])
        )
        wanted = provider if isinstance(provider, str) else provider[0]
        if self._session.get_providers()[0] != wanted:
            raise TrainerError(
                f"engine 'onnxruntime' on {device}: this build runs it on {self._session.get_providers()[0]}, expected "
                f"{wanted}; install onnxruntime-gpu, or take another engine"
            )
        self._input, self._output = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        fixed = self._session.get_inputs()[0].shape[0]
        self._rows: int | None = fixed if isinstance(fixed, int) else None

    def _run(self, x: Tensor) -> Tensor:
        if self._rows is not None:
            return in_batches(self._one, x, self._rows)
        return self._one(x)

    def _one(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        if self.device.type == "cpu":
            return torch.from_numpy(self._session.run([self._output], {self._input: x.numpy()})[0])
        return self._on_device(x)

    def _on_device(self, x: Tensor) -> Tensor:
        binding, place = self._session.io_binding(), self.device.index or 0
        logits = torch.empty(len(x), self.num_classes, device=self.device)
        binding.bind_input(self._input, "cuda", place, np.float32, tuple(x.shape), x.data_ptr())
        binding.bind_output(self._output, "cuda", place, np.float32, tuple(logits.shape), logits.data_ptr())
        torch.cuda.current_stream(self.device).synchronize()
        self._session.run_with_iobinding(binding)
        return logits


class OpenVinoEngine(EngineLabeller):
    """OpenVINO on the CPU; one stream for each of PyTorch's threads, one request for each caller's thread."""

    def __init__(self, source: ClassifierForms, num_classes: int, dtype: str, device: torch.device) -> None:
        openvino = imported("openvino")
        version = openvino.get_version().split("-")[0]
        super().__init__("openvino", version, num_classes, dtype, device)
        if device.type != "cpu":
            raise TrainerError(f"engine 'openvino': runs on the CPU here, got {device}; take another engine")
        core, hint = openvino.Core(), {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype]
        capable = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}[hint] not in capable:
            raise TrainerError(
                f"engine 'openvino': this processor has no {dtype} (it has {', '.join(capable)}), so it would only be "
                "imitated; set [targets] dtype to float32"
            )
        threads = torch.get_num_threads()
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        model = loaded(lambda: core.read_model(whole_file(source, self.name)))
        self._compiled = loaded(lambda: core.compile_model(model, "CPU", settings))
        rows = model.inputs[0].partial_shape[0]
        self._rows: int | None = rows.get_length() if rows.is_static else None
        self._requests = threading.local()

    def _run(self, x: Tensor) -> Tensor:
        if self._rows is not None:
            return in_batches(self._one, x, self._rows)
        return self._one(x)

    def _one(self, x: Tensor) -> Tensor:
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        request.infer([x.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(np.array(request.get_output_tensor(0).data, dtype=np.float32))


class TensorRtEngine(EngineLabeller):
    """TensorRT on a GPU: an engine for batches of up to LARGEST rows, built when it is opened, on the caller's stream."""

    LARGEST = 4096

    def __init__(self, source: ClassifierForms, num_classes: int, dtype: str, device: torch.device) -> None:
        if device.type != "cuda" or not torch.cuda.is_available():
            # Asked first: without a driver, TensorRT's objects end the process.
            raise TrainerError(f"engine 'tensorrt': needs an NVIDIA GPU, got device {device}")
        trt = imported("tensorrt")
        super().__init__("tensorrt", trt.__version__, num_classes, dtype, device)
        expect_float32(self)
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(whole_file(source, self.name)):
            raise TrainerError(f"engine 'tensorrt': cannot read base.onnx ({parser.get_error(0)})")
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        config.clear_flag(trt.BuilderFlag.TF32)
        self._input, self._output = network.get_input(0).name, network.get_output(0).name
        rest = tuple(network.get_input(0).shape)[1:]
        profile.set_shape(self._input, (1, *rest), (256, *rest), (self.LARGEST, *rest))
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan) if plan is not None else None
        if self._engine is None:
            raise TrainerError("engine 'tensorrt': the engine could not be built on this GPU")
        self._context = self._engine.create_execution_context()

    def _run(self, x: Tensor) -> Tensor:
        return torch.cat([self._one(part.contiguous()) for part in x.split(self.LARGEST)])

    def _one(self, x: Tensor) -> Tensor:
        logits = torch.empty(len(x), self.num_classes, device=self.device)
        self._context.set_input_shape(self._input, tuple(x.shape))
        self._context.set_tensor_address(self._input, x.data_ptr())
        self._context.set_tensor_address(self._output, logits.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream):
            raise TrainerError(f"engine 'tensorrt' failed on a batch of {len(x)}")
        return logits


ENGINES: Mapping[str, Callable[[ClassifierForms, int, str, torch.device], EngineLabeller]] = {
    "torch": TorchEngine,
    "torch-compile": CompiledEngine,
    "onnxruntime": OnnxRuntimeEngine,
    "openvino": OpenVinoEngine,
    "tensorrt": TensorRtEngine,
}


def open_engine(
    name: str, source: ClassifierForms, *, num_classes: int, dtype: str, device: torch.device
) -> EngineLabeller:
    """The labeller of the engine `name`, one of NAMES.

    Raises:
        TrainerError: not installed (named, with what to install), not able to run this source, precision or device.
    """
    if name not in ENGINES:
        raise TrainerError(f"engine: got {name!r}, expected one of {', '.join(NAMES)}")
    if not installed(name):
        module, package = INSTALL[name]
        raise TrainerError(f"engine {name!r}: the package {module} is not installed: {install(package)}")
    with user_code(f"engine {name!r}: cannot be opened on {device}", "; take another engine"):
        return ENGINES[name](source, num_classes, dtype, device)


def _expect_provider(runtime: Any, provider: str) -> None:
    """Raises TrainerError where this build of ONNX Runtime lacks a provider: asked beforehand, it says so more clearly."""
    there = runtime.get_available_providers()
    if provider not in there:
        raise TrainerError(
            f"engine 'onnxruntime': onnxruntime {runtime.__version__} has no {provider} (it has {', '.join(there)}); install "
            "onnxruntime-gpu, or take another engine"
        )


def installed(name: str) -> bool:
    """Whether the package of an engine is there (it is not imported)."""
    return importlib.util.find_spec(INSTALL[name][0]) is not None
