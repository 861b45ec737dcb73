"""The picture of the house: its rooms and the files that it names exist, no room is missing, and it is drawn by its script."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
SVG = ROOT / "docs" / "pages" / "concepts" / "rooms.svg"
PACKAGES = ("calibration", "edge_sdk", "export", "trainer")


def script() -> Any:
    found = importlib.util.spec_from_file_location("docs_rooms", ROOT / "docs" / "rooms.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    import sys

    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


def test_the_rooms_of_the_picture_are_the_folders_of_the_packages() -> None:
    drawn = re.findall(r'data-room="([^"]+)"', SVG.read_text(encoding="utf-8"))
    folders = {
        f"{package}/{path.parent.name}"
        for package in PACKAGES
        for path in (ROOT / package).glob("*/__init__.py")
    }
    assert sorted(drawn) == sorted(folders)


def test_where_things_are_added_exists() -> None:
    for room, (_, _, where) in script().ADDED.items():
        assert (ROOT / room).is_dir(), room
        for name in re.findall(r"[\w/]+(?:\.py|/)", where):
            places = (ROOT / room.split("/")[0] / name, ROOT / room / name)
            assert any(place.exists() for place in places), f"{room}: {name}"


def test_the_file_is_what_the_script_draws_and_can_be_read_on_a_phone() -> None:
    text = SVG.read_text(encoding="utf-8")
    assert text == script().picture(), "run python docs/rooms.py docs/pages/concepts/rooms.svg"
    root = ElementTree.fromstring(text)
    width = float(root.attrib["viewBox"].split()[2])
    size = re.search(r"font: ([\d.]+)px", text)
    assert size and float(size[1]) * 358 / width >= 11, "letters on a screen of 390 pixels"
    assert "prefers-color-scheme: dark" in text


def test_no_text_leaves_the_picture() -> None:
    """Widths are estimated: seven pixels a letter is wider than the letters of the usual fonts."""
    module = script()
    for package, width in (
        (module.TRAINER, 216),
        (module.EXPORT, 216),
        (module.EDGE, 216),
        (module.CALIBRATION, 98),
    ):
        for line in package.does:
            assert 6.4 * len(line) <= width + 20, line
    for _, what, where in module.ADDED.values():
        assert 6.4 * len(f"(1) {what}") <= 194 and 6.4 * len(where) <= 194, (what, where)
