from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rrise.calibration.errors import RriseError
from rrise.calibration.tables.evaluation import audit_ceiling
from rrise.trainer.data.settings import DataConfig
from rrise.trainer.errors import TrainerError
from rrise.trainer.settings.config import Config, SurrogateConfig, load_config, parse_config
from rrise.trainer.settings.fitting import config_for, settings_for


def test_toml_round_trip(tmp_path: Path) -> None:
    config = parse_config(
        {
            "data": {"source": 'a "quoted" \\ path'},
            "base": {"widths": [8, 16], "blocks": [1, 2], "flip": True},
            "splits": {"tuning": 0.125, "test": 10},
            "guarantee": {"error": "1/30"},
        }
    )
    (tmp_path / "rrise.toml").write_text(config.to_toml())
    assert load_config(tmp_path / "rrise.toml") == config
    assert config.to_toml().startswith('format = "rrise-settings/1"\n')


def test_settings_of_other_versions(tmp_path: Path) -> None:
    path = tmp_path / "rrise.toml"
    path.write_text("[smoothing]\nsigma = 0.5\n")  # release 0.1 named no format
    assert load_config(path).smoothing.sigma == 0.5
    path.write_text('format = "rrise-settings/2"\n[smoothing]\nsigmas = [0.5]\n')
    with pytest.raises(TrainerError, match=r"rrise.toml: settings: written by a newer version of rrise"):
        load_config(path)
    path.write_text("format = 3\n")
    with pytest.raises(TrainerError, match="settings: got format 3"):
        load_config(path)


def test_empty_file_is_the_digits_demo(tmp_path: Path) -> None:
    (tmp_path / "rrise.toml").write_text("")
    assert load_config(tmp_path / "rrise.toml") == Config()


def test_settings_to_start_from_fit_the_data(tmp_path: Path) -> None:
    assert config_for("digits", (1797, 8, 8, 1)) == replace(Config(), surrogate=SurrogateConfig("fresh"))
    # A certificate of three sigma, the largest that reports show, can be proved by the audit.
    assert audit_ceiling(Config().targets.audit, 1.0) > 3.1
    few = config_for(str(tmp_path / "x"), (600, 32, 48, 3))
    assert few.splits.calibration == 0.2 and few.preprocess.size == () and few.data.source == f"{tmp_path}/x"
    # The tuning frames choose the recipe; all of them see as many frames as one would on single copies. A quick look tries none.
    assert (few.base.recipe, few.base.copies, few.base.epochs) == ("auto", 2, 40) and len(
        few.base.strengths
    ) > 1
    quick = settings_for(DataConfig("x"), 600, (32, 48), preset="quick")
    assert (quick.base.recipe, quick.base.copies, quick.base.epochs) == ("gaussian", 1, 20)
    library = settings_for(DataConfig("x"), 100_000, (224, 224), network="torchvision/mobilenet_v2")
    assert (library.base.recipe, library.base.epochs) == ("auto", 6)
    # Larger images than the network is made for would take hours: resized, with their proportions.
    assert config_for("x", (5000, 480, 640, 3)).preprocess.size == (24, 32)
    assert config_for("x", (5000, 40, 640, 3)).preprocess.size == (8, 32)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"smoothing": {"sigme": 0.5}}, r"\[smoothing\] sigme: unknown.*Did you mean 'sigma'"),
        ({"smothing": {}}, r"\[smothing\]: unknown.*Did you mean 'smoothing'"),
        ({"smoothing": {"sigma": 0}}, r"sigma: got 0.0, expected a number above 0"),
        ({"smoothing": {"sigma": -0.25}}, "pixel units"),
        ({"smoothing": {"sigma": float("nan")}}, "sigma: got nan"),
        ({"smoothing": {"sigma": "0.25"}}, "got '0.25', expected float"),
        ({"guarantee": {"error": "1.5"}}, r"error: got 1.5, expected a number strictly between 0 and 1"),
        ({"guarantee": {"beta": "x"}}, "beta"),
        ({"guarantee": {"error": 0.05}}, "as text in quotes"),
        ({"guarantee": {"kind": "pak"}}, "Did you mean 'pac'"),
        ({"targets": {"certify_alpha": "0"}}, "certify_alpha"),
        ({"targets": {"train": 0}}, r"\[targets\] train: got 0"),
        ({"targets": {"certify": [100, -1]}}, "certify: got -1"),
        ({"targets": {"dtype": "int8"}}, "expected one of float32"),
        ({"targets": {"certify": []}}, r"certify: got \[\], expected different numbers"),
        ({"targets": {"certify": [100, 100]}}, r"certify: got \[100, 100\]"),
        ({"targets": {"batch_size": -1}}, "batch_size: got -1, expected 0 or"),
        ({"surrogate": {"stored_epochs": 0}}, "stored_epochs: got 0, expected a number above 0"),
        ({"base": {"stem_stride": 0}}, "stem_stride: got 0"),
        ({"base": {"shift": -1}}, r"\[base\] shift: got -1"),
        ({"splits": {"seed": -1}}, r"\[splits\] seed: got -1"),
        ({"surrogate": {"weight_decay": -0.1}}, r"\[surrogate\] weight_decay: got -0.1"),
        (
            {"acceptance": {"largest_offset": float("nan")}},
            "largest_offset: got nan, expected a finite number",
        ),
        ({"guarantee": {"radius": float("inf")}}, "radius: got inf"),
        ({"guarantee": {"radius": [0.5, 0.25]}}, r"radius: got \[0.5, 0.25\], expected 0, a positive"),
        ({"guarantee": {"radius": [0.0, 0.25]}}, r"radius: got \[0.0, 0.25\]"),
        ({"guarantee": {"radius": []}}, r"radius: got \[\]"),
        ({"guarantee": {"radius": "0.25"}}, "radius: got '0.25', expected float or a list"),
        ({"guarantee": {"radius": [0.25, "x"]}}, "radius: got 'x', expected float"),
        ({"guarantee": {"radius": [0.25, 0.5], "weights": [1]}}, "a positive number for each of the 2 radii"),
        ({"guarantee": {"radius": 0.25, "weights": [-1]}}, "a positive number for each of the 1 radii"),
        ({"guarantee": {"weights": [1]}}, "a positive number for each of the 0 radii"),
        ({"guarantee": {"map": "staircase"}}, "'staircase' without a radius"),
        ({"splits": {"test": 1.5}}, "share below 1"),
        ({"base": {"widths": [8, 16], "blocks": [1]}}, "same number"),
        ({"base": {"factory": "a:b"}}, "got 'a:b' without weights, expected both.*--weights FILE"),
        ({"base": {"network": "resnet18"}}, "torchvision/NAME.*a network of your own is a factory"),
        ({"data": {"every": 0}}, r"\[data\] every: got 0"),
        ({"base": {"epochs": True}}, "got True, expected int"),
        ({"surrogate": {"method": "freash"}}, "Did you mean 'fresh'"),
        ({"preprocess": {"size": 8}}, "expected a list"),
        ({"base": 3}, "expected a table"),
    ],
)
def test_bad_settings_are_refused(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(RriseError, match=message):
        parse_config(tables)


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "rrise.toml").write_text("[base\n")
    with pytest.raises(TrainerError, match=r"rrise.toml: not valid TOML"):
        load_config(tmp_path / "rrise.toml")
    with pytest.raises(TrainerError, match="rrise-train init"):
        load_config(tmp_path / "nothing.toml")
