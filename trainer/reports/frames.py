"""Some frames of a split as pictures: of each kind a few, so that a reader sees what is certified and what goes wrong."""

from __future__ import annotations

import base64
import io

import numpy as np

from rrise.calibration.reports.page import FramePicture
from rrise.calibration.tables.evaluation import Judged
from rrise.calibration.tables.references import References
from rrise.calibration.tables.scores import Scores
from rrise.trainer.errors import TrainerError
from rrise.trainer.workspace import Workspace

EACH = 3
"""Pictures of each kind."""
SIDE = 192
"""Longest side of a picture on the page, in pixels."""


def chosen(judged: Judged) -> list[int]:
    """Rows of the frames to show, each once.

    Certified with a wrong label, with too large a radius, not certified, and certified rightly with the largest, a middling
    and the smallest radius.
    """
    wrong = (judged.label != judged.target) & (judged.target >= 0)
    right = judged.issued & judged.holds & ~wrong
    by_radius = np.argsort(-judged.radius, kind="stable")
    kinds = (
        judged.issued & wrong,
        judged.issued & ~judged.holds,
        ~judged.issued & wrong,
        ~judged.issued & ~wrong,
    )
    rows: list[int] = []
    for kind in kinds:
        rows += [int(row) for row in by_radius if kind[row] and row not in rows][:EACH]
    sound = [int(row) for row in by_radius if right[row] and row not in rows]
    places = [0, len(sound) // 2, len(sound) - 1] if len(sound) > EACH else range(len(sound))
    return rows + [sound[place] for place in places]


def pictures(workspace: Workspace, table: Scores, judged: Judged) -> list[FramePicture]:
    """The chosen frames of the table's split as the camera delivers them, with what is said of each.

    Raises TrainerError where the frames are gone, and with them the reference pack.
    """
    rows = chosen(judged)
    frames = _frames(workspace, table, rows)
    swapped = workspace.preprocess.encoding == "bgr8"
    return [
        _picture(frame[:, :, ::-1] if swapped else frame, table, judged, row)
        for frame, row in zip(frames, rows, strict=True)
    ]


def _frames(workspace: Workspace, table: Scores, rows: list[int]) -> list[np.ndarray]:
    """Frames uint8 [H, W, C]: from the data, or from the reference pack where the data are not here."""
    digests = table.digest[rows]
    if workspace.data.source is not None:
        numbers = workspace.splits.indices(table.split)
        place = {
            digest: int(number)
            for digest, number in zip(workspace.splits.digests[numbers], numbers, strict=True)
        }
        if all(digest in place for digest in digests):
            return list(
                np.asarray(workspace.dataset.take(np.array([place[digest] for digest in digests], int)))
            )
    pack = References.load(workspace.references_path(table.split))
    found = dict(zip(pack.digest, pack.frames, strict=True))
    if not all(digest in found for digest in digests):
        raise TrainerError(
            f"the {table.split} frames are other ones than those that were scored; calibrate again"
        )
    return [found[digest] for digest in digests]


def _picture(frame: np.ndarray, table: Scores, judged: Judged, row: int) -> FramePicture:
    name, target = table.class_names[judged.label[row]], int(judged.target[row])
    true = table.class_names[target] if target >= 0 else "unknown"
    radius = float(judged.radius[row])
    wrong_label = target >= 0 and int(judged.label[row]) != target
    said = name if not wrong_label else f"{name}, truly {true}"
    lines = [f"label {said}", f"radius {radius:.3g}" if radius else "radius 0"]
    if not radius:
        kind, title = "none", "no certificate"
    elif not judged.holds[row]:
        kind, title = "bad", "radius too large"
    elif wrong_label:
        kind, title = "bad", "certified, wrong label"
    else:
        kind, title = "good", "certified"
    if wrong_label and not radius:
        title = "no certificate, wrong label"
    return FramePicture(address(frame), kind, title, tuple(lines), pixels=max(frame.shape[:2]) <= SIDE // 3)


def address(frame: np.ndarray) -> str:
    """A frame uint8 [H, W, C] of C = 1 or 3 as the address of an image, made smaller where it is large."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame[:, :, 0] if frame.shape[2] == 1 else frame))
    large = max(image.size) > SIDE
    if large:
        image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    if large:
        image.save(stream, "JPEG", quality=85)
    else:
        image.save(stream, "PNG")
    kind = "jpeg" if large else "png"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
