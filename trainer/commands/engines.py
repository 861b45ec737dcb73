"""Engines compared: how fast each counts, and how often two of them differ (rrise-train agree)."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from rrise.calibration.console import summary
from rrise.trainer.commands.stages import device_option, stage
from rrise.trainer.counts.agree import CONFIDENCE, Agreement, agree, draws_for
from rrise.trainer.counts.counting import classifier_forms, counting_device
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.engines import NAMES, installed
from rrise.trainer.montecarlo.speed.benchmark import run_benchmark
from rrise.trainer.workspace import SCORED_SPLITS, Workspace

ENOUGH = 0.1
"""A tolerance that a judge can work with: what the number of draws is said for, where there were too few."""


def show_speed(
    workspace: Workspace, device: str, engine: str, minutes: float, allow_code: bool, json_flag: bool
) -> None:
    """Measure how fast `engine`, or every engine that is installed, counts, and print it (`targets --benchmark`)."""
    names = [engine] if engine else [name for name in NAMES if installed(name)]
    dtypes = tuple(dict.fromkeys((workspace.config.targets.dtype, "bfloat16")))
    base = workspace.base(allow_code=allow_code)
    result = run_benchmark(
        classifier_forms(workspace, base),
        workspace.preprocess,
        np.asarray(workspace.dataset.take(workspace.splits.train[:64])),
        len(workspace.dataset.class_names),
        engines=tuple((name, dtype) for dtype in dtypes for name in names),
        device=counting_device(workspace, base, device),
        batch_size=workspace.config.targets.batch_size or None,
        minutes=minutes,
        progress=lambda text: click.echo(text, err=True),
    )
    summary("class counting speed", result.lines(), result.to_json(), json_flag)


@click.command("agree")
@stage
@click.option(
    "--engine", required=True, help="To be compared with the engine that counts: torch, onnxruntime, ..."
)
@click.option("--draws", default=100_000, show_default=True, help="Paired noisy evaluations.")
@click.option("--split", default="tuning", show_default=True, help="Whose frames.")
@device_option
@click.option("--seed", type=int, help="Of frames and noise; by default drawn anew.")
def agree_command(
    workspace: Path,
    engine: str,
    draws: int,
    split: str,
    device: str,
    seed: int | None,
    allow_code: bool,
    json_flag: bool,
) -> None:
    """How often another engine answers differently on the same noisy frames, and what a judge that asks it must allow."""
    if split not in SCORED_SPLITS:
        raise TrainerError(f"--split: got {split!r}, expected one of {', '.join(SCORED_SPLITS)}")
    found = agree(
        Workspace.open(workspace),
        engine,
        draws=draws,
        split=split,
        device=device,
        seed=seed,
        allow_code=allow_code,
    )
    rows = [
        ("counted by", found.first),
        ("compared with", found.second),
        (
            "different answers",
            f"{found.differing:,} of {found.draws:,} on {found.frames} frames ({found.share:.2g})",
        ),
        (
            "bound",
            f"at most {found.bound:.2g} on average over these frames ({100 * CONFIDENCE:g} % confidence)",
        ),
        ("for a judge", _tolerance(found)),
    ]
    summary("agreement of engines", rows, found.to_json(), json_flag)


def _tolerance(found: Agreement) -> str:
    if found.tolerance >= 1:
        return (
            f"nothing: so bounded, the tolerance on class probabilities is 1. {draws_for(ENOUGH):,} draws without a "
            f"difference would give {ENOUGH:g} (--draws)"
        )
    return f"a tolerance of {found.tolerance:.2g} on class probabilities, exceeded on at most {found.slip:g} of frames"
