"""The page: what a narrow or dark screen needs, and cells that are neither broken in two nor wider than they must be."""

from __future__ import annotations

import re

import pytest

from rrise.calibration.reports.page import Page


def cell(text: str) -> str:
    page = Page("title")
    page.table(["name"], [[text]])
    found = re.search(r"<tbody><tr>(.*)</tr></tbody>", page.render())
    assert found
    return found[1]


def test_it_fits_a_phone_and_the_dark() -> None:
    text = Page("title").render()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text and "http" not in text and "<script" not in text


def test_tables_scroll_by_themselves() -> None:
    page = Page("title")
    page.table(["a"], [["1"]])
    assert '<div class="wide"><table>' in page.render() and ".wide { overflow-x: auto;" in page.render()


@pytest.mark.parametrize(
    "text",
    ["0.926", "1,080", "-3.7", "95.0 [91.0, 97.6]", "0.926 (1.000x)", "100 %", "85,170 B (1.000x)", "-"],
)
def test_numbers_stand_to_the_right(text: str) -> None:
    assert cell(text).startswith('<td class="number">')


@pytest.mark.parametrize(
    "text", ["The Monte Carlo noise is independent.", "clopper-pearson", "r = 0.25 (oracle 0.872)"]
)
def test_texts_stand_to_the_left(text: str) -> None:
    assert cell(text).startswith("<td>")


def test_an_interval_stays_in_one_piece_and_a_digest_may_be_broken() -> None:
    assert (
        cell("95.0 [91.0, 97.6]") == '<td class="number">95.0 <span class="interval">[91.0, 97.6]</span></td>'
    )
    digest = "0123456789abcdef" * 4
    assert f'<span class="digest">{digest}</span>' in cell(digest)


def test_texts_are_escaped() -> None:
    assert "<b>" not in cell("<b>x</b> [1, 2]") and "&lt;b&gt;" in cell("<b>x</b> [1, 2]")
