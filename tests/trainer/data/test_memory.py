"""`init` reads pictures one by one: its memory does not grow with their number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FEW, MANY = 32, 320
SHAPE = (480, 640, 3)
SCRIPT = """
import resource, sys
from click.testing import CliRunner
from rrise.trainer.cli import main
done = CliRunner().invoke(main, ["init", sys.argv[1], "--data", sys.argv[2]])
assert done.exit_code == 0, done.output
print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def pictures(folder: Path, count: int) -> Path:
    ramp = np.linspace(0, 255, SHAPE[1]).astype(np.uint8)[None, :, None] // 2
    for number in range(count):
        part = folder / "ab"[number % 2]
        part.mkdir(parents=True, exist_ok=True)
        frame = np.broadcast_to(ramp + number % 120, SHAPE).copy()
        frame[: 1 + number] ^= 128
        Image.fromarray(frame).save(part / f"{number:04d}.jpg", quality=80)
    return folder


def peak(workspace: Path, data: Path) -> int:
    """Bytes that `init` holds at most, in the largest of its processes."""
    command = [sys.executable, "-c", SCRIPT, str(workspace), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return 1024 * int(done.stdout.split()[-1])


@pytest.mark.long
def test_init_holds_no_more_for_ten_times_the_pictures(tmp_path: Path) -> None:
    few = peak(tmp_path / "w1", pictures(tmp_path / "few", FEW))
    many = peak(tmp_path / "w2", pictures(tmp_path / "many", MANY))
    raw = (MANY - FEW) * np.prod(SHAPE)
    assert many - few < raw / 5, (few, many, raw)
