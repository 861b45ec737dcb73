"""The page: what a narrow or dark screen needs, and cells that are neither broken in two nor wider than they must be."""

from __future__ import annotations

import re

import pytest

from rrise.calibration.reports.page import FramePicture, Page


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
    [
        "0.926",
        "1,080",
        "-3.7",
        "95.0 [91.0, 97.6]",
        "0.926 (1.000x)",
        "100 %",
        "85,170 B (1.000x)",
        "0.93-0.99",
        "-",
    ],
)
def test_numbers_stand_to_the_right(text: str) -> None:
    assert cell(text).startswith('<td class="number">')


@pytest.mark.parametrize(
    "text", ["The Monte Carlo noise is independent.", "clopper-pearson", "r = 0.25 (oracle 0.872)"]
)
def test_texts_stand_to_the_left(text: str) -> None:
    assert cell(text).startswith("<td>")


def test_a_column_with_any_text_stands_to_the_left() -> None:
    page = Page("title")
    page.table(["sigma", "n"], [["0.25", "1"], ["pytorch-cpu", "2"]])
    text = page.render()
    assert "<th>sigma</th>" in text and text.count('<td class="number">') == 2 and "<td>0.25</td>" in text


def test_a_ratio_and_a_range_belong_to_their_number() -> None:
    assert cell("0.926 (1.000x)") == '<td class="number">0.926 <span class="beside">(1.000x)</span></td>'
    assert cell("0.93-0.99") == '<td class="number">0.93-0.99</td>'


def test_what_is_folded_is_closed_even_after_an_error() -> None:
    page = Page("title", "today")
    page.paragraph("before")
    with pytest.raises(ZeroDivisionError), page.folded("digests"):
        page.paragraph("inside")
        raise ZeroDivisionError
    page.paragraph("after")
    text = page.render()
    assert "<details><summary>digests</summary><p>inside</p></details><p>after</p>" in text
    assert '<p class="soft">today</p><p>before</p>' in text


def test_pictures_tiles_and_links_are_escaped() -> None:
    page = Page("title")
    page.pictures(
        [FramePicture("data:image/png;base64,x", "good", "<certified>", ("label <b>",), pixels=True)]
    )
    page.tiles([("<5 %", "of <b>")])
    page.links([('a"b.html', "<name>", "<what>")])
    text = page.render()
    assert 'alt="&lt;certified&gt;" class="pixels"' in text and "<b>&lt;5 %</b>" in text
    assert 'href="a&quot;b.html"' in text and "<name>" not in text and "label &lt;b&gt;" in text


def test_an_interval_stays_in_one_piece_and_a_digest_may_be_broken() -> None:
    assert (
        cell("95.0 [91.0, 97.6]") == '<td class="number">95.0 <span class="interval">[91.0, 97.6]</span></td>'
    )
    digest = "0123456789abcdef" * 4
    assert f'<span class="digest">{digest}</span>' in cell(digest)


def test_texts_are_escaped() -> None:
    assert "<b>" not in cell("<b>x</b> [1, 2]") and "&lt;b&gt;" in cell("<b>x</b> [1, 2]")
