"""export/README.md says nothing that is not so: its settings parse, its commands and checks exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from rrise.export.cli import main
from rrise.export.gating.gate import gate
from rrise.export.gating.gate_report import COMPARISON_CHECKS
from rrise.export.source import ExportSource, torch_reference
from rrise.trainer.settings.config import parse_config

TEXT = (Path(__file__).resolve().parents[2] / "export" / "README.md").read_text()


def test_the_policy_parses() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert parse_config(tomllib.loads(block)).acceptance.max_drop == 0.01


def test_the_commands_exist_with_their_options() -> None:
    lines = re.findall(r"rrise-export (\w+)([^\n&`]*)", TEXT)
    assert {name for name, _ in lines} >= set(main.commands)
    for name, rest in lines:
        known = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, name


def test_every_check_of_the_gate_is_explained(colour_bundle: Path, colour_source: ExportSource) -> None:
    report = gate(
        colour_bundle,
        "fp32",
        colour_source.calibration,
        colour_source.verification,
        torch_reference(colour_source.module),
    )
    names = {check.name for check in report.checks} - set(COMPARISON_CHECKS)
    table = {line.split("|")[1].strip() for line in TEXT.splitlines() if line.startswith("| ")}
    assert names <= table
