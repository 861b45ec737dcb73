"""What the commands share: suggestions, exit status, the summary block and progress."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rrise.calibration import CalibrationError, CheckFailed
from rrise.calibration.console import Progress, SuggestingGroup, duration, run_command, suggestion, summary


@click.group(cls=SuggestingGroup)
def group() -> None:
    pass


@group.command()
@click.option("--fail", type=click.Choice(["no", "check", "error", "disk", "fault"]), default="no")
@click.option("--json", "as_json", is_flag=True)
@run_command
def work(fail: str, as_json: bool) -> None:
    if fail == "check":
        raise CheckFailed("two of three")
    if fail == "error":
        raise CalibrationError("got 1, expected 2")
    if fail == "disk":
        raise OSError(28, "No space left on device")
    if fail == "fault":
        raise ZeroDivisionError("nobody thought of this")
    summary("Done", [("frames", "3"), ("a longer name", "4")], {"frames": 3}, as_json)


@pytest.mark.parametrize(
    ("fail", "status", "text"),
    [("no", 0, "Done"), ("check", 1, "two of three"), ("error", 2, "got 1"), ("disk", 2, "No space")],
)
def test_exit_status(fail: str, status: int, text: str) -> None:
    result = CliRunner().invoke(group, ["work", "--fail", fail])
    assert result.exit_code == status and text in result.output


def test_an_error_that_no_one_expected_is_not_a_failed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own status for a traceback is 1, which a build server reads as "checked and failed"."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = CliRunner().invoke(group, ["work", "--fail", "fault"])
    assert result.exit_code == 2 and "Traceback" not in result.output
    (log,) = tmp_path.glob("rrise-error-*.log")
    assert str(log) in result.output and "ZeroDivisionError: nobody thought of this" in result.output
    assert "Traceback (most recent call last)" in log.read_text()
    assert 'raise ZeroDivisionError("nobody thought of this")' in log.read_text()


def test_it_is_told_in_full_where_no_log_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    result = CliRunner().invoke(group, ["work", "--fail", "fault"])
    assert result.exit_code == 2 and "Traceback (most recent call last)" in result.output


def commands(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    for below, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, below)


@pytest.mark.parametrize("package", ["calibration", "edge_sdk", "export", "trainer"])
def test_every_command_has_help_json_and_version(package: str) -> None:
    main = pytest.importorskip(f"rrise.{package}.cli").main
    assert CliRunner().invoke(main, ["--version"]).exit_code == 0
    for name, command in commands(main):
        assert CliRunner().invoke(main, [*name, "-h"]).exit_code == 0, name
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert isinstance(command, click.Group) or "--json" in flags, name


def test_a_mistyped_command_suggests_the_right_one() -> None:
    result = CliRunner().invoke(group, ["wrok"])
    assert result.exit_code == 2 and "Did you mean 'work'?" in result.output


def test_a_mistyped_option_suggests_the_right_one() -> None:
    result = CliRunner().invoke(group, ["work", "--jsn"])
    assert result.exit_code == 2 and "--json" in result.output


def test_suggestion_is_silent_when_nothing_is_near() -> None:
    assert suggestion("zzzz", ["certify"]) == ""


def test_summary_aligns_text_and_prints_json_alone() -> None:
    text = CliRunner().invoke(group, ["work"]).output
    assert text == "Done\n  frames         3\n  a longer name  4\n"
    assert json.loads(CliRunner().invoke(group, ["work", "--json"]).output) == {"frames": 3}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_writes_to_a_terminal_and_clears_its_line() -> None:
    stream = Terminal()
    with Progress(4, "frames", "scoring", stream, interval=0.0) as progress:
        progress.advance(2)
    assert "scoring:  50 %" in stream.getvalue() and stream.getvalue().endswith("\r\x1b[K")


def test_progress_is_silent_elsewhere() -> None:
    stream = io.StringIO()
    with Progress(4, "frames", "scoring", stream, interval=0.0) as progress:
        progress.advance(2)
    assert stream.getvalue() == ""


def test_progress_line_has_throughput_and_time_left() -> None:
    progress = Progress(100, "frames", "scoring", io.StringIO())
    progress.advance(25)
    assert progress.line(5.0) == "scoring:  25 %, 15 s left  (25 of 100 frames, 5/s)"
    assert "unknown time left" in Progress(10, "frames", "idle", io.StringIO()).line(1.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3599, "59 min 59 s"), (3660, "1 h 01 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("rank", "lines"), [("0", 3), ("1", 0)])
def test_of_several_processes_the_first_speaks(rank: str, lines: int) -> None:
    result = CliRunner(env={"RANK": rank}).invoke(group, ["work"])
    assert result.exit_code == 0 and len(result.output.splitlines()) == lines
