"""What `init` foretells: training by the network that trains, Monte Carlo by the engine that counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rrise.trainer import networks
from rrise.trainer.cli import main
from rrise.trainer.commands import presets
from rrise.trainer.data.settings import DataConfig
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.engine_choice import choose_engine
from rrise.trainer.settings.fitting import config_for, named_network, settings_for
from rrise.trainer.workspace import Workspace
from tests.trainer.helpers import edit

SIZES = {"train": 902, "tuning": 180, "calibration": 300, "verification": 215, "test": 200}


@pytest.fixture
def digits(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "w", config_for("digits", (1797, 8, 8, 1)))


def test_monte_carlo_is_foretold_by_the_engine_and_training_by_the_module(
    digits: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[str] = []

    def rate(labeller: object, *arguments: object, **options: object) -> float:
        engines.append(labeller.name)  # type: ignore[attr-defined]
        return 20000.0

    monkeypatch.setattr(presets, "counting_rate", rate)
    monkeypatch.setattr(presets, "_passes_per_second", lambda *arguments: 5000.0)
    asked = edit(digits, 'engine = "auto"', 'engine = "onnxruntime"')
    seconds = {
        item.stage: item.passes / item.seconds
        for item in presets.estimates(asked, SIZES, presets.untrained_network(asked))
        if item.seconds
    }
    assert seconds == pytest.approx({"base": 5e3, "targets": 2e4, "surrogate": 5e3, "certify and audit": 2e4})
    assert engines == ["onnxruntime"], "the engine that the settings name, on the network in its file"


def test_the_fastest_engine_is_looked_for_where_none_is_named(
    digits: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[str] = []
    choose = choose_engine

    def chosen(forms: object, noisy: object, **options: object) -> object:
        wanted.append(str(options["wanted"]))
        assert forms.onnx is not None  # type: ignore[attr-defined]
        return choose(forms, noisy, seconds=0.01, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(presets, "choose_engine", chosen)
    found = {
        item.stage: item.seconds
        for item in presets.estimates(digits, SIZES, presets.untrained_network(digits))
    }
    assert wanted == ["auto"] and all(seconds and seconds > 0 for seconds in found.values())


def test_engines_are_not_tried_on_a_network_that_init_would_wait_for(
    digits: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "_passes_per_second", lambda *arguments: 100.0)
    monkeypatch.setattr(presets, "choose_engine", lambda *arguments, **options: pytest.fail("was tried"))
    for item in presets.estimates(digits, SIZES, presets.untrained_network(digits)):
        assert item.seconds == pytest.approx(item.passes / 100)


def test_init_builds_the_network_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a large one, and its speed, its engine and its memory are all asked for."""
    built: list[object] = []
    build = networks.build_network
    monkeypatch.setattr(presets, "build_network", lambda spec: built.append(spec) or build(spec))
    monkeypatch.setattr(presets, "choose_engine", lambda *arguments, **options: _refuse())
    done = CliRunner().invoke(main, ["init", str(tmp_path / "w")])
    assert done.exit_code == 0 and "MiB while training" in done.output, done.output
    assert len(built) == 1


def _refuse() -> None:
    raise TrainerError("none")


@pytest.mark.parametrize(
    ("network", "key"),
    [
        ("my_package:make", "factory"),
        ("timm/resnet18", "network"),
        ("timm/hf-hub:somebody/resnet18", "network"),
        ("transformers/C:\\models\\mine", "network"),
    ],
)
def test_a_library_may_have_colons_in_its_names(network: str, key: str) -> None:
    assert named_network(network) == {key: network}
    made = settings_for(DataConfig("x.npz"), 4000, (32, 32), network=network, weights="w")
    assert getattr(made.base, key) == network
