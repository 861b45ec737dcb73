"""What a training says while it runs: a progress line, JSON lines in the workspace, and one hook for other viewers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from rrise.calibration.console import Progress
from rrise.calibration.requirements import install
from rrise.trainer.errors import TrainerError

Hook = Callable[[str, int, dict[str, float]], None]
"""Takes the stage ("base"), the number of steps done, and values by name."""

VIEWERS = ("", "tensorboard", "wandb")


def open_hook(viewer: str, folder: Path) -> Hook | None:
    """The hook of a viewer: "" (none), "tensorboard" (event files below `folder`) or "wandb" (Weights & Biases).

    Raises TrainerError where the viewer's package is missing.
    """
    if viewer not in VIEWERS:
        raise TrainerError(
            f"[training] viewer: got {viewer!r}, expected one of {', '.join(VIEWERS[1:])} or nothing"
        )
    if viewer == "tensorboard":
        return _tensorboard(folder)
    return _wandb(folder) if viewer == "wandb" else None


def _tensorboard(folder: Path) -> Hook:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _missing("tensorboard") from error
    writers: dict[str, SummaryWriter] = {}

    def hook(stage: str, step: int, values: dict[str, float]) -> None:
        if stage not in writers:
            writers[stage] = SummaryWriter(str(folder / "tensorboard" / stage))
        for name, value in values.items():
            writers[stage].add_scalar(name, value, step)
        writers[stage].flush()

    return hook


def _wandb(folder: Path) -> Hook:
    try:
        import wandb
    except ImportError as error:
        raise _missing("wandb") from error
    run = wandb.init(project="rrise", name=folder.resolve().name, dir=str(folder), resume="allow")

    def hook(stage: str, step: int, values: dict[str, float]) -> None:
        run.log({f"{stage}/{name}": value for name, value in values.items()} | {f"{stage}/step": step})

    return hook


def _missing(package: str) -> TrainerError:
    return TrainerError(
        f"[training] viewer: {package} is not installed: {install(package)}, or leave the viewer empty "
        "(the same values are in the workspace's log folder)"
    )


class Journal:
    """Progress of one stage.

    stage: a short name such as "base"; label: what people read. path: JSON lines to add to, or None. total: steps.
    """

    def __init__(self, stage: str, label: str, path: Path | None = None, hook: Hook | None = None) -> None:
        self.stage, self.label, self._path, self._hook = stage, label, path, hook
        self._progress = Progress(1, "frames", label)

    def open(self, total: int, done: int) -> Journal:
        """Count `total` frames, of which `done` were seen before."""
        self._progress = Progress(total - done, "frames", self.label)
        self._progress.__enter__()
        return self

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def advance(self, frames: int) -> None:
        """So many further frames were seen."""
        self._progress.advance(frames)

    def write(self, step: int, **values: float) -> None:
        """Enter values after `step` steps, and show them beside the progress line."""
        shown = "".join(
            f", {name.replace('_', ' ')} {value:.3g}" for name, value in values.items() if name in SHOWN
        )
        self._progress.label = self.label + shown
        if self._hook is not None:
            self._hook(self.stage, step, values)
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = {"time": round(time.time(), 3), "stage": self.stage, "step": step, **values}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


SHOWN = ("loss", "noisy_accuracy", "agreement")
