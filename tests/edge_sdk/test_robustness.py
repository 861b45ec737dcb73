"""Anything goes in: random and mutated frames, bundles with flipped bytes. No crash, no NaN, no undue certificate."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rrise.calibration.errors import RriseError
from rrise.calibration.tables.references import References
from rrise.edge_sdk import Bundle, Certificate, Certifier, Roi, Status
from rrise.edge_sdk.device.device_calibration import recalibrate
from rrise.edge_sdk.device.verify import verify
from rrise.edge_sdk.frames.encodings import known_encodings
from rrise.edge_sdk.runtime.onnxruntime import OnnxRuntime
from tests.edge_sdk import helpers
from tests.edge_sdk.helpers import Spec

COLOUR = Spec((6, 6, 3), seed=1)
DTYPES = (
    "uint8",
    "int8",
    "uint16",
    "float16",
    "float32",
    "float64",
    "bool",
    "complex64",
    "object",
    "S3",
    "datetime64[s]",
)


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    return helpers.make_bundle(tmp_path_factory.mktemp("robust") / "colour", COLOUR)


def _jpeg(rng):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    for _ in range(int(rng.integers(0, 4))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return bytes(data[: int(rng.integers(1, len(data) + 1))] if rng.random() < 0.3 else data)


def _array(rng):
    if rng.random() < 0.5:
        return rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    shape = tuple(int(side) for side in rng.integers(0, 9, int(rng.integers(0, 5))))
    dtype = DTYPES[int(rng.integers(len(DTYPES)))]
    with np.errstate(all="ignore"):
        return np.asarray(rng.normal(size=shape) * 100).astype("int64").astype(dtype)


def _layout(rng, array):
    choice = int(rng.integers(6))
    if choice == 0:
        return np.asfortranarray(array)
    if choice == 1 and array.ndim:
        return array[::-1]
    if choice == 2 and array.ndim >= 2:
        return array.swapaxes(0, 1)
    if choice == 3:
        return np.broadcast_to(array.ravel()[:1].reshape(()) if array.size else array, array.shape)
    return array


def _frame(rng):
    choice = int(rng.integers(10))
    if choice == 0:
        others: tuple[Any, ...] = (
            None,
            "x",
            b"",
            3,
            2.5,
            [],
            [[1]],
            {},
            object(),
            np.uint8(1),
            memoryview(b"abc"),
            range(3),
            Ellipsis,
        )
        return others[int(rng.integers(len(others)))]
    if choice == 1:
        return _jpeg(rng)
    if choice == 2:
        return np.full((6, 6, 3), (np.nan, np.inf, -np.inf, 1e38)[int(rng.integers(4))], np.float32)
    return _layout(rng, _array(rng))


def _options(rng):
    options: dict[str, Any] = {}
    if rng.random() < 0.4:
        encodings = (*known_encodings(), "", "bayer", "RGB8")
        options["encoding"] = encodings[int(rng.integers(len(encodings)))]
    if rng.random() < 0.3:
        options["roi"] = Roi(*(int(side) for side in rng.integers(-2, 12, 4)))
    if rng.random() < 0.1:
        options["capture_time"] = (math.nan, math.inf, -1e300, 0.0)[int(rng.integers(4))]
    return options


def _check(certificate):
    assert isinstance(certificate, Certificate) and isinstance(certificate.status, Status)
    assert math.isfinite(certificate.radius) and certificate.radius >= 0.0
    assert math.isfinite(certificate.frame_radius) and certificate.frame_radius >= 0.0
    assert (certificate.radius > 0) == bool(certificate)
    assert certificate.status in (Status.CERTIFIED, Status.ABSTAINED, Status.INVALID_INPUT)
    assert (certificate.label is None) == (certificate.status is Status.INVALID_INPUT)
    assert bool(certificate.reason) or certificate.status is not Status.INVALID_INPUT
    certificate.to_line()


def _fuzz_frames(path, count, seed):
    rng = np.random.default_rng(seed)
    statuses = dict.fromkeys(Status, 0)
    with Certifier.load(path) as certifier:
        for _ in range(count):
            frame, options = _frame(rng), _options(rng)
            certificate = certifier.certify(frame, **options)
            _check(certificate)
            statuses[certificate.status] += 1
            plain = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape == (6, 6, 3)
            if plain and not options:
                assert certificate.status is not Status.INVALID_INPUT
            if not options and isinstance(frame, np.ndarray) and not plain:
                assert certificate.status is Status.INVALID_INPUT
        assert certifier.fault is None
    # The fuzzer reaches every outcome, so none of the assertions above is idle.
    assert min(statuses[s] for s in (Status.CERTIFIED, Status.ABSTAINED, Status.INVALID_INPUT)) > count / 100


@pytest.mark.filterwarnings("ignore")
def test_five_thousand_frames(colour):
    _fuzz_frames(colour, 5000, seed=0)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_a_hundred_thousand_frames(colour):
    _fuzz_frames(colour, 100_000, seed=1)


def _with_device_records(path, pack):
    """Add what a device adds: a verification of one execution, a calibration of another, a drift monitor."""
    from rrise.edge_sdk.device.drift import DriftSettings, fit_reference

    bundle = Bundle.open(path)
    two, three = (OnnxRuntime.load(bundle.model("fp32"), threads=threads) for threads in (2, 3))
    verify(bundle, "fp32", two, References.load(pack))
    recalibrate(bundle, "fp32", three, helpers.make_references(Spec(), "calibration", 300, seed=41))
    fit_reference(
        bundle, two, helpers.make_references(Spec(), "calibration", 220, seed=42), DriftSettings(0.0)
    )
    with Certifier.load(path, threads=2) as certifier:
        certifier.certify_batch(helpers.random_frames(Spec(), 3))


def _fuzz_bundles(path, count, seed):
    """Flip one to three bytes (or cut, or extend) of one file; whatever then loads must issue nothing."""
    rng = np.random.default_rng(seed)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    originals = {file: file.read_bytes() for file in files}
    frames = helpers.random_frames(Spec(), 3)
    for threads in (1, 2, 3):
        with Certifier.load(path, threads=threads) as certifier:
            assert any(certifier.certify_batch(helpers.random_frames(Spec(), 30)))
    refused = 0
    for number in range(count):
        file = files[int(rng.integers(len(files)))]
        data = bytearray(originals[file])
        kind = rng.random()
        if kind < 0.8:
            for _ in range(int(rng.integers(1, 4))):
                data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        elif kind < 0.9:
            del data[int(rng.integers(len(data))) :]
        else:
            data += bytes(int(rng.integers(1, 9)))
        if bytes(data) == originals[file]:
            continue
        file.write_bytes(bytes(data))
        # A record of this device matters to its own execution only.
        recalibrated = file.name in ("calibration.json", "attempts.jsonl")
        threads = 1 if "device" not in file.parts else 3 if recalibrated else 2
        try:
            with Certifier.load(path, threads=threads) as certifier:
                assert not any(certifier.certify_batch(frames)), (
                    f"certificate number {number} from a changed {file}"
                )
        except RriseError:
            refused += 1
        finally:
            file.write_bytes(originals[file])
    assert refused > 0.9 * count


def test_two_hundred_damaged_bundles(copied, pack):
    _with_device_records(copied, pack)
    _fuzz_bundles(copied, 200, seed=0)


@pytest.mark.long
def test_ten_thousand_damaged_bundles(copied, pack):
    _with_device_records(copied, pack)
    _fuzz_bundles(copied, 10_000, seed=1)


@pytest.mark.long
def test_memory_does_not_grow_over_a_hundred_thousand_frames(hand_bundle):
    """Heap blocks of Python and resident memory, before and after, on the camera loop's path."""
    import gc
    import resource
    import sys

    frames = helpers.random_frames(Spec(), 50)
    with Certifier.load(hand_bundle) as certifier:
        for frame in frames.repeat(20, axis=0):
            certifier.certify(frame)
        gc.collect()
        blocks, resident = sys.getallocatedblocks(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(2000):
            for frame in frames:
                certifier.certify(frame)
        gc.collect()
        assert sys.getallocatedblocks() - blocks < 200
        # A certificate that was kept for each frame would take twice that, and the runtime's own buffers vary.
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
        assert kilobytes < 100 * 2000 * len(frames) / 1024
