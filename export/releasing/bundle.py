"""Writes a bundle: everything into a temporary sibling folder, which takes the bundle's name only when it is whole."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence

import numpy as np

from rrise.calibration.promise.record import Calibration
from rrise.calibration.requirements import installed_versions
from rrise.calibration.storage.digests import file_digest
from rrise.calibration.tables.scores import Scores
from rrise.edge_sdk.bundles.probe import Expected, Probe
from rrise.edge_sdk.bundles.runtime_scores import run_all
from rrise.edge_sdk.formats.manifest import DEVICE_FOLDER, MANIFEST_FILE, Artefact, InputSpec, Manifest
from rrise.edge_sdk.formats.signing import SIGNATURE_FILE
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from rrise.export.errors import ExportError
from rrise.export.gating.compare import Answers
from rrise.export.source import ExportSource

PROBE_FILE = "probe.npz"
REQUIREMENTS_FILE = "requirements.txt"
PROBE_QUANTILES = (1.0, 0.75, 0.5, 0.0)
"""Which verification frames, ordered by radius, become probe frames: certain ones, usual ones and an abstention."""
ROUNDING = 1e-4
"""Share by which the stated norm of crop and resize is above the exact one, for the float32 they are computed in."""
PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch")


@dataclass(frozen=True)
class Product:
    """One precision, ready to be shipped.

    Attributes:
        name: "fp32", "fp16" or "int8".
        model: bytes of the final graph.
        record: its calibration.
        recorded: its scores on the verification frames; answers: the same with radii.
        scored: the scores on the calibration frames that the offset comes from.
    """

    name: str
    model: bytes
    record: Calibration
    recorded: Scores
    answers: Answers
    scored: Scores

    @property
    def file(self) -> str:
        """Path of the graph in the bundle."""
        return "surrogate.onnx" if self.name == "fp32" else f"surrogate.{self.name}.onnx"


@contextmanager
def whole_or_not_at_all(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `out` that is renamed to `out` at the end, or removed after any exception.

    Args:
        replace: an existing bundle at `out` may be replaced. It stays in place until the new one is whole.

    Raises:
        ExportError: `out` exists, holds something that is no bundle or that a device added, or cannot be written.
    """
    _recover(out)
    check_target(out, replace)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ExportError(
            f"{out}: cannot write there ({error.strerror}); choose another folder with --out"
        ) from error
    try:
        yield folder
        _publish(folder, out, replace)
    except OSError as error:
        raise ExportError(
            f"{out}: writing stopped ({error.strerror or error}); nothing was left there. Free some space or choose another "
            "folder with --out"
        ) from error
    finally:
        _remove(folder)


