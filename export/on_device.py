"""`rrise-export tensorrt`: build, calibrate and check an engine on the device that will run it.

Needs numpy, click and TensorRT only: no torch, no onnx, no scipy.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any, Optional

from rrise.calibration.storage.digests import PathLike
from rrise.calibration.tables.references import References
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.device.device_calibration import DeviceCalibration, recalibrate
from rrise.edge_sdk.device.verify import Verification, verify
from rrise.edge_sdk.formats.signing import Trust
from rrise.edge_sdk.runtime.cuda import Driver
from rrise.edge_sdk.runtime.engines import (
    EngineKey,
    engine_folder,
    engine_key,
    import_tensorrt,
    load_engine,
    save_engine,
    stale_engines,
)
from rrise.edge_sdk.runtime.tensorrt import TensorRTRuntime
from rrise.export.errors import ExportError
from rrise.export.lowering.engine import announce, build_engine

TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class EngineResult:
    """An engine that is ready on this device.

    Attributes:
        built: whether it was built now, or found.
        calibration: this device's own record; None where no calibration references were given.
        verification: the replay; None where no verification references were given. A failed one is False.
    """

    key: EngineKey
    built: bool
    calibration: Optional[DeviceCalibration]
    verification: Optional[Verification]

    def __bool__(self) -> bool:
        return self.verification is None or bool(self.verification)


def export_tensorrt(
    bundle: PathLike,
    artefact: str = "fp32",
    *,
    calibration: Optional[References] = None,
    verification: Optional[References] = None,
    rebuild_stale: bool = True,
    trust: Optional[Trust] = None,
    trt: Optional[Any] = None,
    driver: Optional[Driver] = None,
) -> EngineResult:
    """Build the engine of one artefact here, or take the one that is there, then calibrate and verify it.

    Args:
        calibration: references of split "calibration"; the engine's own margin is fitted on them. Without them, and
            without `verification`, the engine stays unverified and issues no certificate.
        verification: references of split "verification", replayed on the engine.
        rebuild_stale: whether an engine is built although there is one for another file, TensorRT, GPU or driver.
        trust: whose signatures are asked for.
        trt, driver: for tests; by default what the machine has.

    Raises:
        RuntimeUnavailable: no CUDA driver or device, or no TensorRT; says what was found.
        ExportError: TensorRT refuses the graph, only a stale engine is there and it may not be rebuilt, or the bundle is
            of the guarded tier.

    **Guarantee**: that of the bundle, for this engine, once it is calibrated here.
    """
    opened = Bundle.open(bundle, trust=trust)
    name = opened.artefact_name(artefact)
    if opened.manifest.guard is not None:
        raise ExportError(
            f"{bundle}: got a bundle of the guarded tier, expected a plain one: engines do not take its noise yet; run it with "
            "ONNX Runtime, which every bundle has a graph for"
        )
    # Asked before TensorRT is touched: without a driver its objects crash the process when they are freed.
    driver = driver or Driver.open()
    trt = trt or import_tensorrt()
    key = engine_key(opened, name, trt, driver.device)
    built = _ensure_engine(opened, key, trt, rebuild_stale)
    with closing(TensorRTRuntime.load(opened, name, trt=trt, driver=driver)) as runtime:
        fitted = None if calibration is None else recalibrate(opened, name, runtime, calibration)
        replayed = None if verification is None else verify(opened, name, runtime, verification)
    return EngineResult(key, built, fitted, replayed)


def _ensure_engine(bundle: Bundle, key: EngineKey, trt: Any, rebuild_stale: bool) -> bool:
    if load_engine(bundle, key) is not None:
        return False
    stale = stale_engines(bundle, key)
    if stale and not rebuild_stale:
        raise ExportError(
            f"{engine_folder(bundle)}: has only {', '.join(stale)}, built for another file, TensorRT, GPU or driver; "
            "expected an engine for this device; run again without --refuse-stale to build one"
        )
    announce(key)
    plan = build_engine(
        trt, bundle.model(key.artefact), key, timing_cache=engine_folder(bundle) / TIMING_CACHE
    )
    save_engine(bundle, key, plan)
    return True
