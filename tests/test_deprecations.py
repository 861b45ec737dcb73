"""Deprecations: none is overdue, each is warned about where it is used, and each is on the page about upgrading."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rrise.deprecations import DEPRECATIONS, overdue

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


def test_a_hexadecimal_key_warns_and_is_read(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from rrise.edge_sdk.formats.signing import PublicKey

    (tmp_path / "key.pub").write_text("ab" * 32)
    with pytest.warns(DeprecationWarning, match="PEM"):
        assert PublicKey.load(tmp_path / "key.pub").raw == bytes.fromhex("ab" * 32)
