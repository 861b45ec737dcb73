"""Certificates on real tracks, and what corruptions do to them.

    python -m examples.signs WORKSPACE --out runs/signs

The workspace holds frames in clips (`examples/settings/traffic_signs.toml`: the tracks of GTSRB) and is finished up to
`rrise-train certify` and `calibrate`. Its splits are by clip: calibration on some tracks, test on others. Nothing is
written into it. A certificate is *wrong* where its radius exceeds the true one. A certificate for the *wrong class* is
another matter: it may well hold. Both are counted.

1. Promises: for each kind of guarantee and error level what is issued on the test tracks, and what of it is wrong.
2. Divisions: calibration and test tracks exchanged at random; how often is the share of wrong ones above the level, and how
   often where the frames of a track were taken for independent?
3. Corruptions of one frame of each test track, judged by fresh draws, and when the drift monitor speaks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from examples.signs.corruptions import CORRUPTIONS, SEVERITIES
from examples.signs.page import figure, page
from examples.signs.promises import certified, confusions, divisions, keep, plan_of
from examples.signs.shift import Bench
from rrise.calibration import Scores
from rrise.calibration.requirements import install
from rrise.calibration.storage.files import write_json
from rrise.calibration.tables.certify import CertifyCounts
from rrise.trainer.scores.calibrate import record_path
from rrise.trainer.workspace import Workspace

KINDS = ("pac", "selective", "whole-clip", "per-class")


def study(
    workspace: Workspace,
    out: Path,
    *,
    errors: Sequence[str],
    kinds: Sequence[str],
    corruptions: Sequence[str],
    draws: int,
    count: int,
    days: int,
) -> str:
    """The whole study; writes into `out` and returns the page.

    errors: of which the second, or the only one, is used for divisions and corruptions. draws: of each certificate on a
    corrupted frame. count: of divisions. days: simulated for the drift monitor.
    """
    config = workspace.config
    folder = record_path(workspace, workspace.surrogate()).parent
    tables = {split: Scores.load(folder / f"{split}.npz") for split in ("tuning", "calibration", "test")}
    radii = config.guarantee.objective.radii or (config.smoothing.sigma,)
    rows = [keep(config, tables, kind, error, radii) for kind in kinds for error in errors]
    if workspace.certify_path.exists():
        counts = CertifyCounts.load(workspace.certify_path)
        rows += certified(counts, tables["test"], config.targets.certify_alpha, radii)
    main = errors[min(1, len(errors) - 1)]
    plan = plan_of(config, tables, "pac", main)
    divided = [("pac, one frame a clip", main, divisions(plan, tables, count))]
    name = "pac, frames taken for independent"
    divided.append((name, main, divisions(plan, tables, count, frames_independent=True)))
    whole = plan_of(config, tables, "whole-clip", main)
    divided.append(("whole-clip", main, divisions(whole, tables, count)))
    record = plan.calibrate(tables["calibration"])
    pairs = confusions(record, tables["test"])
    bench = Bench(workspace, record, out, draws)
    asked = [("none", 0), *((name, severity) for name in corruptions for severity in SEVERITIES)]
    shifted = []
    for name, severity in asked:
        shifted.append(bench.under(name, severity, days))
        print(shifted[-1], flush=True)
    facts = about(workspace, tables, bench, draws, days, main)
    text = page(facts, rows, divided, pairs, shifted, radii)
    write_json(
        out / "study.json",
        {
            "about": facts,
            "radii": list(radii),
            "promises": [asdict(row) for row in rows],
            "divisions": [
                {"promise": name, "error": error, "wrong": list(shares)} for name, error, shares in divided
            ],
            "confusions": [list(pair) for pair in pairs],
            "corruptions": [asdict(one) for one in shifted],
        },
    )
    (out / "study.md").write_text(text, encoding="utf-8")
    try:
        (out / "study.svg").write_text(figure(shifted), encoding="utf-8")
    except ImportError:
        print(f"no figure: matplotlib is not installed: {install('matplotlib')}")
    return text


def about(
    workspace: Workspace, tables: dict[str, Scores], bench: Bench, draws: int, days: int, error: str
) -> dict[str, Any]:
    """What all numbers share."""
    sizes = [
        f"{len(np.unique(table.clip))} clips ({len(table):,} frames) {split}"
        for split, table in tables.items()
    ]
    base, asked = workspace.config.base, bench.settings
    test = tables["test"]
    return {
        "base classifier": f"{test.base_digest[:16]}, recipe {base.recipe}, {base.epochs} epochs, sigma {test.sigma:g}",
        "clips": ", ".join(sizes),
        "draws": f"{int(tables['calibration'].num_samples.min()):,} a reference, {int(test.num_samples.min()):,} of the audit, "
        f"{draws:,} on a corrupted frame with a certificate",
        "smoothed classifier": f"right on {100 * np.mean(test.counts.argmax(1) == test.target):.1f} % of the test frames; "
        f"surrogate right on {100 * np.mean(test.label == test.target):.1f} %",
        "corrupted frames": f"certificates of pac at eps {error}, one frame of each test clip",
        "drift monitor": f"one frame every {asked.interval:g} s (at 30 frames/s one of {30 * asked.interval:,.0f}), alpha "
        f"{asked.alpha:g}; {days} simulated days",
    }


def main() -> None:
    """Make the study that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--errors", default="0.1,0.05,0.01", help="error levels; the second is used for parts 2 and 3"
    )
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--corruptions", default=",".join(CORRUPTIONS), help="empty: none")
    parser.add_argument("--draws", type=int, default=1000, help="of each certificate on a corrupted frame")
    parser.add_argument("--divisions", type=int, default=200)
    parser.add_argument("--days", type=int, default=40, help="simulated for the drift monitor")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = study(
        Workspace.open(arguments.workspace),
        arguments.out,
        errors=arguments.errors.split(","),
        kinds=arguments.kinds.split(","),
        corruptions=[name for name in arguments.corruptions.split(",") if name],
        draws=arguments.draws,
        count=arguments.divisions,
        days=arguments.days,
    )
    print(text)


if __name__ == "__main__":
    main()
