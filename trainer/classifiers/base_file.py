"""base.onnx: the base classifier as a file. It is what is counted, audited and verified, and its digest is the base digest.

`rrise-train base` writes it from the trained or the user's own network and compares the two on noisy frames; an ONNX file
that the user brings is taken as it is. A black box, or a network that cannot be written so, is itself the classifier, and
the digest of base.safetensors stands for it, as it does in workspaces from before.
"""

from __future__ import annotations

import copy
import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.digests import file_digest
from rrise.calibration.storage.files import atomic_file, read_json, write_json
from rrise.calibration.storage.formats import check_format
from rrise.calibration.storage.onnx_limits import OPSET
from rrise.trainer.brought.onnx_files import refuse_references
from rrise.trainer.brought.user_code import describe_error
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.folding import fold_batch_norm
from rrise.trainer.montecarlo.onnx_classifier import OnnxClassifier

ONNX_NAME, RECORD_NAME, WEIGHTS_NAME = "base.onnx", "base.json", "base.safetensors"
FORMAT = "rrise-base/1"
TOLERANCE = 1e-3
"""Of logits in float32, in units of the largest one, between the network and its file."""


@dataclass(frozen=True)
class BaseFile:
    """What base.json says.

    onnx, weights: SHA-256 of base.onnx and of base.safetensors. difference: the largest of any logit between the two, over
    `frames` noisy frames, in units of the largest logit; 0 for a file that is the classifier from the beginning.
    """

    onnx: str
    weights: str
    difference: float
    frames: int
    opset: int = OPSET
    format: str = FORMAT


@dataclass(frozen=True)
class NotWritten:
    """Why a network is no ONNX file; it is then counted as a PyTorch module."""

    reason: str


def base_digest(folder: Path) -> str:
    """The digest of the base classifier in a workspace folder, wherever counts and certificates name it.

    Raises:
        TrainerError: there is none, or its files do not belong together.
    """
    weights = _digest(folder / WEIGHTS_NAME)
    found = read_record(folder)
    if found is None:
        return weights
    if found.weights != weights:
        raise TrainerError(
            f"{folder / RECORD_NAME}: belongs to weights {found.weights[:12]}, but {WEIGHTS_NAME} has {weights[:12]}; "
            "restore the file that was changed, or make the base classifier anew with `rrise-train base --again`"
        )
    if _digest(folder / ONNX_NAME) != found.onnx:
        raise TrainerError(
            f"{folder / ONNX_NAME}: missing or changed since it was written (expected SHA-256 {found.onnx}); restore it, "
            "or make the base classifier anew with `rrise-train base --again`"
        )
    return found.onnx


def read_onnx(folder: Path) -> bytes | None:
    """The bytes of base.onnx, those of the base digest; None where the base classifier is no file.

    Raises:
        TrainerError: as `base_digest`.
    """
    wanted, record = base_digest(folder), read_record(folder)
    if record is None:
        return None
    data = (folder / ONNX_NAME).read_bytes()
    if hashlib.sha256(data).hexdigest() != wanted:  # exchanged since a moment ago
        raise TrainerError(f"{folder / ONNX_NAME}: changed while it was read; run the command again")
    return data


def read_record(folder: Path) -> BaseFile | None:
    """base.json, or None where there is none. Raises: TrainerError."""
    path = folder / RECORD_NAME
    if not path.exists():
        return None
    try:
        value = read_json(path, "record of the base classifier")
        check_format(str(path), value["format"], (FORMAT,), "run `rrise-train base --again`", TrainerError)
        return BaseFile(**value)
    except (CalibrationError, KeyError, TypeError) as error:
        raise TrainerError(
            f"{path}: cannot be read ({error!r}); restore it, or make the base classifier anew with `rrise-train base "
            "--again`"
        ) from error


def forget_base(folder: Path) -> None:
    """Before another base classifier is made: the record of the old one must not survive it."""
    (folder / RECORD_NAME).unlink(missing_ok=True)


def record_own(folder: Path) -> BaseFile:
    """Record the base.onnx that the user brought as the base classifier."""
    record = BaseFile(_digest(folder / ONNX_NAME), _digest(folder / WEIGHTS_NAME), 0.0, 0)
    write_json(folder / RECORD_NAME, asdict(record))
    return record


