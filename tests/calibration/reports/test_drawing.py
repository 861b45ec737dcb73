"""The small figure: values where they belong, ticks that are round, and a legend for every line."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from rrise.calibration.reports.drawing import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, falling_shares


def drawn(most: float = 1.0) -> ElementTree.Element:
    radii = np.linspace(0, most, 11)
    shares = np.linspace(1, 0, 11)
    text = falling_shares(
        radii,
        {"net": shares, "issued": shares, "oracle": shares},
        band=(shares - 0.1, shares + 0.1),
        x_label="radius (L2)",
        y_label="share of frames",
    )
    return ElementTree.fromstring(text)


def test_lines_run_from_the_upper_left_to_the_lower_right() -> None:
    lines = drawn().findall(".//polyline")
    assert len(lines) == 3 and len({line.attrib["style"] for line in lines}) == 3
    first, *_, last = [tuple(map(float, point.split(","))) for point in lines[0].attrib["points"].split()]
    assert first == (LEFT, TOP) and last == (WIDTH - RIGHT, HEIGHT - BOTTOM)


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (0.68, ["0", "0.2", "0.4", "0.6"]),
        (3e-3, ["0", "0.001", "0.002", "0.003"]),
    ],
)
def test_ticks_are_round(most: float, ticks: list[str]) -> None:
    texts = [text.text or "" for text in drawn(most).findall(".//text")]
    assert [text for text in texts if re.fullmatch(r"[\d.]+", text)] == ticks
    assert {"radius (L2)", "net", "issued", "oracle", "50 %"} <= set(texts)


def test_nothing_is_issued_and_still_there_is_a_figure() -> None:
    text = falling_shares(np.zeros(3), {"net": np.zeros(3)}, x_label="x", y_label="y")
    assert "nan" not in text and ElementTree.fromstring(text).findall(".//polyline")
