"""What a GPU does with a bundle: engine, agreement with ONNX Runtime on the processor, verification and latency, as JSON.

    python examples/gpu/runtimes.py BUNDLE                         # an RTX GPU or a Jetson: `tensorrt`, else `tensorrt_rtx`
    python examples/gpu/runtimes.py BUNDLE --module tensorrt_rtx --calibration CAL.npz --references VER.npz

The bundle is copied first, so nothing of it is changed. A runtime that is not there is skipped with the reason, and the others
go on; the driver's own calls are tried also where none is. Exit status 0: CUDA was there and each runtime that ran agrees; 1: one
does not, or failed; 2: no CUDA.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import shutil
import sys
import tempfile
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import click
import numpy as np

from rrise.calibration.errors import RriseError
from rrise.calibration.tables.references import References
from rrise.edge_sdk import Certifier
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.device.device_calibration import recalibrate
from rrise.edge_sdk.device.verify import verify
from rrise.edge_sdk.errors import RuntimeUnavailable
from rrise.edge_sdk.operate.bench import bench, describe_machine
from rrise.edge_sdk.runtime.base import Outputs, Runtime
from rrise.edge_sdk.runtime.cuda import Driver
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.edge_sdk.runtime.tensorrt import TensorRTRuntime
from rrise.export.on_device import export_tensorrt

SIZE = 1 << 16
"""Bytes that the driver's calls are tried with."""


def compare(mine: Outputs, theirs: Outputs) -> dict[str, Any]:
    """Bit counts and largest differences of two executions' answers to the same frames."""
    result: dict[str, Any] = {
        "frames": len(mine.label),
        "labels flipped": int((mine.label != theirs.label).sum()),
        "not finite": int((~np.isfinite(mine.radius)).sum() + (~np.isfinite(mine.probit)).sum()),
    }
    for name in ("radius", "probit"):
        left, right = getattr(mine, name), getattr(theirs, name)
        apart = left.astype(np.float64) - right.astype(np.float64)
        result[name] = {
            "same bits": int((left.view(np.uint32) == right.view(np.uint32)).sum()),
            "largest increase": float(max(apart.max(), 0.0)),
            "largest decrease": float(max(-apart.min(), 0.0)),
        }
    return result


def examine(
    bundle: Bundle, artefact: str, runtime: Runtime, frames: np.ndarray, packs: dict[str, References]
) -> dict[str, Any]:
    """Agreement, repeatability, calibration and verification of one loaded runtime."""
    bundle.check_graph(artefact, runtime.graph)
    on_cpu = run_all(OnnxRuntime.load(bundle.model(artefact)), frames)
    first, again = run_all(runtime, frames), run_all(runtime, frames)
    result: dict[str, Any] = {
        "execution": runtime.execution.to_json(),
        "note": runtime.note,
        "against the processor": compare(first, on_cpu),
        "against itself": compare(again, first),
    }
    if "calibration" in packs:
        result["margin"] = recalibrate(bundle, artefact, runtime, packs["calibration"]).margin
    if "references" in packs:
        found = verify(bundle, artefact, runtime, packs["references"])
        result["verification"] = {"verdict": str(found.verdict), "sentence": found.sentence}
    return result


