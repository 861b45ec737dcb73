"""The documentation: every page builds, every link leads somewhere, and every command that a page shows exists."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "rrise-train": "trainer",
    "rrise-calibrate": "calibration",
    "rrise-export": "export",
    "rrise-edge": "edge_sdk",
}
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs" / "pages").rglob("*.md"),
        *(path for package in (*PACKAGES.values(), "examples") for path in (ROOT / package).rglob("*.md")),
    ]
)
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def shown_commands(text: str) -> Iterator[str]:
    """Command lines in fences and in code spans that name one of the four commands and something to do."""
    blocks = FENCE.findall(text)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += SPAN.findall(FENCE.sub("", text))
    for line in lines:
        for part in re.split(r"&&|;", line):
            if re.match(rf"\s*({'|'.join(PACKAGES)})\s+[a-z]", part):
                yield part.split(" #")[0].strip()


def problem(line: str) -> str:
    """What is wrong with a command line, or an empty string: commands and options must exist."""
    words = shlex.split(line.replace("...", ""))
    command: click.Command = importlib.import_module(f"rrise.{PACKAGES[words[0]]}.cli").main
    rest = words[1:]
    while isinstance(command, click.Group) and rest:
        if "|" in rest[0]:  # several commands in one line of prose
            unknown = [name for name in rest[0].split("|") if name not in command.commands]
            return f"no command {unknown}" if unknown else ""
        if rest[0] not in command.commands:
            return f"no command {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {flag for parameter in command.params for flag in parameter.opts} | {"-h", "--help", "--version"}
    unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in known]
    return f"no option {unknown}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_a_page_exist(page: Path) -> None:
    wrong = {
        line: fault for line in shown_commands(page.read_text(encoding="utf-8")) if (fault := problem(line))
    }
    assert not wrong


def test_the_check_finds_a_mistyped_command_and_option() -> None:
    assert problem("rrise-train bas runs/mine") and problem("rrise-edge info BUNDLE --jsn")
    assert not problem("rrise-edge info BUNDLE --json")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    generated = {
        "concepts/guarantee.md",
        "how-to/train.md",
        "how-to/count.md",
        "how-to/export.md",
        "how-to/run.md",
    }
    generated |= {"reproduction.md", "release-0.1.md", "reference/commands.md", "reference/settings.md"}
    made = {ROOT / "docs" / "pages" / name for name in generated}
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not target.startswith(("http", "#", "mailto:")):
            path = (page.parent / target.split("#")[0]).resolve()
            assert path.exists() or path in made, f"{page.name}: {target}"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["-f", str(ROOT / "docs" / "mkdocs.yml"), "-d", str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "site" / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "rrise-edge verify" in text and "--references" in text
    assert "Clopper-Pearson" in (tmp_path / "site" / "concepts" / "guarantee.html").read_text(
        encoding="utf-8"
    )


def test_what_comments_cite_is_in_the_repository() -> None:
    """`FOLDER/README.md, "Heading"` has that heading; pages that are not in the repository are not cited."""
    cited = 0
    for package in PACKAGES.values():
        for path in (ROOT / package).rglob("*.py"):
            text = " ".join(path.read_text(encoding="utf-8").split())
            assert not re.search(r"\b(MATHEMATICS|DESIGN)(\.md|,? \d)", text), path.relative_to(ROOT)
            for page, heading in re.findall(r'([\w/]+/README\.md), "([^"]+)"', text):
                headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
                assert any(name.startswith(heading) for name in headings), (
                    f"{path.relative_to(ROOT)}: {page} has no heading {heading!r}"
                )
                cited += 1
    assert cited >= 8
