"""Small helpers of the trainer's tests."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from rrise.trainer.workspace import Workspace


def copied(workspace: Path, tmp_path: Path) -> Workspace:
    """A copy of the shared workspace that a test may change."""
    return Workspace.open(shutil.copytree(workspace, tmp_path / "copy"))


def edit(workspace: Workspace, old: str, new: str) -> Workspace:
    """The workspace after replacing `old`, which must be there, by `new` in its rrise.toml."""
    path = workspace.path / "rrise.toml"
    # Settings as they are parsed, without what explains them.
    text = re.sub(r"^#.*\n|  #.*$", "", path.read_text(), flags=re.MULTILINE)
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return Workspace.open(workspace.path)
