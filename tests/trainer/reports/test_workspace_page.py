"""The page of a workspace: what every stage writes, what it shows, and that it is never a reason for a stage to fail."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rrise.calibration.tables.evaluation import Judged
from rrise.trainer import workspace as workspace_module
from rrise.trainer.cli import main
from rrise.trainer.reports.frames import EACH, address, chosen
from rrise.trainer.reports.stages import DONE, NOT_YET, OPTIONAL, OUTDATED, look
from rrise.trainer.reports.workspace_page import own_version, update_page
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import copied

VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """What a browser sees: texts outside and inside of folded parts, pictures, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.shown, self.folded = "", ""
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        if "details" in self.open:
            self.folded += data + "\n"
        else:
            self.shown += data + "\n"


@pytest.fixture(scope="module")
def finished(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """A finished workspace and the text of its page."""
    copy = copied(workspace, tmp_path_factory.mktemp("page"))
    assert update_page(copy, "rrise-train calibrate") == ("page", str(copy.path / "report" / "index.html"))
    return copy, (copy.path / "report" / "index.html").read_text()


def test_it_names_what_it_is_about_and_folds_digests_away(finished: tuple[Workspace, str]) -> None:
    opened, text = finished
    page = Outline(text)
    record = look(opened).record
    assert record is not None
    for words in (
        "rrise: copy",
        "after `rrise-train calibrate`",
        "by rrise 0.",
        "600 frames of 8x8x1",
        record.guarantee.sentence(),
        record.guarantee.limits(),
        "wrong certificates an hour",
        "median radius of the certificates",
        "radius (L2, pixel values in [0, 1])",
    ):
        assert words in page.shown, words
    assert re.search(r"Updated \d{4}-\d\d-\d\d \d\d:\d\d", page.shown)
    assert not re.search(r"[0-9a-f]{64}", page.shown) and opened.base_digest in page.folded
    assert record.calibration_digest in page.folded and "[smoothing]" in page.folded
    assert not re.findall(r'(?:src|href)="https?:', text) and "<script" not in text


def test_every_class_has_a_row_with_its_intervals(finished: tuple[Workspace, str]) -> None:
    _, text = finished
    table = text[text.index("<h2>Class by class") :]
    rows = re.findall(r"<tr>(<td.*?)</tr>", table[: table.index("</table>")])
    assert [re.sub("<[^>]*>", " ", row).split()[0] for row in rows] == [str(digit) for digit in range(10)]
    assert all(row.count('class="interval"') == 3 for row in rows)
    assert sum(int(re.findall(r">(\d+)</td>", row)[1]) for row in rows) == 40


def test_frames_are_shown_with_label_radius_and_verdict(finished: tuple[Workspace, str]) -> None:
    opened, text = finished
    page = Outline(text)
    assert 4 <= len(page.images) <= 5 * EACH
    assert all(
        str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in page.images
    )
    assert "certified" in {image["alt"] for image in page.images}
    assert page.shown.count("radius 0.") + page.shown.count("radius 0\n") >= len(page.images)
    # The same where the images moved away: the reference pack has the frames.
    gone = Workspace.open(opened.path)
    gone.data.__dict__["source"] = None
    update_page(gone, "again")
    again = Outline((opened.path / "report" / "index.html").read_text())
    assert [image["src"] for image in again.images] == [image["src"] for image in page.images]


def test_what_goes_wrong_is_shown_first() -> None:
    radius = np.array([0.9, 0.5, 0.4, 0, 0, 0.3, 0.2, 0.1, 0.05], np.float32)
    target = np.array([1, 0, 0, 1, 0, 0, 0, 0, 0])
    holds = np.array([True, False, True, True, True, True, True, True, True])
    nothing = np.zeros(9, bool)
    judged = Judged(np.zeros(9, int), target, radius, holds, nothing, nothing, np.zeros(9), 1.0)
    assert chosen(judged) == [0, 1, 3, 4, 2, 6, 8]
    certified = radius > 0
    assert all(certified[row] for row in chosen(judged)[:2])


def test_a_large_frame_is_made_small() -> None:
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (480, 640, 3), np.uint8)
    assert address(large).startswith("data:image/jpeg;base64,") and len(address(large)) < 40_000
    assert address(large[:8, :8, :1]).startswith("data:image/png;base64,")


