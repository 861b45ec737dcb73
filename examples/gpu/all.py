"""Everything that a machine with a GPU should run once, in one call that may be interrupted and started again.

    python examples/gpu/all.py --data cifar10.npz --out runs/gpu                       # all of it, within --minutes
    python examples/gpu/all.py --data digits --out runs/gpu --device cpu --small       # the same steps, on any machine

First every stage on a small task within a minute, so that what is broken shows at once. Then one classifier end to end by the own
commands (training throughput, certified accuracy, CERTIFY), counting by every engine against the usual loop and against the plain
forward pass, and every runtime of the edge SDK on the resulting bundle. Each step leaves OUT/STEP.json and is not repeated;
OUT/all.json and OUT/all.html have what there is, failures with the end of their log too. A step that fails does not stop
those that do not need it. Exit status: 0 every step is done, 1 a step failed, 2 it could not run, 3 time was up: call again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import rrise
from rrise import trainer
from rrise.calibration.console import duration, run_command
from rrise.calibration.reports.page import Page
from rrise.calibration.requirements import installed_versions
from rrise.calibration.storage.files import read_json, write_json
from rrise.edge_sdk.operate.bench import describe_machine

HERE = Path(__file__).resolve().parent
TIME_IS_UP = 3
LEAST_SECONDS = 15.0
"""No step is begun with less time left."""
SAVING = 12.0
"""Seconds before the end at which a training is told to save and stop."""
PACKAGES = (
    "torch", "triton", "numpy", "scipy", "zarr", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13",
)  # fmt: skip
"""Those that decide what can run here."""
LINES = 20
"""Last lines of the log of a step that failed, in all.json."""


SHORT_ATTACK = {"--rho": 0.1, "--steps": 3, "--draws": 2, "--restarts": 1, "--samples": 1000}


@dataclass(frozen=True)
class Step:
    """One command. needs: steps that must be done before. good: exit statuses with a result to keep.

    partial: what was done is kept when the command is ended, and the next call continues. limit: its seconds of a call.
    timed: it takes --minutes, and saves within them.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    good: tuple[int, ...] = (0,)
    partial: bool = False
    limit: float = 600.0
    timed: bool = False


def module(package: str, *words: object) -> tuple[str, ...]:
    """The command that runs one of our packages."""
    return (sys.executable, "-m", f"rrise.{package}", *map(str, words))


def script(name: str, *words: object) -> tuple[str, ...]:
    """The command that runs a script of this folder."""
    return (sys.executable, str(HERE / name), *map(str, words))


def all_steps(out: Path, device: str, small: bool) -> list[Step]:
    """Most valuable first, as far as what needs what allows."""
    workspace, bundle, tiny = out / "workspace", out / "bundle", out / "small"
    packs: tuple[str | Path, ...] = ("--calibration", workspace / "references/calibration.npz")
    packs += ("--references", workspace / "references/verification.npz")
    where = ("--device", device, "--json")
    effort = [word for pair in SHORT_ATTACK.items() for word in pair]
    quick = ("--network", "resnet20", "--dtype", "float32", "--seconds", 0.1, "--rounds", 1)

    def counting(name: str, *words: object) -> tuple[str, ...]:
        return script("counting_speed.py", *where, *(quick if small else ("--network", name, *words)))

    def trained(stage: str, *needs: str) -> Step:
        return Step(stage, module("trainer", stage, workspace, *where), needs, partial=True, timed=True)

    steps = [
        Step("small", module("trainer", "run", tiny, "--compare", *where), partial=True, limit=150),
        Step(
            "attack",
            module("trainer", "attack", tiny, *effort, *where),
            ("small",),
            limit=600 if small else 150,
        ),
        Step("counting", counting("resnet18", "--minutes", 0.6), limit=120),
        trained("base"),
        Step("targets", module("trainer", "targets", workspace, *where), ("base",), partial=True),
        trained("surrogate", "targets"),
        Step("calibrate", module("trainer", "calibrate", workspace, "--json"), ("surrogate",)),
        Step(
            "export",
            module("export", "onnx", workspace, "--out", bundle, "--force", "--json"),
            ("surrogate",),
        ),
        # 1: a runtime that ran does not agree; 2: there is no CUDA. Both are findings.
        Step(
            "runtimes",
            script("runtimes.py", bundle, "--count", 50 if small else 2000, *packs),
            ("export",),
            (0, 1, 2),
            limit=150,
        ),
        Step("info", module("edge_sdk", "info", bundle, "--json"), ("export",)),
        Step("certify", module("trainer", "certify", workspace, *where), ("targets",), partial=True),
    ]
    # 2: it cannot be compiled here, which its log explains.
    compiled = module("trainer", "agree", tiny, "--engine", "torch-compile", "--draws", 20000, *where)
    slow = [
        Step("counting-resnet50", counting("resnet50", "--minutes", 0.6, "--rounds", 3), limit=150),
        Step("compiled", compiled, ("small",), (0, 2), limit=120),
    ]
    return steps if small else [*steps, *slow]


