"""Several trainings of one command: each that is finished is kept until all of them are, so that none is made twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from rrise.trainer.learning.engine import Trained
from rrise.trainer.learning.session import Session
from rrise.trainer.networks.files import (
    differences,
    load_weights,
    read_header,
    read_safetensors,
    save_network,
    with_defaults,
)


class Kept:
    """Finished trainings of a session, by stage.

    settings: what decides them all; those of others are made again. defaults: of settings that a training of an older version
    does not name.
    """

    def __init__(
        self, session: Session, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> None:
        self._session, self._settings, self._defaults = session, dict(settings), dict(defaults or {})
        self._paths: list[Path] = []

    def network(
        self, stage: str, spec: Mapping[str, Any], module: nn.Module, run: Callable[[nn.Module], Trained]
    ) -> Trained:
        """Train `module`, or give it the weights of the training that was finished before."""
        path = self._path(stage)
        if path is not None and path.exists():
            _, found = read_header(path)
            if not any(differences(with_defaults(found, self._defaults), self._settings)):
                load_weights(module, read_safetensors(path)[0], str(path))
                module.eval().to(self._session.device)
                return Trained(**found["trained"])
        trained = run(module)
        if path is not None and self._session.first:
            save_network(path, module, spec, {**self._settings, "trained": asdict(trained)})
        self._session.finish(stage)
        return trained

    def _path(self, stage: str) -> Path | None:
        checkpoint = self._session.checkpoint(stage)
        if checkpoint is None:
            return None
        path = checkpoint.with_name(f"{stage}.finished.safetensors")
        self._paths.append(path)
        return path

    def clear(self) -> None:
        """Remove what was kept: the command's own result is saved now."""
        self._session.crew.wait()
        for path in self._paths if self._session.first else ():
            path.unlink(missing_ok=True)