@pytest.mark.parametrize("stage", ["base", "targets", "surrogate", "calibrate", "certify", "report", "study"])
def test_every_stage_updates_it_and_says_where_it_is(workspace: Path, tmp_path: Path, stage: str) -> None:
    copy = copied(workspace, tmp_path)
    options = ["--errors", "0.05"] if stage == "study" else []
    result = CliRunner().invoke(main, [stage, str(copy.path), *options], catch_exceptions=False)
    index = copy.path / "report" / "index.html"
    assert result.exit_code == 0 and f"after `rrise-train {stage}`" in index.read_text()
    assert str(index) in result.stdout
    if stage in ("report", "study"):
        assert f'href="{stage}.html"' in index.read_text()


def test_a_page_that_cannot_be_written_fails_no_stage(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    shutil.rmtree(
        copy.path / "report", ignore_errors=True
    )  # another test's, where the shared workspace has one
    (copy.path / "report").write_text("a file where a folder should be")
    result = CliRunner().invoke(main, ["calibrate", str(copy.path)], catch_exceptions=False)
    assert result.exit_code == 0 and "not updated, see the warning" in result.stdout
    assert result.stderr.startswith("warning: ") and "was not updated" in result.stderr


def test_a_damaged_table_costs_the_page_only(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copied(workspace, tmp_path)
    for path in copy.path.glob("scores/pytorch-*/test.npz"):
        path.write_bytes(b"not a table")
    assert update_page(copy, "rrise-train certify")[1] == "not updated, see the warning"
    assert "cannot read the scores" in capsys.readouterr().err


def test_no_network_is_built_for_it(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page after each stage has to be cheap, and needs no permission to run a user's factory."""

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr(workspace_module, "load_network", forbidden)
    update_page(copied(workspace, tmp_path), "x")
    assert capsys.readouterr().err == ""


def test_stages_are_told_by_what_lies_there(workspace: Path, tmp_path: Path) -> None:
    copy = copied(workspace, tmp_path)
    shutil.rmtree(copy.path / "bundle", ignore_errors=True)
    states = {stage.name.split(" (")[0]: stage.state for stage in look(copy).stages}
    assert states == {
        "base classifier": DONE,
        "class counts": DONE,
        "surrogate": DONE,
        "calibration": DONE,
        "comparison": DONE,
        "bundle": NOT_YET,
    }
    assert look(copy).next == f"rrise-export onnx {copy.path}"
    copy.certify_path.unlink()
    copy.references_path("calibration").unlink()
    shutil.copy(copy.base_path, copy.surrogate_path)  # a network that was made from no base classifier
    found = look(copy)
    states = {stage.name.split(" (")[0]: stage.state for stage in found.stages}
    assert states["class counts"] == NOT_YET and states["comparison"] == OPTIONAL
    assert states["surrogate"] == OUTDATED and states["calibration"] == OUTDATED
    assert found.record is None and found.next == f"rrise-train targets {copy.path}"


def test_a_workspace_that_was_just_made_has_a_page(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["init", str(tmp_path / "w")], catch_exceptions=False)
    page = Outline((tmp_path / "w" / "report" / "index.html").read_text())
    assert result.exit_code == 0 and f"Next: rrise-train base {tmp_path / 'w'}" in page.shown
    assert "not yet" in page.shown and not (tmp_path / "w" / "splits.npz").exists()


def test_a_checkout_on_the_path_needs_no_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """`trainer run` ended with an error after all its work where rrise was run by PYTHONPATH alone."""
    assert own_version()[0].isdigit()

    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    assert own_version() == "(a checkout)"
