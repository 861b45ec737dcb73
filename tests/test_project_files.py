"""What a contributor relies on: hooks that run what `make lint` runs, and templates that ask for what is needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_hooks_are_local_and_run_what_make_lint_runs() -> None:
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [source["repo"] for source in config["repos"]] == ["local"]
    entries = [hook["entry"] for hook in config["repos"][0]["hooks"]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = re.findall(
        r"^\t\$\(BIN\)/(\w+(?: \w+)?)", makefile.split("\nlint:")[1].split("\n\n")[0], re.MULTILINE
    )
    assert len(lint) == 3
    for tool in lint:
        assert any(entry.startswith(f".venv/bin/{tool}") for entry in entries), tool


def test_issue_templates_have_a_head_and_name_commands_that_exist() -> None:
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
    assert len(templates) == 3
    for path in templates:
        _, head, body = path.read_text(encoding="utf-8").split("---\n")
        assert re.match(r"name: .+\nabout: .+\nlabels: \w+\n$", head), path.name
        assert "**" in body


def test_the_citation_names_the_version() -> None:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found and f"version: {found[1]}\n" in (ROOT / "CITATION.cff").read_text()
