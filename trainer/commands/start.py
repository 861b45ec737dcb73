"""`rrise-train init` and `rrise-train run`: settings that fit, and every stage that is not done."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from rrise.calibration.console import json_option, run_command, summary
from rrise.calibration.reports.report import summary_rows
from rrise.trainer.base_classifier.stage import how_to_train, train_base
from rrise.trainer.commands.presets import (
    Estimate,
    estimates,
    fitting_config,
    memory_note,
    untrained_network,
)
from rrise.trainer.commands.stages import device_option
from rrise.trainer.counts.certify import certify_test_split
from rrise.trainer.counts.forecast import Forecast
from rrise.trainer.counts.targets import TargetsResult, build_targets
from rrise.trainer.data.geometry import parse_camera
from rrise.trainer.data.settings import DataConfig
from rrise.trainer.data.splits import SPLIT_NAMES
from rrise.trainer.data.survey import Survey, survey
from rrise.trainer.errors import TrainerError
from rrise.trainer.networks import read_safetensors
from rrise.trainer.networks.saved_folders import PREFIX, folder_of
from rrise.trainer.reports.full import full_report
from rrise.trainer.reports.workspace_page import update_page
from rrise.trainer.scores.calibrate import calibrate_surrogate
from rrise.trainer.scores.choice import guarantee_for, too_few_frames
from rrise.trainer.settings.config import Config, load_config, parse_config
from rrise.trainer.settings.fitting import PRESETS, named_network
from rrise.trainer.streams import comparison_streams
from rrise.trainer.surrogates.stage import train_surrogate
from rrise.trainer.workspace import Workspace


@click.command("init")
@click.argument("workspace", type=click.Path(path_type=Path))
@click.option(
    "--data",
    default="digits",
    show_default=True,
    help='"digits", an .npz file, a folder of class folders (images, videos or bags), a .csv or .jsonl listing, a Zarr group, '
    ".tar shards, or a Hugging Face data set on disk.",
)
@click.option("--held-out", default="", help="Another such source: all splits but train come from it alone.")
@click.option("--config", "template", type=click.Path(path_type=Path), help="An rrise.toml to start from.")
@click.option(
    "--preset",
    help=f"One of {', '.join(PRESETS)}: epochs and samples; by default standard. Not with --config.",
)
@click.option("--sigma", type=float, help="Noise standard deviation in [0, 1] pixel units, such as 0.25.")
@click.option(
    "--network",
    default="",
    help='"timm/NAME", "transformers/FOLDER" and the like, or "package.module:function".',
)
@click.option(
    "--weights",
    default="",
    help="The network's safetensors file: a library's network is fine-tuned from it under noise, your own is taken as it is.",
)
@click.option("--camera", default="", help="Frames of the robot's camera, such as 640x480 (width x height).")
@click.option("--clips", default="", help='Which file names belong together, such as "{clip}_{frame}".')
@click.option("--every", type=int, default=1, help="Of videos and bags: take each so-many-th frame.")
@click.option("--topic", default="", help="Image topic of bags and MCAP files; by default the only one.")
@click.option("--calibration", type=int, help="Number of calibration frames.")
@click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read, and record which.")
@json_option
@run_command
def init(workspace: Path, json_flag: bool, **asked: Any) -> None:
    """Make WORKSPACE with settings that fit data and machine, read the images once, and show what came of it.

    The splits are drawn by the first stage, so rrise.toml can still be edited.
    """
    config = _config(workspace, **asked)
    if (workspace / "rrise.toml").exists():
        made = Workspace.create(workspace, config)
    else:
        # The frames are read before there is a workspace: what cannot be used leaves none behind.
        made = Workspace(workspace, config)
        _ = made.data.catalogue, made.foretold_splits()
        made = Workspace.create(workspace, config)
    _show(made, json_flag)


def _config(
    workspace: Path,
    *,
    data: str,
    held_out: str,
    template: Path | None,
    preset: str | None,
    sigma: float | None,
    network: str,
    weights: str,
    camera: str,
    clips: str,
    calibration: int | None,
    skip_broken: bool,
    every: int,
    topic: str,
) -> Config:
    chosen = DataConfig(
        _place(data),
        _place(held_out),
        parse_camera(camera) if camera else (),
        clips,
        skip_broken,
        every,
        topic,
    )
    if template is None:
        level = 0.25 if sigma is None else sigma
        config = fitting_config(
            workspace,
            chosen,
            sigma=level,
            network=_network(network),
            weights=_weights(weights),
            preset="standard" if preset is None else preset,
        )
    else:
        if preset is not None:
            raise TrainerError(
                f"--preset {preset} with --config {template}: that file has epochs and samples; expected one of the two"
            )
        config = load_config(template)
        # What the command line says replaces what the template says, and nothing else.
        given = {key: value for key, value in asdict(chosen).items() if value != getattr(DataConfig(), key)}
        config = replace(config, data=replace(config.data, **given))
    tables = config.to_json()
    if template is not None and network:
        # The network in place of the template's, which takes along the weights that belong to it.
        tables["base"] |= {"factory": "", "onnx": "", "black_box": "", "network": "", "weights": ""}
        tables["base"] |= named_network(_network(network))
    if template is not None and weights:
        tables["base"]["weights"] = _weights(weights)
    if sigma is not None:
        tables["smoothing"]["sigma"] = sigma
    if calibration is not None:
        tables["splits"]["calibration"] = calibration
    return parse_config(tables)


def _place(source: str) -> str:
    return source if source in ("", "digits") or "://" in source else str(Path(source).resolve())


def _weights(name: str) -> str:
    """The whole path of --weights, which is looked at before a workspace is made for it."""
    if not name:
        return ""
    path = Path(name).resolve()
    if not path.is_file():
        raise TrainerError(
            f"--weights: got {path}, which is no file; expected the network's weights as a safetensors file"
        )
    read_safetensors(path, weights=False)
    return str(path)


def _network(name: str) -> str:
    """The folder of a saved network as a whole path; it is looked for from here, as data are."""
    folder = folder_of(name, Path.cwd())
    return name if folder is None else f"{PREFIX}{folder.resolve()}"


def _show(made: Workspace, json_flag: bool) -> None:
    known, splits = made.data.catalogue, made.foretold_splits()
    source = made.data.source
    names = [] if source is None else [source.pictures.where(int(row)) for row in known.rows[:20000]]
    found = survey(known, splits, names)
    sizes = {name: len(splits.indices(name)) for name in SPLIT_NAMES}
    shape, seen = "x".join(map(str, known.geometry.frame_shape)), made.preprocess.size
    network = untrained_network(made)
    expected = estimates(made, sizes, network)
    rows = [
        (
            "frames",
            f"{len(known):,} of {shape}, {len(known.class_names)} classes, {found.clips:,} independent groups",
        ),
        ("network sees", f"{seen[0]}x{seen[1]} pixels ([preprocess] in rrise.toml)"),
        *((name, f"{size:,}") for name, size in sizes.items()),
        *_base_rows(made),
        *found.rows(),
        *_promise_rows(made),
        *(item.row() for item in expected),
        ("memory", memory_note(made, network)),
    ]
    if too_few := too_few_frames(made, splits):
        rows.append(("attention", too_few))
    rows += [
        ("settings", f"{made.path / 'rrise.toml'} (edit them now: the first stage draws the splits)"),
        ("next", made.command("rrise-train run")),
        update_page(made, "rrise-train init"),
    ]
    summary("workspace", rows, _json(found, sizes, expected), json_flag)


def _base_rows(made: Workspace) -> list[tuple[str, str]]:
    """What a library's network starts from, which is easily another thing than what was meant."""
    name = made.config.base.network
    if not name:
        return []
    how = {
        "fine-tune": "goes on from its weights, under noise",
        "none": "as its weights are: few such networks can be certified, since they never saw noise",
    }.get(
        how_to_train(made), "starts from fresh weights; --weights FILE gives a safetensors file to go on from"
    )
    return [("base classifier", f"{name}, {how}")]


