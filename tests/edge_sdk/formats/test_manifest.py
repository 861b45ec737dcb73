"""The manifest: what is written is read, and what contradicts the format is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.manifest import InputSpec, Manifest


@pytest.fixture
def manifest(hand_bundle):
    return Manifest.load(hand_bundle / "manifest.json")


def test_round_trip_keeps_content_and_digest(manifest, tmp_path):
    manifest.save(tmp_path / "manifest.json")
    again = Manifest.load(tmp_path / "manifest.json")
    assert again == manifest
    assert again.digest == manifest.digest != replace(manifest, sigma=0.5).digest


def test_other_versions_and_formats_are_refused(manifest):
    for change in ({"version": 2}, {"format": "other"}):
        with pytest.raises(BundleError, match=r"install that version here|restore it, or export"):
            Manifest.from_json({**manifest.to_json(), **change})


def test_every_missing_entry_is_refused(manifest):
    for key in manifest.to_json():
        value = manifest.to_json()
        del value[key]
        with pytest.raises(BundleError):
            Manifest.from_json(value)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float16"},
        {"layout": "NCHW"},
        {"shape": (1, 8, 8)},
        {"shape": (1, 8, 0, 3)},
        {"encoding": "cmyk"},
    ],
)
def test_impossible_inputs_are_refused(change):
    sound: dict[str, Any] = {"dtype": "uint8", "shape": (1, 8, 8, 3), "layout": "NHWC", "encoding": "rgb8"}
    assert InputSpec(**sound).frame_shape == (8, 8, 3)
    with pytest.raises(BundleError, match="expected"):
        InputSpec(**{**sound, **change})


@pytest.mark.parametrize("name", ["../../etc/fp32", "a/b", "", ".hidden", "fp32*", "a\nb"])
def test_an_artefact_is_named_like_a_file(manifest, name):
    """Engines are written under its name."""
    with pytest.raises(BundleError, match="manifest artefacts: got the name"):
        replace(manifest, artefacts={name: next(iter(manifest.artefacts.values()))})
