"""Arguments and options that several commands of `rrise-edge` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, TypeVar

import click

from rrise.edge_sdk.errors import EdgeError

if TYPE_CHECKING:
    from rrise.edge_sdk.bundles.bundle import Bundle
    from rrise.edge_sdk.confirming.settings import Confirm
    from rrise.edge_sdk.formats.signing import Trust

_Command = TypeVar("_Command", bound=Callable[..., Any])

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))


def runtime_options(command: _Command) -> _Command:
    """Which graph runs on what."""
    for option in (
        click.option(
            "--artefact", help="Graph of the bundle, as in fp32. [default: the first calibrated one]"
        ),
        click.option("--runtime", default="auto", show_default=True, help="onnxruntime, tensorrt, or auto."),
        click.option("--provider", help="Of ONNX Runtime: cpu, cuda or tensorrt; strict. [default: cpu]"),
        click.option(
            "--threads",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Of ONNX Runtime; more is another execution.",
        ),
    ):
        command = option(command)
    return command


def confirm_options(command: _Command) -> _Command:
    """Whether the rest of a frame's time goes into `confirm`; `confirm_of` takes the values."""
    for option in (
        click.option(
            "--confirm",
            type=float,
            metavar="SECONDS",
            help="Ask the bundle's base classifier about each certificate for so long: a promise per input.",
        ),
        click.option(
            "--confirm-level", default=0.001, show_default=True, help="Error level of it, per input."
        ),
    ):
        command = option(command)
    return command


def confirm_of(deadline: Optional[float], level: float) -> "Optional[Confirm]":
    """The settings that `confirm_options` ask for, or None. Raises: EdgeError: no deadline or level."""
    from rrise.edge_sdk.confirming.settings import Confirm

    return None if deadline is None else Confirm(deadline, alpha=level)


def trust_options(command: _Command) -> _Command:
    """Whose bundles and device records are loaded; `trust_of` takes the values out again."""
    path = click.Path(path_type=Path)
    for option in (
        click.option("--public-key", type=path, help="Load only a bundle that this key signed."),
        click.option(
            "--release-log", type=path, help="Remembers the highest release loaded; older ones are refused."
        ),
        click.option("--device-key", type=path, help="Use only device records that this public key signed."),
        click.option(
            "--accept-local-records", is_flag=True, help="Use device records without a signature, too."
        ),
    ):
        command = option(command)
    return command


def trust_of(options: Dict[str, Any]) -> "Optional[Trust]":
    """Take the values of `trust_options` out of a command's options; None where no key is asked for.

    Raises:
        EdgeError: an option that means nothing without --public-key, or an unreadable key.
    """
    key, log = options.pop("public_key"), options.pop("release_log")
    device, local = options.pop("device_key"), options.pop("accept_local_records")
    if key is None:
        if log is not None or device is not None or local:
            raise EdgeError(
                "--release-log, --device-key and --accept-local-records: got no --public-key beside them, expected the"
                " key that bundles are signed with; without it nothing is checked"
            )
        return None
    from rrise.edge_sdk.formats.signing import Trust

    return Trust.of(key, log=log, device_key=device, accept_local_records=local)


def open_trusted(bundle: Path, options: Dict[str, Any]) -> "Bundle":
    """Open a bundle under the values of `trust_options`, which are taken out of a command's options.

    The release log is only read: a release counts as seen once a certifier was loaded from it.
    """
    from rrise.edge_sdk.bundles.bundle import Bundle

    return Bundle.open(bundle, trust=trust_of(options))
