"""Opening a bundle: whatever is changed, missing, added or contradictory is refused with its name."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rrise.calibration.promise.record import Calibration
from rrise.edge_sdk import Bundle, BundleError, Certifier
from rrise.edge_sdk.formats.manifest import Manifest
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import SIGMA, Spec


def test_a_sound_bundle_opens(hand_bundle):
    bundle = Bundle.open(hand_bundle)
    assert bundle.artefact_name() == "fp32" == bundle.artefact_name("fp32")
    assert bundle.calibrations["fp32"].num_frames == 300
    assert len(bundle.recorded("fp32")) == 200
    assert len(bundle.model("fp32")) > 1000


def test_what_is_no_bundle_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BundleError, match=r"rrise-export"):
            Bundle.open(path)


@pytest.mark.parametrize(
    "name",
    [
        "surrogate.onnx",
        "calibration/fp32.json",
        "probe.npz",
        "recorded/fp32-verification.npz",
        "manifest.json",
    ],
)
def test_a_changed_byte_is_named(copied, name):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=name.split("/")[-1]):
        Bundle.open(copied)


@pytest.mark.parametrize("name", ["surrogate.onnx", "calibration/fp32.json", "probe.npz"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.open(copied)


def test_an_unlisted_file_is_refused_but_device_files_are_not(copied):
    (copied / "device" / "here").mkdir(parents=True)
    (copied / "device" / "here" / "engine.plan").write_bytes(b"1")
    assert Bundle.open(copied)
    (copied / "calibration" / "extra.json").write_text("{}")
    with pytest.raises(BundleError, match=r"calibration/extra\.json is not in the manifest"):
        Bundle.open(copied)


def test_links_are_refused(copied, tmp_path):
    outside = tmp_path / "outside.onnx"
    (copied / "surrogate.onnx").rename(outside)
    (copied / "surrogate.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="symbolic link"):
        Bundle.open(copied)


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/hostname",
        "a/../../b",
        "c:\\x",
        "a\\b",
        "./probe.npz",
        "device/x",
        "manifest.json",
        "",
    ],
)
def test_paths_out_of_the_bundle_are_refused(copied, name):
    manifest = Manifest.load(copied / "manifest.json")
    replace(manifest, files={**manifest.files, name: "0" * 64}).save(copied / "manifest.json")
    with pytest.raises(BundleError, match="plain path"):
        Bundle.open(copied)


def test_artefact_and_file_list_must_agree(copied):
    manifest = Manifest.load(copied / "manifest.json")
    wrong = {"fp32": replace(manifest.artefacts["fp32"], sha256="0" * 64)}
    replace(manifest, artefacts=wrong).save(copied / "manifest.json")
    with pytest.raises(BundleError, match="another digest"):
        Bundle.open(copied)
    replace(manifest, probe="other.npz").save(copied / "manifest.json")
    with pytest.raises(BundleError, match=r"other\.npz is named"):
        Bundle.open(copied)


def test_unknown_artefact_is_answered_with_the_known_ones(hand_bundle):
    with pytest.raises(BundleError, match=r"'int8'.*fp32"):
        Bundle.open(hand_bundle).artefact_name("int8")


def _forge(copied, *, offset=None, sigma=SIGMA, drop=(), change=None):
    """Put in a graph that differs in one respect, with digests kept consistent."""
    record = Calibration.load(copied / "calibration" / "fp32.json")
    spec, true_offset = Spec(), record.head.offset
    text = {**helpers.metadata(spec, true_offset, record.binding()), **(change or {})}
    kept = {key: value for key, value in text.items() if key not in drop}
    helpers.replace_graph(copied, helpers.graph(spec, true_offset if offset is None else offset, kept, sigma))


def test_the_forger_alone_does_no_harm(copied):
    _forge(copied)
    assert Certifier.load(copied).state.state == "calibrated"


def test_graph_with_a_smaller_offset_is_refused(copied):
    offset = helpers.head_of(copied).offset[0]
    _forge(copied, offset=(float(np.nextafter(np.float32(offset), np.float32(0))),))
    with pytest.raises(BundleError, match="offset"):
        Certifier.load(copied)


def test_graph_with_another_sigma_is_refused(copied):
    _forge(copied, sigma=float(np.nextafter(np.float32(SIGMA), np.float32(1))))
    with pytest.raises(BundleError, match="sigma"):
        Certifier.load(copied)


def test_graph_without_metadata_is_refused(copied):
    _forge(copied, drop=tuple(helpers.metadata(Spec(), (0.0,), "")))
    with pytest.raises(BundleError, match="missing"):
        Certifier.load(copied)


@pytest.mark.parametrize(
    ("key", "value"),
    [("rrise.calibration", ""), ("rrise.calibration", "0" * 64), ("rrise.base", "0" * 64), ("rrise.sigma", "0.5"),
     ("rrise.encoding", "rgb8"), ("rrise.classes", '["right", "straight", "left"]'), ("rrise.offset", "[0.0]"),
     ("rrise.preprocessing", "0" * 64)],
)  # fmt: skip
def test_metadata_that_disagrees_is_refused(copied, key, value):
    _forge(copied, change={key: value})
    with pytest.raises(BundleError):
        Certifier.load(copied)


@pytest.mark.parametrize(
    ("path", "value"),
    [(("head", "offset"), [0.0]), (("head", "sigma"), 0.5), (("base_digest",), "0" * 64), (("num_frames",), 10**6),
     (("guarantee", "error"), "0.001"), (("head", "offset"), ["inf"])],
)  # fmt: skip
def test_an_edited_calibration_record_is_refused(copied, path, value):
    file = copied / "calibration" / "fp32.json"
    record = json.loads(file.read_text())
    entry = record
    for name in path[:-1]:
        entry = entry[name]
    entry[path[-1]] = value
    file.write_text(json.dumps(record))
    helpers.relist(copied)
    with pytest.raises(BundleError):
        Certifier.load(copied)


def test_a_record_for_another_file_is_refused(copied):
    file = copied / "calibration" / "fp32.json"
    record = json.loads(file.read_text())
    record["execution"]["artefact"] = "0" * 64
    file.write_text(json.dumps(record))
    helpers.relist(copied)
    with pytest.raises(BundleError, match="another file"):
        Bundle.open(copied)


def test_what_was_checked_is_what_is_loaded(copied):
    bundle = Bundle.open(copied)
    (copied / "surrogate.onnx").write_bytes(b"swapped after the check")
    with pytest.raises(BundleError, match="changed after"):
        bundle.model("fp32")


def test_probe_that_disagrees_is_refused(copied):
    with np.load(copied / "probe.npz") as archive:
        arrays = dict(archive)
    arrays["fp32.probit"] = arrays["fp32.probit"] + np.float32(1)
    np.savez(copied / "probe.npz", **arrays)
    helpers.relist(copied)
    with pytest.raises(BundleError, match="does not compute the exported function"):
        Certifier.load(copied)


@pytest.mark.parametrize("name", ["frame", "fp32.label", "fp32.radius"])
def test_incomplete_probe_is_refused(copied, name):
    with np.load(copied / "probe.npz") as archive:
        arrays = {key: value for key, value in archive.items() if key != name}
    np.savez(copied / "probe.npz", **arrays)
    helpers.relist(copied)
    with pytest.raises(BundleError, match="probe"):
        Certifier.load(copied)
