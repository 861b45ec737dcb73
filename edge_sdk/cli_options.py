"""Arguments and options that several commands of `rrise-edge` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
json_option = click.option("--json", "json_flag", is_flag=True, help="Print JSON instead of text.")


def runtime_options(command: Command) -> Command:
    """Which graph runs on what."""
    for option in (
        click.option(
            "--artefact", help="Graph of the bundle, as in fp32. [default: the first calibrated one]"
        ),
        click.option("--runtime", default="auto", show_default=True, help="onnxruntime, tensorrt, or auto."),
        click.option("--provider", help="Of ONNX Runtime: cpu, cuda or tensorrt; strict. [default: cpu]"),
        click.option(
            "--threads", default=1, show_default=True, help="Of ONNX Runtime; more is another execution."
        ),
    ):
        command = option(command)
    return command
