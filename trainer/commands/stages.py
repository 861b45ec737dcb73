"""What the commands of the stages take alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rrise.calibration.console import json_option, run_command

_Command = Callable[..., Any]

device_option = click.option(
    "--device", default="", help="auto, cpu, cuda or cuda:1; by default [training] device of rrise.toml."
)
"""Where a command trains or counts."""


def stage(function: _Command) -> _Command:
    """What all stages take: the workspace, --allow-code and --json."""
    function = json_option(function)
    function = click.option(
        "--allow-code",
        is_flag=True,
        help="Run the network factory that rrise.toml names (code from outside rrise).",
    )(function)
    return click.argument("workspace", type=click.Path(path_type=Path))(run_command(function))


def training(function: _Command) -> _Command:
    """What stages that train take: --again, --device and --minutes."""
    for option in (
        click.option(
            "--minutes",
            type=click.FloatRange(0, min_open=True),
            help="Stop in time with everything saved; the same command continues.",
        ),
        device_option,
        click.option("--again", is_flag=True, help="Train anew although there is a result."),
    ):
        function = option(function)
    return function
