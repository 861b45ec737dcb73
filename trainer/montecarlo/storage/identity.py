"""What class counts are counts of: the identity of a store's stream, checked before anything is added to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import numpy as np

from rrise.calibration.storage.formats import check_format
from rrise.trainer.errors import TrainerError

FORMAT = "rrise-counts"
VERSION = 1
ENGINE_VERSION = 2
"""Of a store whose identity names the engine; a reader that knows none must not go on counting with another."""
SAMPLE_BLOCK = 100
IMAGE_BLOCK = 64
DTYPES = ("float32", "bfloat16", "float16")
LARGEST = 2**32 - 1

_MEND = {
    "base_digest": "these counts belong to another base classifier: use the one they were made with, or a new store",
    "frames_digest": "these counts belong to other frames: use the same frames in the same order, or a new store",
    "dtype": "pass the dtype of the store, or use a new store",
    "engine": "engines round differently: count with that one ([targets] engine), or use a new store",
    "sigma": "set [smoothing] sigma back, or use a new store",
    "seed": "set [smoothing] seed back, or use a new store",
}


@dataclass(frozen=True)
class Identity:
    """What the counts of a store are counts of; two stores with equal identity hold interchangeable counts.

    Raises:
        TrainerError: a value that no store can have.
    """

    format: str
    version: int
    stream: str
    num_frames: int
    num_classes: int
    sigma: float
    seed: int
    base_digest: str
    frames_digest: str
    dtype: str
    sample_block: int
    image_block: int
    engine: str = ""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sigma) and self.sigma > 0):
            self._refuse("sigma", "a noise level above 0, in [0, 1] pixel units, such as 0.25")
        if not self.stream.replace("-", "").replace("_", "").isalnum():
            self._refuse("stream", "letters, digits, - and _ only")
        if self.dtype not in DTYPES:
            self._refuse("dtype", f"one of {', '.join(DTYPES)}")
        if self.num_classes < 2:
            self._refuse("num_classes", "at least 2")
        if self.num_frames < 1:
            self._refuse("num_frames", "at least one frame")
        if not 1 <= self.sample_block <= LARGEST:
            self._refuse("sample_block", "a positive number of samples")
        if self.seed < 0:
            self._refuse("seed", "a number >= 0")

    @classmethod
    def unstored(
        cls, stream: str, num_frames: int, *, num_classes: int, sigma: float, seed: int, dtype: str
    ) -> Identity:
        """Of counts that no store keeps; they are those of a store with this sigma, seed and stream."""
        return cls(
            FORMAT,
            VERSION,
            stream,
            num_frames,
            num_classes,
            sigma,
            seed,
            "",
            "",
            dtype,
            SAMPLE_BLOCK,
            IMAGE_BLOCK,
        )

    def _refuse(self, name: str, expected: str) -> NoReturn:
        raise TrainerError(f"{name}: got {getattr(self, name)!r}, expected {expected}")

    def check_num_samples(self, num_samples: int | np.ndarray) -> np.ndarray:
        """`num_samples` per frame as int64 [n]; refused unless every one fits the sample block."""
        wanted = np.broadcast_to(np.asarray(num_samples, dtype=np.int64), (self.num_frames,))
        block = self.sample_block
        wrong = wanted[(wanted <= 0) & (np.ndim(num_samples) == 0) | (wanted < 0) | (wanted % block != 0)]
        if wrong.size:
            below = max(int(wrong[0]) // block, 1) * block
            raise TrainerError(
                f"num_samples: got {int(wrong[0])}, expected a multiple of the sample block of {block}; "
                f"the nearest are {below} and {below + block}. (A new store can have another sample_block)"
            )
        if wanted.size and wanted.max() > LARGEST:
            raise TrainerError(f"num_samples: got {int(wanted.max())}, expected at most {LARGEST} (uint32)")
        return wanted

    @classmethod
    def read(cls, path: str, attributes: Mapping[str, Any]) -> Identity:
        """The identity in the attributes of a stream; `path` is for messages."""
        again = "give another path, or remove that group to count anew"
        check_format(f"{path}: Zarr group", attributes.get("format"), (FORMAT,), again, TrainerError)
        known = (VERSION, ENGINE_VERSION)
        check_format(f"{path}: Zarr group", attributes.get("version"), known, again, TrainerError)
        try:
            names = [name for name in cls.__dataclass_fields__ if name != "engine"]
            engine = attributes["engine"] if attributes["version"] == ENGINE_VERSION else ""
            return cls(**{name: attributes[name] for name in names}, engine=str(engine))
        except (KeyError, TypeError, AttributeError) as error:
            raise TrainerError(
                f"{path}: the attributes of the stream are damaged ({error!r}); restore them, or remove the stream to "
                "sample it again"
            ) from error

    def expect(self, found: Identity, path: str, ignored: tuple[str, ...]) -> None:
        """Raise TrainerError where `found`, the identity of the store at `path`, is another than this but for `ignored`."""
        for name, value in asdict(self).items():
            got = getattr(found, name)
            if got != value and name not in ("image_block", "version", *ignored):
                raise TrainerError(
                    f"{path}, stream {found.stream!r}: {name} of the store is {got!r}, expected {value!r}; "
                    f"{_MEND.get(name, 'use a new store')}. The counts in it are untouched"
                )
