"""Messages name packages that an index has, in the versions that pyproject.toml asks for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rrise.calibration import requirements
from rrise.calibration.requirements import MODULES, REQUIRED, TRAINING, install, missing

ROOT = Path(__file__).resolve().parents[2]


def test_versions_are_those_of_pyproject() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {line.split(";")[0].strip() for lines in extras.values() for line in lines}
    assert {line for name, line in REQUIRED.items() if name != "tensorrt"} <= asked
    assert all(re.split("[<>=]", line)[0] == name for name, line in REQUIRED.items())


def test_no_message_sends_its_reader_to_an_index_that_has_no_rrise() -> None:
    """`pip install rrise[...]` works only with the wheel's file name before the bracket."""
    wrong = re.compile(r"pip install [^\n]*(?<![-\w./])rrise\[")
    pages = [
        p
        for top in ("calibration", "edge_sdk", "export", "trainer", "docs", "examples")
        for p in (ROOT / top).rglob("*")
    ]
    pages = [p for p in (*pages, ROOT / "README.md") if p.suffix in (".py", ".md")]
    assert len(pages) > 200
    assert not [str(page) for page in pages if wrong.search(page.read_text())]
    assert wrong.search("pip install 'rrise[train]'") and not wrong.search(
        "pip install dist/rrise-1-any.whl[train]"
    )


def test_the_command_installs_what_it_names() -> None:
    assert install("mcap", "rosbags") == "`python -m pip install 'mcap>=1.1' 'rosbags>=0.10'`"


def test_training_modules_are_those_of_the_extra() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
    assert [MODULES.get(name, name) for name in TRAINING] == [re.split("[<>=;]", line)[0] for line in extra]


def test_all_that_training_lacks_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"torch", "zarr", "sklearn"}
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name in absent else object())
    assert install("torch", "zarr", "scikit-learn") in missing("torch")
    assert missing("scipy").endswith(install("scipy")), "reports need no PyTorch"
    assert install("pillow") in missing("PIL.Image")
    assert missing("robot_code") == ""
