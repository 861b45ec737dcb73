"""`rrise-train base` and `surrogate` under torchrun: two processes share every batch, and one of them writes and speaks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.trainer.helpers import copied

LAUNCHER = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
LONGEST = 240
"""Seconds, many times what it takes."""


def train(path: Path, stage: str, processes: int) -> str:
    launcher = LAUNCHER if processes > 1 else ()
    command = [sys.executable, "-m", *launcher, "rrise.trainer.cli", stage, str(path), "--again"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LONGEST, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("stage", ["base", "surrogate"])
def test_two_processes_train_as_well_as_one(stage: str, workspace: Path, tmp_path: Path) -> None:
    """Each draws the noise of its half of a batch, so that the networks differ, but not in what they have learned."""
    losses, names = [], []
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        made = copied(workspace, tmp_path / str(processes))
        shutil.rmtree(made.path / "log", ignore_errors=True)
        said = train(made.path, stage, processes)
        assert said.count(f"{stage}.safetensors") <= 1, "the summary is printed by one process"
        last = [file.read_text().splitlines()[-1] for file in sorted((made.path / "log").glob("*.jsonl"))]
        losses.append([json.loads(line)["loss"] for line in last])
        names.append(set(load_file(made.path / f"{stage}.safetensors")))
    assert names[0] == names[1] and losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.25)
