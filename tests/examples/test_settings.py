"""The commented example settings are settings, and say what `rrise-train init` would say beside each."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from rrise.trainer.settings.config import load_config, parse_config
from rrise.trainer.settings.text import COMMENTS, SECTIONS, commented

FILES = sorted((Path(__file__).parents[2] / "examples" / "settings").glob("*.toml"))


def test_there_are_examples() -> None:
    assert {"digits.toml", "traffic_signs_clips.toml"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_example_is_read_and_written_alike(path: Path) -> None:
    config = load_config(path)
    text = commented(config)
    assert parse_config(tomllib.loads(text)) == config
    # Settings of other sections than those that are explained here may be added without a comment.
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_comments_speak_of_settings_that_exist() -> None:
    tables = load_config(FILES[0]).to_json()
    assert all(section in tables for section in SECTIONS)
    for key in COMMENTS:
        section, name = key.split(".")
        assert name in tables[section], key
    for section in ("data", "splits", "preprocess", "smoothing"):
        assert {f"{section}.{name}" for name in tables[section]} <= set(COMMENTS)
