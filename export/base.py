"""The base classifier that travels in a bundle: base.onnx, who counted it, and what is known of other engines."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.files import read_json
from rrise.calibration.storage.formats import check_format
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.bundled_base import BASE_FILE, BundledBase, EngineAgreement
from rrise.edge_sdk.runtime.onnx_file import refuse_external
from rrise.export.errors import ExportError

if TYPE_CHECKING:
    from rrise.trainer.workspace import Workspace

AGREEMENTS_FILE, AGREEMENTS_FORMAT = "agreement.json", "rrise-agreement/1"


def bundled_base(workspace: "Workspace", base_digest: str) -> Tuple[bytes, BundledBase]:
    """The bytes of base.onnx and what a manifest says of it.

    Raises:
        ExportError: the base classifier is no ONNX file, or refers to another file; or agreement.json cannot be read.
        TrainerError: base.onnx was changed.
    """
    from rrise.trainer.classifiers.base_file import read_onnx
    from rrise.trainer.montecarlo.storage.store import recorded_engines

    data = read_onnx(workspace.path)
    if data is None or hashlib.sha256(data).hexdigest() != base_digest:
        raise ExportError(
            f"--with-base: the base classifier of {workspace.path} is no ONNX file (a black box, or a network that was not"
            " written as base.onnx), expected one whose digest is the base digest; export without --with-base, or make it"
            " with `rrise-train base --again`"
        )
    try:
        refuse_external(data, BASE_FILE)
    except BundleError as error:
        raise ExportError(str(error)) from error
    engines = recorded_engines(workspace.targets_path, base_digest) - {""}
    engine = next(iter(engines)) if len(engines) == 1 else ""
    sigma = workspace.config.smoothing.sigma
    agreements = read_agreements(workspace.path / AGREEMENTS_FILE, base_digest, engine, sigma)
    return data, BundledBase(BASE_FILE, len(data), engine, agreements)


def read_agreements(path: Path, base_digest: str, engine: str, sigma: float) -> Tuple[EngineAgreement, ...]:
    """What `rrise-train agree` found about this base classifier at this sigma, against the engine that counted it.

    Of several splits the tuning frames' comes first, since those of calibration and test may serve something else.

    Raises:
        ExportError: the file is there and cannot be read.
    """
    if not path.exists():
        return ()
    try:
        value = read_json(path, "record of agreements")
        again = "make it anew with `rrise-train agree`"
        check_format(str(path), value["format"], (AGREEMENTS_FORMAT,), again, ExportError)
        entries: List[Any] = sorted(value["agreements"], key=lambda entry: entry["split"] != "tuning")
        found: Dict[str, EngineAgreement] = {}
        for entry in entries:
            wanted = (base_digest, engine, sigma)
            if (entry["base_digest"], entry["first"], entry["sigma"]) == wanted:
                found.setdefault(
                    str(entry["second"]),
                    EngineAgreement(
                        engine=str(entry["second"]),
                        split=str(entry["split"]),
                        draws=int(entry["draws"]),
                        differing=int(entry["differing"]),
                        tolerance=float(entry["tolerance"]),
                        slip=float(entry["slip"]),
                        confidence=float(entry["confidence"]),
                    ),
                )
        return tuple(found.values())
    except (CalibrationError, ValueError, KeyError, TypeError, BundleError) as error:
        raise ExportError(
            f"{path}: cannot be read ({error!r}); make it anew with `rrise-train agree`, or remove it"
        ) from error
