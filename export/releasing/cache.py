"""Converted graphs kept by what they were made from, so that a second export of the same surrogate is quick."""

from __future__ import annotations

import hashlib
import hmac
import importlib
import importlib.metadata
import os
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Optional

import rrise
from rrise.calibration.storage.digests import combined_digest, file_digest, frame_digests, json_digest
from rrise.calibration.storage.files import atomic_file
from rrise.export.errors import ExportError
from rrise.export.source import ExportSource

if TYPE_CHECKING:
    import onnx

_CODE = ("export/lowering", "trainer/networks", "trainer/data")
"""Folders whose code a converted graph depends on."""
_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Cache:
    """A folder of graphs. A damaged or foreign file is simply made again.

    A graph is believed only where its name shows that this user's `export` wrote it: a workspace from elsewhere may bring
    a cache with it, and the gate allows an int8 graph to differ from PyTorch by more than a graph that was made to deceive
    needs. What comes out goes through the gate like everything else.
    """

    folder: Optional[Path]

    def graph(self, key: str, make: "Callable[[], onnx.ModelProto]") -> "onnx.ModelProto":
        """The graph stored under `key`, or a new one from `make`."""
        import onnx

        if self.folder is None:
            return make()
        for path in self.folder.glob(f"{key}-*.onnx"):
            data = path.read_bytes()
            if hmac.compare_digest(path.stem, f"{key}-{_seal(key, data)}"):
                return onnx.load_from_string(data)
            path.unlink(missing_ok=True)
        model = make()
        data = model.SerializeToString(deterministic=True)
        with atomic_file(self.folder / f"{key}-{_seal(key, data)}.onnx") as file:
            file.write(data)
        return model


NO_CACHE = Cache(None)


def _seal(key: str, data: bytes) -> str:
    """What only this user's exports can compute."""
    return hmac.new(_secret(), key.encode() + b"\n" + data, hashlib.sha256).hexdigest()[:32]


@lru_cache(maxsize=1)
def _secret() -> bytes:
    """32 random bytes in this user's cache folder; where they cannot be kept there, others in every process."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rrise"
    path = folder / "export.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
        except FileExistsError:
            pass
        kept = path.read_bytes()
    except OSError:
        kept = b""
    return kept if len(kept) == 32 else secrets.token_bytes(32)


def conversion_key(source: ExportSource, precision: str, batch_size: int) -> str:
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
    files = [path for name in _CODE for path in sorted((root / name).rglob("*.py"))]
    if not all((root / name).is_dir() for name in _CODE):
        raise ExportError(
            f"{root}: got no {', '.join(_CODE)} there, expected rrise's own code; install it again"
        )
    return combined_digest(file_digest(path) for path in files)
