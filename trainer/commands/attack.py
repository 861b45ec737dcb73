"""rrise-train attack."""

from __future__ import annotations

from pathlib import Path

import click

from rrise.calibration.console import summary
from rrise.calibration.errors import CheckFailed
from rrise.trainer.attacks.attack import FalseCertificateRate, attack
from rrise.trainer.attacks.search import Search
from rrise.trainer.commands.stages import device_option, stage
from rrise.trainer.reports.workspace_page import update_page
from rrise.trainer.workspace import Workspace

WEAK = "; hardly anything is issued at the last, so few false certificates there prove little"


@click.command("attack")
@stage
@click.option("--rho", type=float, help="L2 budget in [0, 1] pixel units; by default the guard's, else 0.1.")
@click.option("--steps", default=40, show_default=True, help="Steps of gradient ascent.")
@click.option("--draws", default=8, show_default=True, help="Noise draws of each step.")
@click.option(
    "--restarts", default=2, show_default=True, help="Ascents per label; from the third on, random starts."
)
@click.option(
    "--samples", default=10000, show_default=True, help="Monte Carlo samples that judge each frame."
)
@click.option("--seed", default=0, show_default=True)
@device_option
def attack_command(
    workspace: Path,
    rho: float | None,
    steps: int,
    draws: int,
    restarts: int,
    samples: int,
    seed: int,
    device: str,
    allow_code: bool,
    json_flag: bool,
) -> None:
    """Attack the certificates of the test frames; exit status 1 where a promise is broken."""
    opened = Workspace.open(workspace)
    budget = rho if rho is not None else opened.config.guard.rho or 0.1
    result = attack(
        opened,
        Search(budget, steps, draws, seed, restarts),
        num_samples=samples,
        device=device,
        allow_code=allow_code,
    )
    rows = [
        ("budget", f"L2 {result.rho:g}, moved by {result.moved:.3g} on average"),
        ("false certificates", f"before {_rate(result.clean)}"),
        ("", f"after  {_rate(result.attacked)}"),
        (
            "issued",
            ", ".join(
                f"r = {r:.3g}: {before:.3f}, attacked {after:.3f}"
                for r, before, after in zip(result.radii, result.issued, result.issued_attacked, strict=True)
            )
            + (WEAK if result.issued and result.issued[-1] < 0.05 else ""),
        ),
        ("promised", "nothing under attack" if result.promised is None else f"at most {result.promised:g}"),
        update_page(opened, "rrise-train attack"),
    ]
    summary("attack", rows, result.to_json(), json_flag)
    if result.broken:
        raise CheckFailed(
            f"false-certificate rate at least {result.attacked.low:.4f}, promised {result.promised:g}"
        )


def _rate(rate: FalseCertificateRate) -> str:
    verdict = rate.verdict
    return (
        f"{rate.share:.3f} of frames [{rate.low:.3f}, {rate.high:.3f}] ({verdict.wrong} wrong, {verdict.undecided} "
        f"undecided of {verdict.issued} issued)"
    )
