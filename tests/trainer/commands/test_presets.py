"""What `init` foretells: training by the network that trains, Monte Carlo by the engine that counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrise.trainer.commands import presets
from rrise.trainer.montecarlo.engine_choice import choose_engine
from rrise.trainer.settings.fitting import config_for
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
    monkeypatch.setattr(presets, "_passes_per_second", lambda workspace: 5000.0)
    asked = edit(digits, 'engine = "auto"', 'engine = "onnxruntime"')
    seconds = {
        item.stage: item.passes / item.seconds for item in presets.estimates(asked, SIZES) if item.seconds
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
    found = {item.stage: item.seconds for item in presets.estimates(digits, SIZES)}
    assert wanted == ["auto"] and all(seconds and seconds > 0 for seconds in found.values())


def test_engines_are_not_tried_on_a_network_that_init_would_wait_for(
    digits: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "_passes_per_second", lambda workspace: 100.0)
    monkeypatch.setattr(presets, "choose_engine", lambda *arguments, **options: pytest.fail("was tried"))
    for item in presets.estimates(digits, SIZES):
        assert item.seconds == pytest.approx(item.passes / 100)
