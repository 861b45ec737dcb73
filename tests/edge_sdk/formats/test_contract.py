"""The ONNX contract: which tensors and which text a graph must have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rrise.calibration.promise.guarded import Guard
from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.contract import GraphMetadata, TensorInfo, check_signature, guard_of, same_float32

INPUT = TensorInfo("frame", "uint8", (2, 8, 6, 3))
OUTPUTS = [
    TensorInfo("label", "int64", (2,)),
    TensorInfo("radius", "float32", (2,)),
    TensorInfo("probit", "float32", (2,)),
    TensorInfo("offset", "float32", (1,)),
    TensorInfo("sigma", "float32", ()),
]
METADATA = GraphMetadata(0.12, (0.1, 0.2), "c" * 64, "b" * 64, ("a", "b"), "rgb8", "p" * 64)


def test_signature_of_a_sound_graph():
    signature = check_signature([INPUT], [*OUTPUTS, TensorInfo("difficulty", "float32", (2,))])
    assert (signature.batch_size, signature.frame_shape, signature.dtype) == (2, (8, 6, 3), "uint8")
    assert signature.difficulty
    assert not check_signature([INPUT], OUTPUTS).difficulty


def test_float_frames_have_channels_first():
    assert check_signature(
        [TensorInfo("frame", "float32", (1, 3, 8, 6))],
        [TensorInfo(t.name, t.dtype, (1,) if t.shape == (2,) else t.shape) for t in OUTPUTS],
    ).frame_shape == (3, 8, 6)


@pytest.mark.parametrize(
    "tensor",
    [
        TensorInfo("image", "uint8", (2, 8, 6, 3)),
        TensorInfo("frame", "int8", (2, 8, 6, 3)),
        TensorInfo("frame", "uint8", (None, 8, 6, 3)),
        TensorInfo("frame", "uint8", (2, 8, 6, 4)),
        TensorInfo("frame", "uint8", (2, 3, 8, 6)),
        TensorInfo("frame", "float32", (2, 8, 6, 3)),
        TensorInfo("frame", "uint8", (8, 6, 3)),
        TensorInfo("frame", "uint8", (2, 0, 6, 3)),
    ],
)
def test_wrong_input_is_refused(tensor):
    with pytest.raises(BundleError, match="expected"):
        check_signature([tensor], OUTPUTS)


def test_another_second_input_is_refused():
    with pytest.raises(BundleError, match="noise"):
        check_signature([INPUT, TensorInfo("mask", "float32", (2, 3, 8, 6))], OUTPUTS)


def test_the_guarded_tier_takes_noise_after_the_resize():
    noise = TensorInfo("noise", "float32", (2, 3, 4, 5))
    assert check_signature([INPUT, noise], OUTPUTS).noise_shape == (2, 3, 4, 5)
    assert check_signature([INPUT], OUTPUTS).noise_shape is None


@pytest.mark.parametrize(
    "noise",
    [
        TensorInfo("noise", "float16", (2, 3, 8, 6)),
        TensorInfo("noise", "float32", (1, 3, 8, 6)),
        TensorInfo("noise", "float32", (2, 1, 8, 6)),
        TensorInfo("noise", "float32", (2, 3, None, 6)),
        TensorInfo("noise", "float32", (2, 3, 8)),
    ],
)
def test_noise_of_another_type_or_shape_is_refused(noise):
    with pytest.raises(BundleError, match="noise"):
        check_signature([INPUT, noise], OUTPUTS)


def test_noise_beside_float_frames_is_refused():
    """Their sum in float32 would be rounded, and then nothing is proved."""
    frame = TensorInfo("frame", "float32", (2, 3, 8, 6))
    with pytest.raises(BundleError, match="beside float32"):
        check_signature([frame, TensorInfo("noise", "float32", (2, 3, 8, 6))], OUTPUTS)


def test_a_guard_and_its_noise_input_come_together():
    guard = Guard(0.05, 0.12)
    plain, guarded = (
        check_signature([INPUT], OUTPUTS),
        replace(check_signature([INPUT], OUTPUTS), noise_shape=(2, 3, 8, 6)),
    )
    told = replace(METADATA, guard=guard).to_text()
    assert guard_of(guarded, told) == guard and guard_of(plain, METADATA.to_text()) is None
    for signature, text in (
        (plain, told),
        (guarded, METADATA.to_text()),
        (guarded, {**told, "rrise.guard": "{}"}),
    ):
        with pytest.raises(BundleError):
            guard_of(signature, text)


@pytest.mark.parametrize("missing", range(5))
def test_missing_output_is_named(missing):
    with pytest.raises(BundleError, match=OUTPUTS[missing].name):
        check_signature([INPUT], OUTPUTS[:missing] + OUTPUTS[missing + 1 :])


@pytest.mark.parametrize("wrong", range(5))
def test_output_of_another_type_is_refused(wrong):
    changed = [TensorInfo(t.name, "float64", t.shape) if i == wrong else t for i, t in enumerate(OUTPUTS)]
    with pytest.raises(BundleError, match=OUTPUTS[wrong].name):
        check_signature([INPUT], changed)


def test_output_of_another_batch_size_is_refused():
    with pytest.raises(BundleError, match="radius"):
        check_signature(
            [INPUT], [TensorInfo(t.name, t.dtype, (1,)) if t.name == "radius" else t for t in OUTPUTS]
        )


def test_metadata_survives_text_bit_for_bit():
    read = GraphMetadata.from_text(METADATA.to_text())
    assert same_float32([read.sigma], [0.12]) and same_float32(read.offset, [0.1, 0.2])
    assert (read.calibration, read.class_names, read.encoding) == ("c" * 64, ("a", "b"), "rgb8")


@pytest.mark.parametrize("key", sorted(METADATA.to_text()))
def test_each_missing_key_is_an_error(key):
    text = METADATA.to_text()
    del text[key]
    with pytest.raises(BundleError, match=r"missing.*rrise-export"):
        GraphMetadata.from_text(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [("rrise.contract", "2"), ("rrise.sigma", "a quarter"), ("rrise.offset", "{"), ("rrise.offset", "3"),
     ("rrise.classes", "null")],
)  # fmt: skip
def test_unreadable_metadata_is_an_error(key, value):
    with pytest.raises(BundleError):
        GraphMetadata.from_text({**METADATA.to_text(), key: value})


def test_same_float32_means_bits():
    assert same_float32([0.1], [float(np.float32(0.1))])
    assert not same_float32([0.1], [np.nextafter(np.float32(0.1), np.float32(1))])
    assert not same_float32([0.0], [-0.0])
    assert not same_float32([np.nan], [np.nan])
    assert not same_float32([np.inf], [np.inf])
    assert not same_float32([0.1], [0.1, 0.1])


def test_a_graph_that_is_not_calibrated_yet_has_an_infinite_offset():
    """It is what export scores; a bundle with it is refused by `check_graph`."""
    metadata = GraphMetadata(0.25, (float("inf"),), "", "b", ("a",), "rgb8", "p")
    assert GraphMetadata.from_text(metadata.to_text()) == metadata
