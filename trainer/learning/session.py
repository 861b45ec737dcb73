"""Where, in what precision, with whom and until when the trainings of one command run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from rrise.trainer.learning.clock import Clock
from rrise.trainer.learning.hardware import choose_device
from rrise.trainer.learning.journal import Hook, Journal, open_hook
from rrise.trainer.montecarlo.distributed import Team, team


@dataclass(frozen=True)
class Session:
    """What the trainings of one command share. Nothing here is asked of the weights, though some of it moves them.

    folder: for checkpoints and logs; None keeps neither. precision: as asked, see `hardware.choose_precision`.
    save_every: seconds of work that a kill may cost. again: an unfinished training of other settings is thrown away
    instead of refused.
    """

    device: torch.device
    folder: Path | None
    precision: str = "auto"
    compile: bool = False
    save_every: float = 120.0
    clock: Clock = field(default_factory=Clock)
    hook: Hook | None = None
    crew: Team = field(default_factory=lambda: Team(0, 1))
    again: bool = False

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.crew.rank == 0

    def checkpoint(self, stage: str) -> Path | None:
        """Where an unfinished training of a stage continues from."""
        return None if self.folder is None else self.folder / "checkpoints" / f"{stage}.safetensors"

    def journal(self, stage: str, label: str) -> Journal:
        """The journal of a stage; only the first process writes one."""
        if self.folder is None or not self.first:
            return Journal(stage, label)
        return Journal(stage, label, self.folder / "log" / f"{stage}.jsonl", self.hook)

    def finish(self, stage: str) -> None:
        """Remove the checkpoint of a stage, whose outcome is kept now."""
        path = self.checkpoint(stage)
        if path is not None and self.first:
            path.unlink(missing_ok=True)


def open_training_session(
    folder: Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    checkpoint_minutes: float = 2.0,
    viewer: str = "",
    minutes: float | None = None,
    again: bool = False,
) -> Session:
    """A session for the trainings of a workspace folder.

    minutes: how long this command may work; it then stops with everything saved.

    Raises TrainerError where the device is not there, the viewer is not installed, or processes do not find each other.
    """
    crew = team()
    chosen = choose_device(device)
    hook = open_hook(viewer, folder) if folder is not None and crew.rank == 0 else None
    return Session(
        crew.device(chosen) if chosen.type == "cuda" else chosen,
        folder,
        precision,
        compile,
        60.0 * checkpoint_minutes,
        Clock(minutes),
        hook,
        crew,
        again,
    )
