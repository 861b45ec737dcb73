"""Converted graphs kept by what they were made from, so that a second export of the same surrogate is quick."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Optional

import rrise
from rrise.calibration.storage.digests import combined_digest, file_digest, frame_digests, json_digest
from rrise.calibration.storage.files import atomic_file
from rrise.export.source import Source

if TYPE_CHECKING:
    import onnx

_CODE = (
    "export/lowering/lower.py",
    "export/lowering/precision.py",
    "export/lowering/guarded.py",
    "trainer/networks.py",
    "trainer/data/preprocess.py",
)
_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Cache:
    """A folder of graphs. A damaged or foreign file is simply made again.

    What comes out goes through the gate like everything else, so the cache can cost time but not soundness.
    """

    folder: Optional[Path]

    def graph(self, key: str, make: "Callable[[], onnx.ModelProto]") -> "onnx.ModelProto":
        """The graph stored under `key`, or a new one from `make`."""
        import onnx

        if self.folder is None:
            return make()
        for path in self.folder.glob(f"{key}-*.onnx"):
            if path.stem == f"{key}-{file_digest(path)[:32]}":
                return onnx.load(path)
            path.unlink(missing_ok=True)
        model = make()
        data = model.SerializeToString(deterministic=True)
        with atomic_file(self.folder / f"{key}-{_short(data)}.onnx") as file:
            file.write(data)
        return model


NO_CACHE = Cache(None)


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def conversion_key(source: Source, precision: str, batch_size: int) -> str:
    """Digest of everything that the converted graph depends on: weights, preprocessing, frames, tools and code."""
    tuning = combined_digest(frame_digests(source.tuning.frames).tolist()) if precision == "int8" else ""
    made_from = {
        "surrogate": source.surrogate_digest,
        "preprocessing": source.preprocess.to_json(),
        "precision": precision,
        "batch_size": batch_size,
        "tuning": tuning,
        "tools": _versions(),
        "code": _code_digest(),
    }
    if source.replay is not None:
        made_from["guarded"] = source.replay.seed
    return json_digest(made_from)[:32]


def _versions() -> Dict[str, str]:
    return {tool: _version(tool) for tool in _TOOLS}


def _version(tool: str) -> str:
    try:
        return importlib.metadata.version(tool)
    except (
        importlib.metadata.PackageNotFoundError
    ):  # its distribution has another name, as onnxruntime-gpu has
        return str(importlib.import_module(tool).__version__)


def _code_digest() -> str:
    root = Path(rrise.__file__).parent
    return combined_digest(file_digest(root / name) for name in _CODE)