def write(folder: Path, module: nn.Module, noisy: Tensor) -> BaseFile | NotWritten:
    """Write base.onnx and base.json for a network in evaluation mode.

    The network's batch normalisation is folded where that is possible; weights are float32 and inside the file.

    Args:
        noisy: float32 [n, C, H, W], frames plus noise of sigma, n >= 4: what the file is compared on.

    Returns:
        The record; or the reason why there is none, for instance an operator without an ONNX counterpart.
    """
    forget_base(folder)
    found = exported(module, noisy)
    if isinstance(found, NotWritten):
        return found
    data, difference = found
    with atomic_file(folder / ONNX_NAME) as file:
        file.write(data)
    digest = hashlib.sha256(data).hexdigest()
    record = BaseFile(digest, _digest(folder / WEIGHTS_NAME), difference, len(noisy))
    write_json(folder / RECORD_NAME, asdict(record))
    return record


def exported(module: nn.Module, noisy: Tensor) -> tuple[bytes, float] | NotWritten:
    """The bytes of base.onnx for a network, and its largest difference from it on `noisy` (see `write`)."""
    reasons = []
    for exporter in (_by_tracing, _by_export):
        try:
            data = refuse_references(_without_names(exporter(module, noisy[:3])), ONNX_NAME)
            return data, logit_difference(data, module, noisy)
        except Exception as error:  # noqa: BLE001 - exporters raise whatever they like; each failure is a reason
            reasons.append(describe_error(error))
    return NotWritten("; ".join(dict.fromkeys(reasons)))


def logit_difference(data: bytes, module: nn.Module, noisy: Tensor) -> float:
    """Largest difference of logits between an ONNX file and a module on float32 [n, C, H, W], in units of the largest.

    Raises:
        TrainerError: beyond rounding, or another shape.
    """
    classifier = OnnxClassifier(data, threads=1, origin=ONNX_NAME)
    with torch.inference_mode():
        wanted = module(noisy.clone())
    # In two batches of other sizes than the example's: a size that was baked in shows.
    half = len(noisy) // 2 + 1
    parts = [torch.from_numpy(classifier(part.contiguous().numpy())) for part in noisy.split(half)]
    found = torch.cat(parts)
    if found.shape != wanted.shape:
        raise TrainerError(
            f"{ONNX_NAME}: returns {list(found.shape)}, the network {list(wanted.shape)}; expected the same"
        )
    scale = max(float(wanted.abs().max()), 1e-6)
    difference = float((found - wanted).abs().max()) / scale
    if not difference <= TOLERANCE:
        raise TrainerError(
            f"{ONNX_NAME}: logits differ from the network's by {difference:.2g} of the largest one, expected at most "
            f"{TOLERANCE:g}: what the exporter wrote is another function"
        )
    return difference


def _by_tracing(module: nn.Module, example: Tensor) -> bytes:
    """The older exporter: a tenth of the time, and one that newer versions of PyTorch may no longer have."""
    buffer, names = io.BytesIO(), {"x": {0: "batch"}, "logits": {0: "batch"}}
    with _quiet():
        torch.onnx.export(
            _folded(module),
            (example,),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes=names,
        )
    return buffer.getvalue()


def _by_export(module: nn.Module, example: Tensor) -> bytes:
    with _quiet():
        converted = torch.onnx.export(
            _folded(module),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert converted is not None  # only the exporter's dry run returns nothing
    whole: bytes = converted.model_proto.SerializeToString()
    return whole


def _folded(module: nn.Module) -> nn.Module:
    return fold_batch_norm(copy.deepcopy(module).eval().requires_grad_(False))


def _without_names(data: bytes) -> bytes:
    """The model without the places in source files that an exporter notes.

    They differ between machines, and so would the digest.
    """
    import onnx

    model = onnx.load_model_from_string(data)
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    model.doc_string, model.graph.doc_string = "", ""
    whole: bytes = model.SerializeToString(deterministic=True)
    return whole


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about their own future and about packages that are not needed."""
    import logging

    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _digest(path: Path) -> str:
    if not path.is_file():
        raise TrainerError(f"{path}: no such file; run `rrise-train base` first")
    return file_digest(path)
