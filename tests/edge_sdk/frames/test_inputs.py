"""Frames as cameras and detectors deliver them: strides, DLPack, crops, encodings through `certify`."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from rrise.calibration.images.resizing import triangle_filter
from rrise.edge_sdk import Certifier, EdgeError, Roi, Status
from rrise.edge_sdk.errors import FrameError
from rrise.edge_sdk.formats.contract import GraphSignature
from rrise.edge_sdk.frames.inputs import as_array, cut, resize
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

COLOUR = Spec((6, 6, 3), seed=1)
SIGNATURE = GraphSignature(1, (6, 6, 3), "uint8", False)


@pytest.fixture(scope="module")
def certifier(tmp_path_factory):
    path = helpers.make_bundle(tmp_path_factory.mktemp("inputs") / "colour", COLOUR)
    with Certifier.load(path) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def frame(certifier):
    return next(frame for frame in helpers.random_frames(COLOUR, 100) if certifier.certify(frame))


def _same(left, right):
    return (left.status, left.label, left.radius) == (right.status, right.label, right.radius)


def test_every_encoding_of_the_same_picture_gives_the_same_certificate(certifier, frame):
    plain = certifier.certify(frame)
    assert _same(certifier.certify(frame, encoding="rgb8"), plain)
    assert _same(certifier.certify(frame[:, :, ::-1], encoding="bgr8"), plain)
    assert not _same(certifier.certify(frame[:, :, ::-1]), plain)
    packed = np.random.default_rng(0).integers(0, 256, (6, 6, 2), dtype=np.uint8)
    from rrise.edge_sdk.frames.encodings import convert_encoding

    assert _same(
        certifier.certify(packed, encoding="yuv422"),
        certifier.certify(convert_encoding(packed, "yuv422", "rgb8")),
    )


def test_wrong_encodings_give_invalid_input(certifier, frame):
    for pixels, encoding in (
        (frame, "mono8"),
        (frame, "bayer"),
        (b"\xff\xd8", "jpeg"),
        (b"", None),
        (frame, ""),
    ):
        certificate = certifier.certify(pixels, encoding=encoding)
        assert certificate.status is Status.INVALID_INPUT and certificate.reason


class _Tensor:
    """An object that has only the DLPack protocol."""

    def __init__(self, array, device=1):
        self._array, self._device = array, device

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return (self._device, 0)


def test_dlpack_and_array_interface(certifier, frame):
    plain = certifier.certify(frame)
    assert _same(certifier.certify(_Tensor(frame.copy())), plain)
    assert _same(certifier.certify(Image.fromarray(frame)), plain)
    torch = pytest.importorskip("torch")
    assert _same(certifier.certify(torch.from_numpy(frame.copy())), plain)
    assert _same(certifier.certify(torch.from_numpy(frame.transpose(2, 0, 1).copy()).permute(1, 2, 0)), plain)


def test_dlpack_with_the_oldest_numpy_says_what_it_needs(frame, monkeypatch):
    monkeypatch.delattr(np, "from_dlpack", raising=False)
    with pytest.raises(FrameError, match=r"expected 1\.22 or newer"):
        as_array(_Tensor(frame), SIGNATURE)


def test_device_memory_and_broken_exporters_are_refused(frame):
    with pytest.raises(FrameError, match=r"device memory.*\.cpu\(\)"):
        as_array(_Tensor(frame, device=2), SIGNATURE)

    class Broken:
        __array_interface__ = "nonsense"

    with pytest.raises(FrameError, match="Broken"):
        as_array(Broken(), SIGNATURE)


def test_a_crop_of_the_right_size_is_the_frame(certifier, frame):
    image = np.random.default_rng(4).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image[7:13, 20:26] = frame
    certificate = certifier.certify(image, roi=Roi(20, 7, 6, 6))
    assert _same(certificate, certifier.certify(frame)) and certificate.frame_radius > 0


def test_a_resized_crop_has_no_frame_radius(certifier, frame):
    image = np.repeat(np.repeat(frame, 3, axis=0), 3, axis=1)
    certificate = certifier.certify(image, roi=Roi(0, 0, 18, 18))
    assert _same(certificate, certifier.certify(resize(image, (6, 6)))) and certificate.frame_radius == 0.0


@pytest.mark.parametrize(
    "roi", [Roi(-1, 0, 6, 6), Roi(0, 0, 0, 6), Roi(45, 0, 6, 6), Roi(0, 35, 6, 6), Roi(0, 0, 6, -6), Roi(0.5, 0, 6, 6),  # type: ignore[arg-type]
            Roi(0, 0, 10**9, 1)],
)  # fmt: skip
def test_crops_outside_the_frame_are_refused(certifier, roi):
    certificate = certifier.certify(np.zeros((40, 50, 3), np.uint8), roi=roi)
    assert (
        certificate.status is Status.INVALID_INPUT and "wholly inside the 50 x 40 frame" in certificate.reason
    )


def test_crops_of_one_image_in_one_batch(tmp_path):
    path = helpers.make_bundle(tmp_path / "four", Spec((6, 6, 3), batch=4, seed=1))
    image = np.random.default_rng(4).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    rois = [Roi(0, 0, 6, 6), Roi(3, 4, 12, 9), Roi(49, 0, 6, 6), Roi(9, 9, 6, 6), Roi(1, 2, 6, 6)]
    with Certifier.load(path) as certifier:
        together = certifier.certify_batch([image] * 5, rois=rois)
        for roi, certificate in zip(rois, together):
            single = certifier.certify(image, roi=roi)
            assert (single.status, single.label) == (certificate.status, certificate.label)
            assert single.radius == pytest.approx(certificate.radius, abs=1e-5)
            assert (single.frame_radius > 0) == (certificate.frame_radius > 0)
    assert together[2].status is Status.INVALID_INPUT


@pytest.mark.parametrize("size", [(6, 6), (13, 9), (40, 50), (3, 70)])
def test_resize_agrees_with_pillows_triangle_filter(size):
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    difference = np.abs(resize(image, size).astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (resize(np.full((7, 9, 3), 200, np.uint8), size) == 200).all()


def test_cut_is_a_view():
    image = np.zeros((40, 50, 3), np.uint8)
    assert np.shares_memory(cut(image, Roi(1, 2, 3, 4)), image) and cut(image, Roi(1, 2, 3, 4)).shape == (
        4,
        3,
        3,
    )


@pytest.mark.parametrize(
    "options",
    [{"roi": (0, 0, 6, 6)}, {"roi": "all"}, {"encoding": ["rgb8"]}, {"capture_time": float("nan")}, {"capture_time": "now"},
     {"capture_time": float("inf")}],
)  # fmt: skip
def test_a_wrong_argument_is_no_failure_of_the_runtime(certifier, frame, options):
    certificate = certifier.certify(frame, **options)
    assert certificate.status is Status.INVALID_INPUT and "expected" in certificate.reason + "expected" * (
        "encoding" in options
    )
    assert certifier.certify(frame).status is not Status.FAULT
    rois = [options["roi"]] if "roi" in options else None
    others = {name: value for name, value in options.items() if name != "roi"}
    (certificate,) = certifier.certify_batch([frame], rois=rois, **others)
    assert certificate.status is Status.INVALID_INPUT and certifier.fault is None


def test_corners_of_narrow_integers_do_not_overflow():
    image = np.zeros((300, 300, 3), np.uint8)
    corners = [np.uint8(side) for side in (200, 100, 100, 60)]
    assert cut(image, Roi(*corners)).shape == (60, 100, 3)  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="wholly inside"):
        cut(image[:, :299], Roi(*corners))  # type: ignore[arg-type]


def test_a_decoded_frame_has_no_frame_radius(certifier, frame):
    """A change of a luma byte moves three colours, a JPEG has no norm at all: the frame radius would be too large."""
    image = np.full((9, 6), 100, np.uint8)
    for pixels, encoding in (
        (image, "nv12"),
        (image[:6], "mono8"),
        (np.full((6, 6, 2), 90, np.uint8), "yuv422"),
    ):
        certificate = certifier.certify(pixels, encoding=encoding)
        assert certificate.status in (Status.CERTIFIED, Status.ABSTAINED) and certificate.frame_radius == 0.0
    swapped = certifier.certify(frame[:, :, ::-1], encoding="bgr8")
    assert _same(swapped, certifier.certify(frame)) and swapped.frame_radius > 0


def test_a_masked_array_is_refused_where_it_masks_something(certifier, frame):
    masked = certifier.certify(np.ma.masked_array(frame, mask=frame > 200))
    assert masked.status is Status.INVALID_INPUT and "mask" in masked.reason
    assert _same(certifier.certify(np.ma.masked_array(frame)), certifier.certify(frame))


def test_a_batch_that_is_no_list_is_an_error(certifier):
    with pytest.raises(EdgeError, match="expected a list of frames"):
        certifier.certify_batch(3)


def test_a_crop_of_4k_is_resized_in_little_memory():
    """It took 400 MiB and 1.2 s; the same pixels from the rows and columns that have a weight."""
    image = np.random.default_rng(0).integers(0, 256, (2160, 3840, 3), dtype=np.uint8)
    tracemalloc.start()
    try:
        resized = resize(image, (48, 64))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20
    rows, columns = triangle_filter(2160, 48), triangle_filter(3840, 64)
    expected = (rows @ image[:, :, 0].astype(np.float64)) @ columns.T
    assert np.abs(resized[:, :, 0] - expected).max() <= 0.5 + 1e-9
