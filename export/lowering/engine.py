"""Builds a TensorRT engine from a bundle's ONNX file: strongly typed, no flags but TF32 off (TensorRT 10.3 to 11.4).

The precision is in the graph (float16 casts, QDQ), where every TensorRT reads it alike; builder flags for it are gone
in TensorRT 11. TF32 is on by default and would round the inputs of an "fp32" convolution to 10 mantissa bits.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, List, Optional

from rrise.calibration.console import duration
from rrise.calibration.storage.files import atomic_file
from rrise.edge_sdk.formats.contract import FRAME
from rrise.edge_sdk.runtime.engines import EngineKey, started
from rrise.export.errors import ExportError


def build_engine(trt: Any, model: bytes, key: EngineKey, *, timing_cache: Optional[Path] = None) -> bytes:
    """Parse and build; the plan carries the ONNX file's digest as `network.name`.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        model: bytes of the ONNX file; key.onnx is their digest.
        timing_cache: file in which measured tactics are kept between builds.

    Raises:
        RuntimeUnavailable: TensorRT does not start, as with a driver that is too old for it.
        ExportError: an operator that this TensorRT cannot parse (named, with its layer), or a failed build.
    """
    logger = _log_of(trt)
    builder = started(lambda: trt.Builder(logger), key)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise ExportError(
            f"{key.artefact}: {key.module} {key.version} cannot take the graph: {'; '.join(_parse_errors(parser))}"
        )
    network.name = key.onnx
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape(FRAME, key.shape, key.shape, key.shape)
    config.add_optimization_profile(profile)
    cache = _use_timing_cache(config, timing_cache)
    _show_progress(trt, config)
    start = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(
            f"{key.artefact}: {key.module} {key.version} could not build the engine: {logger.text()}"
        )
    if cache is not None and timing_cache is not None:
        with atomic_file(timing_cache) as file:
            file.write(bytes(cache.serialize()))
    _say(f"engine of {key.artefact} built in {duration(time.monotonic() - start)}")
    return bytes(plan)


def announce(key: EngineKey) -> None:
    """Say before it starts that a build takes its time."""
    _say(
        f"building {key.artefact} with {key.module} {key.version} for {key.device}: this takes minutes on a small board"
    )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _parse_errors(parser: Any) -> List[str]:
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        operator, layer = (
            getattr(error, "node_operator", lambda: "?")(),
            getattr(error, "node_name", lambda: "?")(),
        )
        found.append(f"operator {operator} in layer {layer!r}: {error.desc()}")
    return found or ["no reason given"]


def _log_of(trt: Any) -> Any:
    """A logger that keeps errors for our own message instead of printing them."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: List[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.messages.append(message)

        def text(self) -> str:
            return "; ".join(self.messages[-3:]) or "no reason given"

    return Log()


def _use_timing_cache(config: Any, path: Optional[Path]) -> Any:
    if path is None:
        return None
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        # Measured on another GPU or by another TensorRT: begin anew.
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _show_progress(trt: Any, config: Any) -> None:
    """A line for each phase of the build, where stderr is a terminal and this TensorRT can tell."""
    if not (hasattr(trt, "IProgressMonitor") and sys.stderr.isatty()):
        return

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str, steps: int) -> None:
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            sys.stderr.write(f"\r\x1b[K{phase}: {step + 1} of {self.steps.get(phase, 0)}")
            sys.stderr.flush()
            return True

        def phase_finish(self, phase: str) -> None:
            sys.stderr.write("\r\x1b[K")

    config.progress_monitor = Monitor()
