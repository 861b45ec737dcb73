"""The tutorials, executed: their commands as they stand on the page, in an empty folder."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.docs.test_pages import PACKAGES, ROOT
from tests.programs import run_command

QUICK = {
    "epochs": "12", "stored_epochs": "2", "train": "100", "tuning": "100", "calibration": "200", "verification": "100",
    "audit": "200", "certify": "[100]", "method": '"fresh"',
}  # fmt: skip
"""Settings that make a tutorial a matter of seconds."""


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / "pages" / "tutorials" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(line: str, folder: Path) -> str:
    """One command line of a page, in the process of the tests."""
    name, *words = line.split()
    done = run_command(f"rrise.{PACKAGES[name]}.cli", *words, cwd=folder)
    assert done.status == 0, f"{line}\n{done.output}\n{done.errors}"
    return done.output


def quicken(settings: Path) -> None:
    splits, text = settings.read_text(encoding="utf-8").split("[base]")
    for key, value in QUICK.items():
        # Of the keys that have this name, those that hold a value of this kind.
        kind = "[0-9]" if value[0].isdigit() else re.escape(value[0])
        text = re.sub(rf"^{key} = {kind}.*$", f"{key} = {value}", text, flags=re.MULTILINE)
    settings.write_text(f"{splits}[base]{text}", encoding="utf-8")


def save_pictures(folder: Path, count: int) -> None:
    """Scikit-learn's digits as PNG files, one folder for each class."""
    image = pytest.importorskip("PIL.Image")
    from rrise.trainer.data import load_digits

    digits = load_digits()
    for number in range(count):
        path = folder / digits.class_names[digits.labels[number]] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.asarray(digits.frames[number])[:, :, 0]).save(path)


@pytest.mark.long
def test_i_have_images(tmp_path: Path) -> None:
    save_pictures(tmp_path / "my_images", 600)
    for line in "".join(blocks("images.md", "sh")).splitlines():
        run(line, tmp_path)
        if line.startswith("rrise-train init"):
            quicken(tmp_path / "runs" / "mine" / "rrise.toml")
    program = blocks("images.md", "python")[0]
    start = "import numpy as np\nframe = np.zeros((8, 8, 1), np.uint8)\n"
    done = subprocess.run(
        [sys.executable, "-c", start + program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0 and done.stdout, done.stderr


def test_i_have_a_classifier(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from rrise.trainer.settings.config import load_config

    shutil.copy(ROOT / "examples" / "own_classifier.py", tmp_path / "my_package.py")
    sys.path.insert(0, str(tmp_path))
    try:
        import my_package
    finally:
        sys.path.pop(0)
    save_pictures(tmp_path / "my_images", 300)
    save_file(my_package.make().state_dict(), tmp_path / "classifier.safetensors")
    for line in "".join(blocks("classifier.md", "sh")).splitlines():
        run(line, tmp_path)
    assert (tmp_path / "runs" / "own" / "base.safetensors").exists()
    settings = tmp_path / "runs" / "own" / "rrise.toml"
    text = settings.read_text(encoding="utf-8")
    for block in blocks("classifier.md", "toml"):
        lines = re.findall(r'^(\w+) = (".*?")', block, re.MULTILINE)
        assert lines
        asked = (
            text
            if block.startswith("[base]\ntrain")
            else re.sub('(?m)^(factory|weights) = ".*?"', r'\1 = ""', text)
        )
        for key, value in lines:
            asked, times = re.subn(rf'(?m)^{key} = ".*?"', f"{key} = {value}", asked, count=1)
            assert times == 1, key
        settings.write_text(asked, encoding="utf-8")
        load_config(settings)


def test_i_have_a_robot_and_a_bundle(bundle: Path, workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    for split in ("calibration", "verification"):
        shutil.copy(workspace / "references" / f"{split}.npz", tmp_path)
    for line in "".join(blocks("robot.md", "sh")).splitlines():
        if not line.startswith("rrise-edge watch"):  # which needs a camera
            run(line, tmp_path)
    compile(blocks("robot.md", "python")[0], "robot.md", "exec")
