"""Opening a bundle: whatever is changed, missing, added or contradictory is refused with its name."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration.promise.record import Calibration
from rrise.calibration.storage.digests import file_digest
from rrise.edge_sdk import Bundle, BundleError, Certifier
from rrise.edge_sdk.formats.keys import PrivateKey
from rrise.edge_sdk.formats.manifest import Manifest
from rrise.edge_sdk.runtime.onnx_file import refuse_external
from rrise.edge_sdk.runtime.onnxruntime import open_session
from rrise.export.releasing.keys import sign_bundle
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
    with pytest.raises(BundleError, match="was changed"):
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


def _external(initializer: bool) -> bytes:
    """The bundle's own graph, one of whose tensors lies in another file: as an initializer, or within a branch of an If."""
    import onnx
    from onnx import helper

    model = onnx.load_from_string(helpers.graph(Spec(), (0.0,), {}))
    if initializer:
        tensor = next(item for item in model.graph.initializer if item.name == "weights")
    else:
        output = helper.make_tensor_value_info("branch", onnx.TensorProto.FLOAT, [1])
        node = helper.make_node("Constant", [], ["branch"], value=helper.make_tensor("c", 1, [1], [0.0]))
        branch = helper.make_graph([node], "branch", [], [output])
        model.graph.node.append(
            helper.make_node("If", ["is_top"], ["x"], then_branch=branch, else_branch=branch)
        )
        tensor = model.graph.node[-1].attribute[0].g.node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.data"
    return bytes(model.SerializeToString())


def _list(bundle: Path, name: str) -> None:
    """Add a file of the folder to the manifest."""
    manifest = Manifest.load(bundle / "manifest.json")
    files = {**manifest.files, name: file_digest(bundle / name)}
    replace(manifest, files=files).save(bundle / "manifest.json")


@pytest.mark.parametrize("initializer", [False, True])
def test_a_graph_that_refers_to_another_file_is_refused(copied, initializer):
    """Also where the other file lies in the bundle: a runtime reads it from the working directory, under no digest."""
    (copied / "weights.data").write_bytes(bytes(8 * 8 * 3 * 4))
    _list(copied, "weights.data")
    helpers.replace_graph(copied, _external(initializer))
    for opening in (Bundle.open, Certifier.load):
        with pytest.raises(BundleError, match=r"external data of tensor '\w+' may refer to another file"):
            opening(copied)
    with pytest.raises(BundleError, match="may refer to another file"):
        sign_bundle(copied, PrivateKey(bytes(32)), 1)
    with pytest.raises(BundleError, match="may refer to another file"):
        open_session(_external(initializer), "cpu", 1, {})


def test_an_onnx_file_that_is_no_artefact_is_looked_at_too(copied):
    (copied / "base.onnx").write_bytes(_external(True))
    _list(copied, "base.onnx")
    with pytest.raises(BundleError, match=r"base.onnx: the external data"):
        Bundle.open(copied)


def test_a_compiled_graph_that_lies_elsewhere_is_refused():
    import onnx
    from onnx import helper

    node = helper.make_node("EPContext", [], ["y"], ep_cache_context="engine.plan", domain="com.microsoft")
    with pytest.raises(BundleError, match="EPContext"):
        refuse_external(helper.make_model(onnx.GraphProto(node=[node])).SerializeToString(), "graph")


@pytest.mark.parametrize(
    "data", [b"\x3a", b"\x3a\xff", b"\x3b\x00", b"\xba\x80\x80\x80\x80\x01\x00", b"\xff" * 12]
)
def test_what_is_no_onnx_is_refused(data):
    """Field numbers beyond 32 bits as well: protobuf drops what is beyond, and would read a graph there."""
    with pytest.raises(BundleError, match="not an ONNX file"):
        refuse_external(data, "graph")


def test_a_device_folder_that_is_a_link_is_refused(copied, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (copied / "device").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"device: got a symbolic link"):
        Bundle.open(copied)
    (copied / "device").unlink()
    with Certifier.load(copied) as certifier:
        (copied / "device").symlink_to(tmp_path / "elsewhere")
        certifier.suspend("drift")
        certificate = certifier.certify(helpers.random_frames(Spec(), 1)[0])
    assert "not kept for the next start" in certificate.reason and not any((tmp_path / "elsewhere").iterdir())


def test_a_signing_that_was_killed_does_not_spoil_the_bundle(copied):
    (copied / ".signature.json.0a1b2c3d").write_text("{")
    Bundle.open(copied)
    (copied / ".signature.json.0a1b2c3d").rename(copied / ".other.json.0a1b2c3d")
    with pytest.raises(BundleError, match="not in the manifest"):
        Bundle.open(copied)


def test_records_are_read_once(copied, monkeypatch):
    """What was checked is what is used: exchanged in between, the file that was checked would be another."""
    bundle = Bundle.open(copied)
    good = (copied / "recorded" / "fp32-verification.npz").read_bytes()
    (copied / "recorded" / "fp32-verification.npz").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(BundleError, match="was changed"):
        bundle.recorded("fp32")
    path = bundle.device_folder(bundle.calibrations["fp32"].execution) / "calibration.json"
    bundle.keep(path, {"margin": 0.5})
    checked = []

    class Watching:
        def check_device_record(self, record, data):
            checked.append(data)
            record.write_bytes(b"exchanged between check and use")

    watched = replace(bundle, trust=Watching())  # type: ignore[arg-type]
    assert watched.device_record(path, "record") == {"margin": 0.5} and len(checked) == 1


def test_what_this_device_keeps_is_not_overlooked(copied, monkeypatch):
    """A margin that cannot be looked at is not a margin that was never found; `Path.exists` says so since Python 3.14."""
    lstat = os.lstat

    def denied(path, **options):
        if "device" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return lstat(path, **options)

    monkeypatch.setattr("os.lstat", denied)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)
    with pytest.raises(BundleError, match="cannot be looked at"):
        Certifier.load(copied)
