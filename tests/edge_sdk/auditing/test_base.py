"""Which base classifier an audit may ask: proven by a digest, or accepted by its own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from rrise.calibration.storage.digests import file_digest
from rrise.edge_sdk.auditing.base_classifier import BaseModel
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.errors import BundleError, EdgeError
from tests.edge_sdk import helpers
from tests.edge_sdk.auditing.conftest import base_model
from tests.edge_sdk.helpers import Spec


def _with_base(bundle, digest):
    return replace(bundle, manifest=replace(bundle.manifest, base_digest=digest))


def test_the_files_own_digest_is_a_proof(audit_bundle, honest):
    bundle = _with_base(Bundle.open(audit_bundle), file_digest(honest))
    base = BaseModel.load(honest, bundle)
    assert base.proven and base.digest == file_digest(honest) and base.data == honest.read_bytes()


def test_another_file_is_refused_with_got_and_expected(audit_bundle, honest, contrary):
    bundle = Bundle.open(audit_bundle)
    with pytest.raises(BundleError) as error:
        BaseModel.load(honest, bundle)
    assert file_digest(honest) in str(error.value) and helpers.BASE_DIGEST in str(error.value)
    with pytest.raises(BundleError):
        BaseModel.load(honest, bundle, accept=file_digest(contrary))
    base = BaseModel.load(honest, bundle, accept=file_digest(honest))
    assert not base.proven and "not proven" in base.proof


def test_a_file_that_says_it_is_anothers_is_never_accepted(audit_bundle, tmp_path):
    path = tmp_path / "base.onnx"
    path.write_bytes(base_model(helpers.weights(Spec()), claim="c" * 64))
    with pytest.raises(BundleError, match="made from base classifier cccc"):
        BaseModel.load(path, Bundle.open(audit_bundle), accept=file_digest(path))
    path.write_bytes(base_model(helpers.weights(Spec()), claim=helpers.BASE_DIGEST))
    with pytest.raises(BundleError, match="accept this file"):  # a claim is no proof
        BaseModel.load(path, Bundle.open(audit_bundle))


def _record(path, spec):
    header = json.dumps({"__metadata__": {"rrise": json.dumps({"spec": spec, "metadata": {}})}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_base_record_that_names_the_file_is_a_proof(audit_bundle, honest, contrary, tmp_path):
    record = tmp_path / "base.safetensors"
    spec = {"kind": "onnx", "file": "base.onnx", "sha256": file_digest(honest)}
    bundle = _with_base(Bundle.open(audit_bundle), _record(record, spec))
    assert BaseModel.load(honest, bundle, record=record).proven
    with pytest.raises(BundleError, match="expected the bundle's base classifier"):
        BaseModel.load(contrary, bundle, record=record)
    with pytest.raises(BundleError, match="is not the bundle's base classifier"):
        BaseModel.load(honest, Bundle.open(audit_bundle), record=record)
    bundle = _with_base(bundle, _record(record, {"kind": "resnet", "sha256": file_digest(honest)}))
    with pytest.raises(BundleError, match="accept this file"):
        BaseModel.load(honest, bundle, record=record)
    record.write_bytes(b"\xff" * 40)
    bundle = _with_base(bundle, file_digest(record))
    with pytest.raises(BundleError, match=r"not a base classifier of rrise-train"):
        BaseModel.load(honest, bundle, record=record)


def test_the_trainers_own_record_is_understood(audit_bundle, honest, tmp_path):
    networks = pytest.importorskip("rrise.trainer.networks")
    blackbox = pytest.importorskip("rrise.trainer.classifiers.blackbox")
    spec = blackbox.onnx_spec(honest, tmp_path)
    network = blackbox.open_black_box(spec, tmp_path, allow_code=False)
    digest = networks.save_network(tmp_path / "base.safetensors", network, spec, {})
    bundle = _with_base(Bundle.open(audit_bundle), digest)
    assert BaseModel.load(honest, bundle, record=tmp_path / "base.safetensors").proven


def test_what_cannot_be_read(audit_bundle, tmp_path):
    bundle = Bundle.open(audit_bundle)
    with pytest.raises(EdgeError, match="cannot be read"):
        BaseModel.load(tmp_path / "absent.onnx", bundle)
    (tmp_path / "noise.onnx").write_bytes(np.random.default_rng(0).bytes(300))
    with pytest.raises(BundleError):
        BaseModel.load(tmp_path / "noise.onnx", bundle)