def _promise_rows(made: Workspace) -> list[tuple[str, str]]:
    noises = made.config.guard.noise or (0.0,)
    promise = min(
        (guarantee_for(made, noise).spent(1) for noise in noises), key=lambda item: item.frames_needed()
    )
    return [
        (
            "promise needs",
            f"{promise.frames_needed():,} {promise.unit} at error {made.config.guarantee.error}; a ten times "
            f"smaller error {promise.ten_times_smaller().frames_needed():,}",
        )
    ]


def _json(found: Survey, sizes: dict[str, int], expected: tuple[Estimate, ...]) -> dict[str, Any]:
    table = {name: dict(zip(SPLIT_NAMES, counts, strict=True)) for name, counts in found.classes}
    return {
        **asdict(found),
        "classes": table,
        "attention": list(found.attention),
        "splits": sizes,
        "estimates": [asdict(item) for item in expected],
    }


@click.command("run")
@click.argument("workspace", type=click.Path(path_type=Path))
@device_option
@click.option("--compare", is_flag=True, help="Also draw the comparison with Monte Carlo (`certify`).")
@click.option("--allow-code", is_flag=True, help="Run the network factory that rrise.toml names.")
@json_option
@run_command
def run(workspace: Path, device: str, compare: bool, allow_code: bool, json_flag: bool) -> None:
    """Do every stage that a bundle needs and that is not done, and write the report. Stopped at any time, it continues.

    The comparison with Monte Carlo is drawn with --compare only; what it would cost is said at the end.
    """
    opened = Workspace.open(workspace)
    say("base classifier")
    base = train_base(opened, allow_code=allow_code, device=device)
    update_page(opened, "rrise-train run, base classifier")
    say(f"accuracy of one noisy pass {base.noisy_accuracy:.3f}; class counts by Monte Carlo")
    drawn = build_targets(opened, allow_code=allow_code, device=device, announce=say)
    update_page(opened, "rrise-train run, class counts")
    say("surrogate")
    trained = train_surrogate(opened, allow_code=allow_code, device=device)
    update_page(opened, "rrise-train run, surrogate")
    if compare:
        say("comparison: CERTIFY and audit")
        certify_test_split(opened, allow_code=allow_code, device=device, announce=say)
    say("calibration")
    result = calibrate_surrogate(opened, allow_code=allow_code)
    compared = result.judged_on == "test" and opened.certify_path.exists()
    numbers = full_report(opened)
    rows = [
        ("surrogate", f"{trained.method}, worth most on the tuning split"),
        *summary_rows(numbers),
        ("report", str(opened.path / "report" / "report.html")),
        update_page(opened, "rrise-train run"),
        ("next", opened.command("rrise-export onnx")),
        *([] if compared else [_comparison_row(opened, drawn)]),
    ]
    summary("all stages are done", rows, dict(numbers), json_flag)


def _comparison_row(workspace: Workspace, drawn: TargetsResult) -> tuple[str, str]:
    """What the comparison with Monte Carlo would take, by the speed of the draws just made where there were any."""
    count = len(workspace.splits.test)
    evaluations = sum(stream.num_samples for stream in comparison_streams(workspace)) * count
    seconds = evaluations / drawn.rate if drawn.drawn else None
    return (
        "to compare",
        f"{workspace.command('rrise-train run')} --compare (CERTIFY and audit on {count} test frames: "
        f"{Forecast(evaluations, seconds)}; no bundle needs it)",
    )


def say(what: str) -> None:
    """What begins now, on stderr."""
    click.echo(f"{what} ...", err=True)
