"""Engines of a bundle on this device: where they lie, what they were built from, and that they are still the same.

An engine is bound to its ONNX file twice: by `network.name` inside the plan, and by the sealed record beside it.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from rrise.calibration.storage.digests import json_digest
from rrise.calibration.storage.files import atomic_file
from rrise.calibration.storage.formats import check_format
from rrise.edge_sdk.errors import BundleError, RuntimeUnavailable
from rrise.edge_sdk.formats.manifest import DEVICE_FOLDER
from rrise.edge_sdk.formats.sealed import write_sealed
from rrise.edge_sdk.runtime.cuda import Device

if TYPE_CHECKING:
    from rrise.edge_sdk.bundles.bundle import Bundle

FOLDER = "engines"
MODULES = ("tensorrt", "tensorrt_rtx")
FORMAT = "rrise-engine/1"


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on; another key is another engine.

    Attributes:
        artefact: its name in the bundle; onnx: SHA-256 of its ONNX file.
        module, version: "tensorrt" or "tensorrt_rtx", and its version.
        capability: compute capability, as in "8.7"; device: the GPU's name; driver: its version.
        shape: of the `frame` tensor.
    """

    artefact: str
    onnx: str
    module: str
    version: str
    capability: str
    device: str
    driver: str
    shape: Tuple[int, ...]

    @property
    def name(self) -> str:
        """File name of the engine, without suffix."""
        return f"{self.artefact}-{json_digest(self.to_json())[:16]}"

    def to_json(self) -> Dict[str, Any]:
        return dict(asdict(self), shape=list(self.shape))


def import_tensorrt() -> Any:
    """The module `tensorrt`, or `tensorrt_rtx`, which has the same interface.

    Raises:
        RuntimeUnavailable: neither is installed.
    """
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise RuntimeUnavailable(
        "TensorRT is not installed: it comes with JetPack (10.3 or newer); on a PC with an RTX GPU "
        "`pip install tensorrt-rtx-cu13`"
    )


def started(make: Callable[[], Any], key: EngineKey) -> Any:
    """What `make` creates: TensorRT's builder or runtime, the first objects of it that need the GPU.

    Raises:
        RuntimeUnavailable: there is none, as with a driver that is too old for this TensorRT; says what was found.
    """
    try:
        made, why = make(), "it returned nothing"
    except (TypeError, RuntimeError) as error:  # the bindings raise a TypeError about a null pointer
        made, why = None, str(error)
    if made is None:
        raise RuntimeUnavailable(
            f"{key.module} {key.version} does not start on {key.device} with a driver for CUDA {key.driver} ({why}): the driver"
            " is probably too old for it; install the driver that this TensorRT asks for, or an older TensorRT (10.3 or newer)"
        )
    return made


def engine_key(bundle: Bundle, artefact: str, trt: Any, device: Device) -> EngineKey:
    """The key of the engine that `artefact` has on this device with this TensorRT."""
    return EngineKey(
        artefact=artefact,
        onnx=bundle.manifest.artefacts[artefact].sha256,
        module=trt.__name__,
        version=trt.__version__,
        capability=f"{device.capability[0]}.{device.capability[1]}",
        device=device.name,
        driver=device.driver,
        shape=bundle.manifest.input.shape,
    )


def engine_folder(bundle: Bundle) -> Path:
    """Where the engines built on this device lie."""
    return bundle.path / DEVICE_FOLDER / FOLDER


def save_engine(bundle: Bundle, key: EngineKey, plan: bytes) -> None:
    """Write the plan, then the record that names its digest; each appears whole or not at all."""
    folder = engine_folder(bundle)
    with atomic_file(folder / f"{key.name}.plan") as file:
        file.write(plan)
    record = {"format": FORMAT, "key": key.to_json(), "plan": hashlib.sha256(plan).hexdigest()}
    write_sealed(folder / f"{key.name}.json", record)


def load_engine(bundle: Bundle, key: EngineKey) -> Optional[bytes]:
    """The plan for exactly this key, or None where there is none.

    Raises:
        BundleError: there is one, but plan and record do not belong together.
    """
    folder = engine_folder(bundle)
    record_file, plan_file = folder / f"{key.name}.json", folder / f"{key.name}.plan"
    if not plan_file.is_file():
        return None
    record = bundle.device_record(record_file, "engine record")
    if record is None:
        return None
    check_format(
        str(record_file), record.get("format"), (FORMAT,), "run `rrise-export tensorrt` again", BundleError
    )
    plan = plan_file.read_bytes()
    if record.get("key") != key.to_json() or record.get("plan") != hashlib.sha256(plan).hexdigest():
        raise BundleError(
            f"{plan_file}: was changed after it was built; remove it and run `rrise-export tensorrt` again"
        )
    return plan


def stale_engines(bundle: Bundle, key: EngineKey) -> List[str]:
    """Names of engines of the same artefact that were built for something else: another file, TensorRT, GPU or driver."""
    found = engine_folder(bundle).glob(f"{key.artefact}-*.plan")
    return sorted(path.name for path in found if path.stem != key.name)