def driver_works(driver: Driver) -> dict[str, Any]:
    """The driver's calls that every engine needs, without an engine: copies to, within and from the device, and in a graph."""
    with ExitStack() as stack:
        driver.attach()
        stream, event = driver.stream(), driver.event()
        stack.callback(driver.close_stream, stream)
        stack.callback(driver.close_event, event)
        sent, back = (pinned(driver, stack) for _ in range(2))
        first, second = driver.allocate(SIZE), driver.allocate(SIZE)
        stack.callback(driver.free, first)
        stack.callback(driver.free, second)
        upload, download = driver.upload(first, sent, stream), driver.download(back, second, stream)

        def work() -> None:
            upload()
            driver.copy_on_device(second, first, SIZE, stream)
            download()

        found: dict[str, Any] = {
            "device address": driver.holds(first),
            "host address": driver.holds(sent.ctypes.data),
        }
        graph = driver.capture(stream, work)
        stack.callback(driver.close_graph, graph)
        replay = driver.bound("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))
        for number, (name, run) in enumerate({"copied": work, "replayed": replay}.items(), start=1):
            sent[:], back[:] = np.arange(SIZE) % (250 + number), 0
            driver.wait_for(2, event, stream)
            run()
            driver.synchronize(stream)
            found[name] = bool((sent == back).all())
    expected = {"device address": True, "host address": False, "copied": True, "replayed": True}
    return {**found, "works": found == expected}


def pinned(driver: Driver, stack: ExitStack) -> np.ndarray:
    """SIZE bytes of page-locked memory."""
    address = driver.pinned(SIZE)
    stack.callback(driver.free_pinned, address)
    return np.frombuffer(memoryview((ctypes.c_ubyte * SIZE).from_address(address)), np.uint8)


def device_frames(runtime: TensorRTRuntime, frames: np.ndarray) -> dict[str, Any]:
    """Do frames in GPU memory give the bits of frames from the host? With torch, where it is there."""
    try:
        torch = importlib.import_module("torch")
        tensors = [torch.from_numpy(np.array(frame)).cuda() for frame in frames]
    except (ImportError, RuntimeError, AssertionError) as error:  # AssertionError: built without CUDA
        return {"skipped": f"torch with CUDA: {error}"}
    try:
        there = [runtime.run(runtime.device_frame(tensor)) for tensor in tensors]
        here = [runtime.run(frame[None]) for frame in frames]
    except RriseError as error:
        return {"error": str(error)}
    same = sum(
        a.probit.tobytes() == b.probit.tobytes() and a.radius.tobytes() == b.radius.tobytes()
        for a, b in zip(there, here, strict=True)
    )
    return {"frames": len(frames), "same bits": same}


def latency(bundle: Path, artefact: str, count: int, **options: Any) -> dict[str, Any]:
    """`rrise-edge bench` of one runtime; certificates need not be issued for that."""
    with Certifier.load(bundle, artefact=artefact, allow_unverified=True, **options) as certifier:
        found = bench(certifier, count=count).to_json()
        return {"why": certifier.why, "state": str(certifier.state.state), **found}


def attempt(work: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    """A result, or why there is none: one broken runtime must not hide what the others do."""
    try:
        return dict(work(*arguments, **options))
    except RuntimeUnavailable as error:
        return {"skipped": str(error)}
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything, and the others go on
        return {"error": f"{type(error).__name__}: {error}"}


def with_tensorrt(
    bundle: Bundle, artefact: str, module: str | None, frames: np.ndarray, packs: dict[str, References]
) -> dict[str, Any]:
    """Build the engine, then examine it by CUDA graph and call by call."""
    driver = Driver.open()
    try:
        trt = None if module is None else importlib.import_module(module)
    except ImportError as error:
        raise RuntimeUnavailable(f"{module} is not installed: {error}") from error
    built = export_tensorrt(bundle.path, artefact, trt=trt, driver=driver)
    result: dict[str, Any] = {"engine": built.key.to_json(), "built now": built.built}
    for name, graph in (("as deployed", True), ("without CUDA graph", False)):
        with closing(
            TensorRTRuntime.load(bundle, artefact, trt=trt, driver=driver, cuda_graph=graph)
        ) as runtime:
            result[name] = attempt(examine, bundle, artefact, runtime, frames, packs if graph else {})
            if graph:
                result["device frames"] = attempt(device_frames, runtime, frames[:16])
    return result


def with_cuda(
    bundle: Bundle, artefact: str, frames: np.ndarray, packs: dict[str, References]
) -> dict[str, Any]:
    """ONNX Runtime on CUDA, strict, through bound buffers."""
    with suppress(ImportError):
        importlib.import_module(
            "torch"
        )  # brings CUDA's libraries, which ONNX Runtime finds once they are loaded
    with closing(OnnxRuntime.load(bundle.model(artefact), provider="cuda")) as runtime:
        return examine(bundle, artefact, runtime, frames, packs)


def agrees(result: dict[str, Any]) -> bool:
    """Whether nothing failed, is not finite or not repeatable, or failed its verification; what is not there does not count."""
    runtimes = [result[name] for name in ("tensorrt", "onnxruntime cuda") if name in result]
    if any("error" in runtime for runtime in runtimes) or result.get("works") is False:
        return False
    for name, value in result.items():
        if isinstance(value, dict) and not agrees(value):
            return False
        if name == "not finite" and value:
            return False
        if name == "verdict" and value != "passed":
            return False
        if name in ("as deployed", "without CUDA graph", "device frames") and "error" in value:
            return False
        if name == "device frames" and value.get("same bits") != value.get("frames"):
            return False
        if name == "against itself" and value["radius"]["same bits"] != value["frames"]:
            return False
    return True


def report(
    bundle: Path, artefact: str | None, module: str | None, count: int, packs: dict[str, References]
) -> dict[str, Any]:
    """Everything, on a copy of the bundle."""
    result: dict[str, Any] = {"machine": describe_machine()}
    try:
        driver = Driver.open()
        device = driver.device
    except RriseError as error:
        return {**result, "cuda": None, "reason": str(error)}
    result["cuda"] = {"device": device.architecture, "driver": device.driver}
    result["driver"] = attempt(driver_works, driver)
    with tempfile.TemporaryDirectory() as folder:
        opened = Bundle.open(shutil.copytree(bundle, Path(folder) / "bundle"))
        name = opened.artefact_name(artefact)
        pack = packs.get("references")
        frames = opened.probe.frames if pack is None else pack.frames[:512]
        result["artefact"] = name
        result["tensorrt"] = attempt(with_tensorrt, opened, name, module, frames, packs)
        result["onnxruntime cuda"] = attempt(with_cuda, opened, name, frames, packs)
        result["latency"] = {
            "onnxruntime cpu": attempt(latency, opened.path, name, count, provider="cpu"),
            "onnxruntime cuda": attempt(latency, opened.path, name, count, provider="cuda"),
            "tensorrt": attempt(latency, opened.path, name, count, runtime="tensorrt"),
        }
    return result


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--artefact", help="As in fp32; by default the first calibrated one.")
@click.option(
    "--module", type=click.Choice(["tensorrt", "tensorrt_rtx"]), help="By default whichever is there."
)
@click.option(
    "--calibration", type=click.Path(exists=True, path_type=Path), help="Pack to calibrate each runtime on."
)
@click.option(
    "--references", type=click.Path(exists=True, path_type=Path), help="Pack to verify each runtime with."
)
@click.option("--count", default=2000, show_default=True, help="Rounds of the latency measurement.")
def main(
    bundle: Path,
    artefact: str | None,
    module: str | None,
    calibration: Path | None,
    references: Path | None,
    count: int,
) -> None:
    """Compare runtimes on this GPU; prints one JSON object."""
    chosen = {"calibration": calibration, "references": references}
    packs = {name: References.load(path) for name, path in chosen.items() if path is not None}
    result = report(bundle, artefact, module, count, packs)
    click.echo(json.dumps(result, indent=1))
    sys.exit(2 if result["cuda"] is None else 0 if agrees(result) else 1)


if __name__ == "__main__":
    main()
