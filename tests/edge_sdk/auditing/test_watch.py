"""`rrise-edge watch --audit`: off by default, refuses an unproven base, reports what was found."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from rrise.calibration.storage.digests import file_digest
from rrise.edge_sdk.cli import main
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, frame in enumerate(helpers.random_frames(Spec(), 6)):
        Image.fromarray(frame[:, :, 0]).save(folder / f"{number}.png")
    return folder


def _watch(*words):
    return CliRunner().invoke(main, ["watch", *(str(word) for word in words), "--json"])


def test_audits_are_off_unless_asked_for(bundle, pictures):
    result = _watch(bundle, pictures)
    assert result.exit_code == 0 and "audits" not in json.loads(result.output)


def test_an_unproven_base_is_refused(bundle, pictures, honest):
    result = _watch(bundle, pictures, "--audit", honest)
    assert result.exit_code == 2 and f"accept this file by its digest {file_digest(honest)}" in result.output


def test_an_accepted_base_audits_the_frames_of_a_recording(bundle, pictures, honest):
    accepted = ("--audit", honest, "--accept-base", file_digest(honest), "--audit-rate", 1e6)
    result = _watch(bundle, pictures, *accepted, "--audit-interval", 0)
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)["audits"]
    assert told["taken"] >= 2 and told["taken"] + told["dropped"] == 6 and told["problem"] == ""
    assert told["right"] + told["undecided"] == told["taken"] and "not proven" in told["base"]
