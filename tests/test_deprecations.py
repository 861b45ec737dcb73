"""Deprecations: none is overdue, each is warned about where it is used, and each is on the page about upgrading."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from rrise.deprecations import DEPRECATIONS, overdue
from rrise.names import present_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pages" / "how-to" / "upgrade.md").read_text(encoding="utf-8")


def version() -> str:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_none_is_overdue() -> None:
    assert not overdue(version()), (
        "drop them, with their tests and their row in how-to/upgrade.md, or postpone them"
    )


def test_the_check_finds_an_overdue_one() -> None:
    assert set(overdue("0.4.0")) == set(DEPRECATIONS) == set(overdue("0.10"))
    assert not overdue("0.3.9")


@pytest.mark.parametrize("name", sorted(DEPRECATIONS))
def test_each_is_warned_about_and_written_down(name: str) -> None:
    entry = DEPRECATIONS[name]
    sources = [path for folder in ("src/rrise", "edge_sdk") for path in (ROOT / folder).rglob("*.py")]
    assert any(f'warn("{name}"' in path.read_text(encoding="utf-8") for path in sources)
    assert any(entry.remove_in in line and entry.since in line for line in PAGE.splitlines() if name in line)


def test_a_moved_module_warns_once_and_works() -> None:
    code = (
        "import warnings\nwith warnings.catch_warnings(record=True) as seen:\n    warnings.simplefilter('always')\n"
        "    from edge_sdk import Certifier\n    import edge_sdk.certifier\n    assert not seen, seen\n"
        "    from edge_sdk.images import read_image\n    import edge_sdk.images\n"
        "print(len(seen), seen[0].message)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 edge_sdk.images: ") and "rrise.edge_sdk.frames.images" in done.stdout


@pytest.mark.parametrize(
    ("module", "older", "present"),
    [
        ("edge_sdk.scoring", "score", "score_runtime"),
        ("edge_sdk.verified", "verify_proposals", "confirm_proposals"),
        ("edge_sdk.verify", "Verdict", "VerificationVerdict"),
        ("edge_sdk.verify", "ClassRow", "ClassCoverage"),
        ("edge_sdk.bench", "Latency", "Percentiles"),
        ("edge_sdk.bench", "text_rows", "bench_rows"),
        ("edge_sdk.runtime.select", "Candidate", "RuntimeCandidate"),
        ("edge_sdk.stream.captured", "Source", "FrameSource"),
        ("edge_sdk.stream.sources", "open_source", "open_frame_source"),
    ],
)
def test_a_renamed_name_warns_and_is_the_present_one(module: str, older: str, present: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = importlib.import_module(present_name(module))
    vars(found).pop(older, None)  # it warns at its first use only
    with pytest.warns(DeprecationWarning, match=f"now {present}"):
        assert getattr(found, older) is getattr(found, present)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        found.nothing  # noqa: B018


def test_the_trainer_calibrates_by_the_older_name() -> None:
    pytest.importorskip("torch")
    from rrise import trainer

    vars(trainer).pop("calibrate", None)
    with pytest.warns(DeprecationWarning, match="now calibrate_surrogate"):
        assert trainer.calibrate is trainer.calibrate_surrogate  # type: ignore[attr-defined]


def test_a_hexadecimal_key_warns_and_is_read(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from rrise.edge_sdk.formats.keys import PublicKey

    (tmp_path / "key.pub").write_text("ab" * 32)
    with pytest.warns(DeprecationWarning, match="PEM"):
        assert PublicKey.load(tmp_path / "key.pub").raw == bytes.fromhex("ab" * 32)
