"""Pages that are not written by hand: the README of every package, and the reference of commands and settings from the code."""

from __future__ import annotations

import dataclasses
import importlib
import posixpath
import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# Which page shows which file of the repository.
SHOWN = {
    "calibration/README.md": "concepts/guarantee.md",
    "trainer/README.md": "how-to/train.md",
    "trainer/montecarlo/README.md": "how-to/count.md",
    "export/README.md": "how-to/export.md",
    "edge_sdk/README.md": "how-to/run.md",
    "examples/reproduce/README.md": "reproduction.md",
    "examples/reproduce/EARLIER.md": "release-0.1.md",
}
COMMANDS = {
    "rrise-train": "trainer",
    "rrise-calibrate": "calibration",
    "rrise-export": "export",
    "rrise-edge": "edge_sdk",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those in docs/pages."""
    for source, page in SHOWN.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=with_links_of(text, source, page)))
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    files.append(File.generated(config, "reference/settings.md", content=settings_page()))
    return files


def with_links_of(text: str, source: str, page: str) -> str:
    """Links between READMEs become links between pages; pictures and other files of the repository become their names."""

    def follow(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        if target.startswith(("http://", "https://", "#")):
            return match.group(0)
        path, _, anchor = target.partition("#")
        here = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        here = here + "/README.md" if here + "/README.md" in SHOWN else here
        if here in SHOWN:
            there = posixpath.relpath(SHOWN[here], posixpath.dirname(page) or ".")
            return f"[{label}]({there}{'#' + anchor if anchor else ''})"
        if not (ROOT / here).exists():
            raise ValueError(f"{source}: a link to {target}, which is not in the repository")
        return f"`{here}`" if picture else f"{label} (`{here}`)"

    return LINK.sub(follow, text)


def commands_page() -> str:
    """Every command with its arguments and options, as its own --help describes them."""
    parts = [
        "# Commands\n\nMade from the commands themselves. Exit status: 0 done, 1 checked and failed, 2 could not run.\n"
    ]
    for name, package in COMMANDS.items():
        main = importlib.import_module(f"rrise.{package}.cli").main
        parts.append(f"\n## {name}\n\n{main.help or ''}\n")
        for path, command in sorted(leaves(main, name)):
            parts.append(command_text(path, command))
    return "".join(parts)


def leaves(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """The commands at the ends of a group, with the words that call them."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from leaves(below, f"{path} {name}")
    else:
        yield path, command


def command_text(path: str, command: click.Command) -> str:
    """What the reference says about a command."""
    context = click.Context(command, info_name=path)
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    rows = [record for option in options if (record := option.get_help_record(context))]
    arguments = " ".join(p.make_metavar(context) for p in command.params if isinstance(p, click.Argument))
    table = "".join(f"| `{flag}` | {cell(text)} |\n" for flag, text in rows)
    head = f"\n### {path}\n\n```\n{path} {arguments} [OPTIONS]\n```\n\n{cleandoc(command.help or '')}\n"
    return head + (f"\n| option | |\n|---|---|\n{table}" if rows else "")


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def settings_page() -> str:
    """Every key of rrise.toml with its default, section by section, with what the code says about it."""
    from rrise.trainer.settings.config import Config

    parts = ["# Settings\n\nAll keys of `rrise.toml`, made from the code that reads it.\n"]
    for section in dataclasses.fields(Config):
        made: Any = section.default_factory() if callable(section.default_factory) else section.default
        keys = "".join(
            f"| `{field.name}` | `{getattr(made, field.name)!r}` |\n" for field in dataclasses.fields(made)
        )
        text = cleandoc(type(made).__doc__ or "")
        parts.append(f"\n## [{section.name}]\n\n{text}\n\n| key | default |\n|---|---|\n{keys}")
    return "".join(parts)
