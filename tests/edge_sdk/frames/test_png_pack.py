"""Reference packs as folders of PNG: nothing is lost, and nothing that was changed is taken for the pack."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rrise.calibration.errors import CalibrationError, RriseError
from rrise.calibration.tables.references import References
from rrise.edge_sdk.cli import main
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.frames.png_pack import COUNTS_FILE, export_png, import_png, load_references
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

COLOUR = Spec((6, 5, 3), seed=1)


@pytest.fixture(scope="module")
def colour() -> References:
    return helpers.make_references(COLOUR, "verification", 12, 4)


@pytest.fixture(scope="module")
def written(colour, tmp_path_factory):
    folder = tmp_path_factory.mktemp("png") / "pack"
    export_png(colour, folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "pack")


def _same(first: References, second: References) -> bool:
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(References)]
    return all(
        np.array_equal(mine, theirs) and np.asarray(mine).dtype == np.asarray(theirs).dtype
        for mine, theirs in pairs
    )


def test_a_pack_comes_back_bit_for_bit(colour, written, tmp_path):
    assert _same(import_png(written), colour)
    grey = helpers.make_references(Spec(), "calibration", 3, 4)
    size = export_png(grey, tmp_path / "grey")
    assert _same(import_png(tmp_path / "grey"), grey)
    assert size.frames == 3 and size.raw == 3 * 64
    assert size.pictures == sum(path.stat().st_size for path in (tmp_path / "grey/frames").iterdir())
    assert size.text().startswith("3 raw camera images")


def test_shares_of_beta_come_back(colour, tmp_path):
    staged = replace(colour, level=np.full(len(colour), colour.beta / 10))
    export_png(staged, tmp_path / "staged")
    assert np.array_equal(import_png(tmp_path / "staged").level, staged.level)
    assert import_png(tmp_path / "staged").content_digest == staged.content_digest


def test_bgr_frames_are_pictures_with_the_right_colours(colour, tmp_path):
    export_png(colour, tmp_path / "bgr", encoding="bgr8")
    with Image.open(tmp_path / "bgr/frames/000003.png") as image:
        assert np.array_equal(np.asarray(image), colour.frames[3][:, :, ::-1])
    assert _same(import_png(tmp_path / "bgr"), colour)


def test_changed_pictures_are_refused(folder):
    path = folder / "frames/000002.png"
    original = path.read_bytes()
    with Image.open(path) as image:
        pixels = np.asarray(image).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    with pytest.raises(EdgeError, match=r"1 pictures do not match their digest, first 000002\.png"):
        import_png(folder)
    with Image.open(folder / "frames/000003.png") as image:
        image.convert("P").save(path)
    with pytest.raises(EdgeError, match=r"got \['PNG', 'P'.*expected \['PNG', 'RGB'"):
        import_png(folder)
    Image.fromarray(np.zeros((60, 50, 3), np.uint8)).save(path)
    with pytest.raises(EdgeError, match="expected"):
        import_png(folder)
    path.write_bytes(original[:60])
    with pytest.raises(EdgeError, match="cannot be read as a PNG"):
        import_png(folder)


def test_exchanged_missing_and_extra_pictures_are_refused(folder):
    first, second = folder / "frames/000000.png", folder / "frames/000001.png"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(EdgeError, match="2 pictures do not match"):
        import_png(folder)
    shutil.copy(first, folder / "frames/999999.png")
    with pytest.raises(EdgeError, match="too many"):
        import_png(folder)
    (folder / "frames/999999.png").unlink()
    first.unlink()
    with pytest.raises(EdgeError, match="missing"):
        import_png(folder)


def test_a_folder_without_counts_or_with_damaged_ones_is_refused(folder):
    path = folder / COUNTS_FILE
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(60):
        flipped = bytearray(data)
        flipped[int(rng.integers(len(flipped)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            import_png(folder)
        except RriseError:
            continue
    path.unlink()
    with pytest.raises(CalibrationError, match="reference folder"):
        import_png(folder)


def test_what_cannot_be_written_is_refused(colour, written, tmp_path):
    with pytest.raises(EdgeError, match="new or empty folder"):
        export_png(colour, written)
    for encoding in ("mono8", "yuv422"):
        with pytest.raises(EdgeError, match="channels"):
            export_png(colour, tmp_path / "other", encoding=encoding)


def test_a_folder_does_where_a_pack_does(hand_bundle, pack, tmp_path):
    export_png(References.load(pack), tmp_path / "folder")
    assert _same(load_references(tmp_path / "folder"), load_references(pack))
    words = ["verify", str(hand_bundle), "--references", str(tmp_path / "folder"), "--dry-run"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output


def test_the_commands(pack, tmp_path):
    run = CliRunner().invoke
    result = run(main, ["references", "export", str(pack), str(tmp_path / "folder"), "--json"])
    assert result.exit_code == 0 and json.loads(result.output)["frames"] == 200
    words = ["references", "import", str(tmp_path / "folder"), str(tmp_path / "back.npz")]
    result = run(main, words)
    assert result.exit_code == 0 and "200 raw camera images" in result.output
    assert _same(References.load(tmp_path / "back.npz"), References.load(pack))
    assert run(main, words).exit_code == 2
