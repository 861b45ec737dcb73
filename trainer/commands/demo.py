"""`rrise-train demo`: the whole loop with the commands that a user would type, each shown before it runs."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from rrise.calibration.console import duration, json_option, run_command, summary
from rrise.calibration.errors import CheckFailed
from rrise.calibration.requirements import install
from rrise.trainer.errors import TrainerError
from rrise.trainer.settings.config import load_config
from rrise.trainer.workspace import Workspace

PICTURES = 20
"""Test frames that are written as pictures, for the last step to certify."""

HEAVY = ("rrise-train", "rrise-export")
"""Commands that import PyTorch, which takes seconds in every interpreter of its own."""

MODULES = {"rrise-train": "rrise.trainer", "rrise-export": "rrise.export", "rrise-edge": "rrise.edge_sdk"}


@dataclass(frozen=True)
class Step:
    """One command of the demonstration: what a user would type, and what it does."""

    words: tuple[str, ...]
    purpose: str

    def line(self) -> str:
        """The command as it is typed."""
        return " ".join(self.words)


@click.command("demo")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--data", default="digits", show_default=True, help="Digits, or data of your own as for init.")
@click.option("--preset", default="standard", show_default=True, help="As for init; quick to see it run.")
@json_option
@run_command
def demo(folder: Path | None, data: str, preset: str, json_flag: bool) -> None:
    """The whole loop on scikit-learn's digits: settings, training, Monte Carlo, calibration, bundle, certificates.

    FOLDER becomes a workspace: demo, or runs/NAME for data of your own. What is finished there already is kept. With --json,
    what the commands print goes to standard error.
    """
    folder = folder or (Path("demo") if data == "digits" else Path("runs") / Path(data).stem)
    check_data(folder, data)
    start = time.monotonic()
    for step in steps_of(folder, data, preset):
        show(step, json_flag)
        if "init" not in step.words and can_be_copied(step):
            import_ahead()
        execute(step, runner(step, json_flag))
    count = save_pictures(folder)
    last = Step(
        ("rrise-edge", "demo", str(folder / "bundle"), str(folder / "pictures")),
        f"a robot's side: the bundle certifies {count} pictures of the test split",
    )
    show(last, json_flag)
    execute(last, runner(last, json_flag))
    seconds = time.monotonic() - start
    made = {
        "workspace": str(folder),
        "bundle": str(folder / "bundle"),
        "report": str(folder / "report" / "index.html"),
        "pictures": count,
        "seconds": seconds,
    }
    summary("The loop is closed", closing_rows(folder, seconds), made, json_flag)


def check_data(folder: Path, data: str) -> None:
    """Refuse data of one's own where `folder` is a workspace of others, which would be used without a word."""
    if data == "digits" or "://" in data or not (folder / "rrise.toml").exists():
        return
    known = load_config(folder / "rrise.toml").data.source
    if known == "digits" or (folder / known).resolve() != Path(data).resolve():
        raise TrainerError(
            f"--data: got {data}, but the workspace {folder} is of {known}; expected another folder for these data, or none of "
            "them to go on with that workspace"
        )


def steps_of(folder: Path, data: str, preset: str) -> list[Step]:
    """What is to be done up to the bundle; an existing workspace or bundle is kept."""
    steps = []
    if not (folder / "rrise.toml").exists():
        words = ("rrise-train", "init", str(folder), "--data", data, "--preset", preset)
        steps.append(Step(words, "settings that fit the data; edit rrise.toml to change them"))
    purpose = "train under noise, count by Monte Carlo, train the surrogate, calibrate; minutes, and it can be stopped"
    # Of the digits the comparison with Monte Carlo takes a minute; of other data it may take hours.
    compare = ("--compare",) if data == "digits" else ()
    steps.append(Step(("rrise-train", "run", str(folder), *compare), purpose))
    if not (folder / "bundle" / "manifest.json").exists():
        purpose = "one ONNX file with label and certified radius, calibrated by its own answers and checked"
        steps.append(Step(("rrise-export", "onnx", str(folder)), purpose))
    return steps


def show(step: Step, aside: bool = False) -> None:
    """Print what comes now; to standard error where `aside`."""
    click.echo(f"\n# {step.purpose}\n$ {step.line()}", err=aside)
    sys.stdout.flush()


def run_aside(words: Sequence[str]) -> int:
    """Run a command with its output on standard error."""
    return subprocess.call(words, stdout=2)


def can_be_copied(step: Step) -> bool:
    """Whether a step runs in a copy of this process, which saves importing PyTorch."""
    # A copy of a process that already has threads may wait for ever for a lock that one of them held.
    return step.words[0] in HEAVY and sys.platform == "linux" and threading.active_count() == 1


def import_ahead() -> None:
    """Import what training and export both import late, so that their copies of this process have it already."""
    import torch._dynamo  # noqa: F401 - by the first step of any optimiser, and by the exporter


def runner(step: Step, aside: bool) -> Callable[[Sequence[str]], int]:
    """How a step is run: in a copy of this process where that is possible, else in a new interpreter."""
    if can_be_copied(step):
        return lambda words: run_warm(words, aside)
    return run_aside if aside else subprocess.call


def run_warm(words: Sequence[str], aside: bool = False) -> int:
    """Run "python -m MODULE ..." in a copy of this process, which has imported nearly everything; returns its status."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = multiprocessing.get_context("fork").Process(target=_as_main, args=(list(words[2:]), aside))
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _as_main(words: list[str], aside: bool) -> None:
    if aside:
        os.dup2(2, 1)
    # Whatever this process had put in their places stays its own.
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def execute(step: Step, run: Callable[[Sequence[str]], int] = subprocess.call) -> None:
    """Run a step in a process of its own, as from the command line.

    Raises:
        CheckFailed: it ended with status 1.
        TrainerError: it could not run.
    """
    name, *rest = step.words
    status = run([sys.executable, "-m", MODULES[name], *rest])
    if status == 1:
        raise CheckFailed(f"{step.line()}: a check failed, see above")
    if status != 0:
        raise TrainerError(
            f"{step.line()}: ended with status {status}, see above; mend it and call demo again, what is done is kept"
        )


def save_pictures(folder: Path, count: int = PICTURES) -> int:
    """Write the first test frames to FOLDER/pictures as PNG files named after their class; returns how many."""
    try:
        from PIL import Image
    except ImportError as error:
        raise TrainerError(f"demo: pictures need Pillow: {install('pillow')}") from error
    workspace = Workspace.open(folder)
    chosen = workspace.splits.test[:count]
    frames, names = workspace.dataset.take(chosen), workspace.class_names
    place = folder / "pictures"
    place.mkdir(exist_ok=True)
    for number, (frame, label) in enumerate(zip(frames, workspace.labels("test"), strict=False)):
        flat = frame[:, :, 0] if frame.shape[2] == 1 else frame
        name = "".join(letter if letter.isalnum() else "-" for letter in names[label])
        Image.fromarray(flat).save(place / f"{number:02}-{name}.png")
    return len(chosen)


def closing_rows(folder: Path, seconds: float) -> list[tuple[str, str]]:
    """What was made, and what to do next."""
    bundle = folder / "bundle"
    return [
        ("bundle", f"{bundle} (all that a robot needs)"),
        ("report", str(folder / "report" / "index.html")),
        ("time", duration(seconds)),
        ("promise", f"rrise-edge info {bundle}"),
        ("your camera", f"rrise-edge demo {bundle} 0 (or a video, or a folder of pictures)"),
        ("your images", "rrise-train demo --data FOLDER (with one sub-folder for each class)"),
    ]