def _recover(out: Path) -> None:
    """Put back the bundle that an export which was killed between two renames had moved aside."""
    if out.exists() or out.is_symlink() or not out.parent.is_dir():
        return
    for aside in sorted(out.parent.glob(f".{out.name}.old.*")):
        if (aside / out.name).exists() and not out.exists():
            os.replace(aside / out.name, out)
            shutil.rmtree(aside, ignore_errors=True)


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step, so that neither is ever missing; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    here, exchange = -100, 2
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def check_target(out: Path, replace: bool) -> None:
    """Raises ExportError where a bundle cannot be put at `out`: before the work, and once more when it is done."""
    if not out.exists() and not out.is_symlink():
        return
    if not replace:
        raise ExportError(f"{out}: exists already; pass --force to replace it, or another folder with --out")
    if not (out / MANIFEST_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(
            f"{out}: exists and is not a bundle, so it is not replaced; choose another folder with --out"
        )
    if (out / DEVICE_FOLDER).exists():
        raise ExportError(
            f"{out}: holds records that a device made ({DEVICE_FOLDER}/), so it is not replaced; move them, or choose --out"
        )


def _publish(folder: Path, out: Path, replace: bool) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)
    folder.chmod(0o755)
    if replace and out.exists() and _exchange(folder, out):
        pass  # what was there is in `folder` now, which is removed
    elif replace and out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
        os.replace(out, old / out.name)
        try:
            os.replace(folder, out)
        except OSError:
            os.replace(old / out.name, out)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    else:
        # Where another export was quicker, the system refuses: a folder with content is never replaced unasked.
        os.replace(folder, out)
    _sync(out.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fill(
    folder: Path, source: ExportSource, products: Sequence[Product], extra: Mapping[str, bytes]
) -> Manifest:
    """Write every file of the bundle into `folder`, the manifest last."""
    for product in products:
        _write(folder / product.file, product.model)
        product.record.save(folder / _calibration_file(product))
        (folder / "recorded").mkdir(exist_ok=True)
        product.recorded.save(folder / _recorded_file(product))
    _probe(source, products).save(folder / PROBE_FILE)
    _write(folder / REQUIREMENTS_FILE, requirements(products).encode())
    for name, data in extra.items():
        _write(folder / name, data)
    manifest = _manifest(source, products, list_files(folder))
    manifest.save(folder / MANIFEST_FILE)
    return manifest


def requirements(products: Sequence[Product]) -> str:
    """What a robot installs, so that its execution is the calibrated one: the runtime in the version of the records.

    A newer one is another execution, on which the bundle issues nothing until `rrise-edge verify` has replayed references.
    """
    lines = sorted({f"{item.record.execution.runtime}=={item.record.execution.version}" for item in products})
    pinned = {"onnxruntime"}
    return (
        "# The runtime that this bundle was calibrated on: python -m pip install -r requirements.txt\n"
        "# rrise itself is in no package index: `make wheel` in its repository builds the file to install.\n"
        + "".join(f"{line}\n" for line in lines if line.partition("==")[0] in pinned)
    )


def list_files(folder: Path) -> Dict[str, str]:
    """Relative path -> SHA-256 of every file of a bundle; manifest, signature and what a device added excepted."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: file_digest(path)
        for name, path in sorted(files.items())
        if name not in (MANIFEST_FILE, SIGNATURE_FILE) and not name.startswith(f"{DEVICE_FOLDER}/")
    }


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _calibration_file(product: Product) -> str:
    return f"calibration/{product.name}.json"


def _recorded_file(product: Product) -> str:
    return f"recorded/{product.name}-verification.npz"


def _probe(source: ExportSource, products: Sequence[Product]) -> Probe:
    order = np.argsort(products[0].answers.radius, kind="stable")
    rows: List[int] = []
    for quantile in PROBE_QUANTILES:
        row = int(order[round(quantile * (len(order) - 1))])
        if row not in rows:
            rows.append(row)
    frames, replay = source.verification.frames[rows], source.replay
    noise = None if replay is None else replay.of(frames)
    return Probe(frames, {product.name: _answers(product, frames, noise) for product in products}, noise)


def _answers(product: Product, frames: np.ndarray, noise: Optional[np.ndarray]) -> Expected:
    """Run as a loader will run them: in another place of a batch a row may differ in its last bit."""
    with closing(OnnxRuntime.load(product.model)) as runtime:
        outputs = run_all(runtime, frames, noise=noise)
    return Expected(outputs.label, outputs.radius, outputs.probit)


def preprocessing_record(source: ExportSource) -> Dict[str, object]:
    """The manifest's preprocessing: the trainer's record and the operator norm, rounded up.

    The map is computed in float32, and one level of a bright pixel is only 2^16 of its steps: rounding alone stretches a
    change by up to 1.5e-5. `ROUNDING` is above that. Where resized pixels are
    rounded to the guarded tier's grid the map is not linear, so no norm and hence no frame radius is stated.
    """
    if source.preprocess.to_json().get("grid"):
        return {**source.preprocess.to_json(), "operator_norm": None}
    return {
        **source.preprocess.to_json(),
        "operator_norm": math.nextafter(source.preprocess.operator_norm() * (1 + ROUNDING), math.inf),
    }


def _manifest(source: ExportSource, products: Sequence[Product], files: Mapping[str, str]) -> Manifest:
    return Manifest(
        sigma=source.sigma,
        class_names=source.class_names,
        input=InputSpec(
            "uint8",
            (products[0].record.execution.batch_size, *source.preprocess.frame_shape),
            "NHWC",
            source.preprocess.encoding,
        ),
        preprocessing=preprocessing_record(source),
        base_digest=source.base_digest,
        surrogate_digest=source.surrogate_digest,
        splits=source.split_digests,
        artefacts={
            product.name: Artefact(product.file, files[product.file], _calibration_file(product))
            for product in products
        },
        probe=PROBE_FILE,
        recorded={product.name: _recorded_file(product) for product in products},
        frame_rate=source.frame_rate,
        versions=versions(),
        files=files,
        guard=source.guarantee.guard,
        replay="" if source.replay is None else source.replay.seed,
        copies=source.copies,
        references={
            pack.split: {"frames": pack.frames_digest, "content": pack.content_digest}
            for pack in (source.calibration, source.verification)
        },
        base=source.base,
    )


def versions() -> Dict[str, str]:
    """Name -> version of rrise and of the packages that a bundle is made with."""
    return installed_versions(("rrise", *PACKAGES))