@click.command()
@click.option("--data", default="digits", show_default=True, help='An .npz, a folder, or "digits".')
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of all results; call again to continue.",
)
@click.option(
    "--settings",
    type=click.Path(exists=True, path_type=Path),
    help="An rrise.toml; by default one that fits.",
)
@click.option("--device", default="cuda", show_default=True)
@click.option("--minutes", default=8.5, show_default=True, help="Stop before that; the next call continues.")
@click.option("--small", is_flag=True, help="Few epochs and draws, to see that every step works.")
@run_command
def main(data: str, out: Path, settings: Path | None, device: str, minutes: float, small: bool) -> None:
    """Run every step that is not done and write what was found."""
    end = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "workspace" / "rrise.toml").exists():
        trainer.Workspace.create(out / "workspace", settings_for(data, settings, small))
    if not (out / "small" / "rrise.toml").exists():
        trainer.Workspace.create(out / "small", settings_for("digits", None, True))
    steps = all_steps(out, device, small)
    found = gather(out, steps, device)
    for step in steps:
        if not done(out, step) and all((out / f"{name}.json").exists() for name in step.needs):
            run_step(out, step, end)
            found = gather(out, steps, device)  # after every step: the call may be ended from outside
    click.echo(f"{out / 'all.json'}, {out / 'all.html'}: {len(found)} of {len(steps)} steps")
    if len(found) < len(steps):
        sys.exit(TIME_IS_UP if time.monotonic() > end - LEAST_SECONDS - SAVING else 1)


def gather(out: Path, steps: Sequence[Step], device: str) -> dict[str, Any]:
    """The results that there are, by step, after they were written to all.json and all.html."""
    finished = [step.name for step in steps if done(out, step)]
    found = {name: read_json(out / f"{name}.json", "the result of a step") for name in finished}
    logs = {step.name: out / f"{step.name}.log" for step in steps if step.name not in found}
    failed = {name: last_lines(path, LINES) for name, path in logs.items() if path.exists()}
    about = {"machine": describe_machine(), "packages": installed_versions(PACKAGES), "device": device}
    write_json(out / "all.json", {**about, "steps": found, "not done": failed})
    (out / "all.html").write_text(page(steps, found), encoding="utf-8")
    return found


def last_lines(path: Path, count: int) -> list[str]:
    """Of a log; what a progress line overwrote is left out."""
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    return [line.rsplit("\r", 1)[-1] for line in text.split("\n")][-count:]


def settings_for(data: str, settings: Path | None, small: bool) -> trainer.Config:
    """The given settings, or those that fit the data; `small` makes every stage a matter of seconds."""
    source = data if data == "digits" else str(Path(data).resolve())
    if settings is None:
        chosen = trainer.config_for(source, trainer.load_dataset(source).frames.shape)
    else:
        chosen = trainer.load_config(settings)
        chosen = dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, source=source))
    if not small:
        return chosen
    base = dataclasses.replace(chosen.base, epochs=8)
    targets = dataclasses.replace(
        chosen.targets, train=100, tuning=100, calibration=100, verification=100, certify=(100,), audit=100
    )
    surrogate = dataclasses.replace(chosen.surrogate, method="fresh", epochs=2)
    return dataclasses.replace(chosen, base=base, targets=targets, surrogate=surrogate)


def done(out: Path, step: Step) -> bool:
    """Whether a step has left its result."""
    return (out / f"{step.name}.json").exists()


def run_step(out: Path, step: Step, end: float) -> None:
    """Run one command within the time that is left; its JSON is kept where its exit status says that there is a result."""
    left = end - time.monotonic()
    if left < LEAST_SECONDS:
        return
    limit = min(left, step.limit)
    command = list(step.command)
    if step.timed:
        command += ["--minutes", f"{max(limit - SAVING, 1.0) / 60:.3f}"]
    click.echo(f"{step.name}: {' '.join(command)}", err=True)
    start, path = time.monotonic(), out / f"{step.name}.log"
    # Its own log, so that what it said is there also where the call is killed.
    with path.open("w", encoding="utf-8") as log:
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment())
        status, printed = waited(started, limit)
    seconds = time.monotonic() - start
    if status not in step.good:
        told = last_lines(path, 1)[0] or "it said nothing"
        again = "; it continues next time" if step.partial else ""
        click.echo(f"{step.name}: exit status {status} after {duration(seconds)}: {told}{again}", err=True)
        return
    result = {
        "command": command,
        "status": status,
        "seconds": seconds,
        "result": parsed(printed) if printed.strip() else last_lines(path, LINES),
    }
    write_json(out / f"{step.name}.json", result)


def waited(started: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    """Exit status and output of a command, which is asked to end when its time is up, and ended soon after that."""
    for left, end in ((seconds, started.terminate), (10.0, started.kill)):
        try:
            printed, _ = started.communicate(timeout=left)
            return started.returncode, printed
        except subprocess.TimeoutExpired:
            end()
    printed, _ = started.communicate()
    return started.returncode, printed


def environment() -> dict[str, str]:
    """That of this process, with the rrise that it runs: a checkout may be on the path without being installed."""
    paths = [
        str(Path(rrise.__file__).resolve().parent.parent),
        *os.environ.get("PYTHONPATH", "").split(os.pathsep),
    ]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def parsed(text: str) -> Any:
    """The JSON of a command, or its text where it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def page(steps: Sequence[Step], found: dict[str, Any]) -> str:
    """One page: what ran, how long, and every number that came out."""
    made = Page("What a machine with a GPU says")
    rows = [[s.name, duration(found[s.name]["seconds"]) if s.name in found else "not done"] for s in steps]
    made.table(["step", "time"], rows)
    for name, value in found.items():
        made.heading(name)
        made.table(["", ""], [[key, text] for key, text in flat(value["result"])])
    return made.render()


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested results as rows of dotted names."""
    if isinstance(value, dict):
        return [
            row for key, below in value.items() for row in flat(below, f"{name}.{key}" if name else str(key))
        ]
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return [(name, text if len(text) < 400 else text[:400] + " ...")]


if __name__ == "__main__":
    main()
