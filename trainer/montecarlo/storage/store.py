"""Class counts in a Zarr group: one file per block of frames, replaced atomically, so a killed run loses nothing.

Every evaluation of the base classifier yields exactly one class, so the row sums of `counts` are the numbers of
samples: `counts` is the single truth, and `samples` is kept beside it for readers in other tools.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from rrise.calibration.storage.digests import combined_digest
from rrise.trainer.data.lock import WriterLock
from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo.storage.identity import (
    ENGINE_VERSION,
    FORMAT,
    IMAGE_BLOCK,
    SAMPLE_BLOCK,
    VERSION,
    Identity,
)
from rrise.trainer.montecarlo.storage.location import Location
from rrise.trainer.montecarlo.storage.metadata import check_root, check_stream
from rrise.trainer.montecarlo.storage.plans import Plans


class CountStore:
    """Class counts of one stream: counts uint32 [n, K] and samples uint32 [n].

    Made by `open`. Reading needs no lock; writing goes through `writer` and `write`.
    """

    def __init__(self, path: Location, group: zarr.Group, identity: Identity, digests: np.ndarray) -> None:
        self.path, self.identity, self.digests = path.address, identity, digests
        self._location, self._group = path, group
        self._counts: Any = _array(path, group, "counts")
        self._samples: Any = _array(path, group, "samples")

    @staticmethod
    def open(
        path: str | Path,
        *,
        stream: str,
        digests: np.ndarray,
        num_classes: int,
        sigma: float,
        seed: int,
        base_digest: str,
        dtype: str = "float32",
        sample_block: int | None = None,
        engine: str | None = None,
    ) -> CountStore:
        """Open the counts of `stream` in the Zarr store `path`, or begin them.

        Args:
            path: a folder, also on a shared file system, or a URL that fsspec knows (s3://..., gs://...).
            digests: S64 [n], the digest of every frame in order.
            sigma: noise standard deviation, in [0, 1] pixel units.
            seed: of the noise, together with `stream`.
            base_digest: of the base classifier.
            dtype: precision in which the base classifier runs (noise is always added in float32).
            sample_block: samples per frame that are seeded together; every N is a multiple of it. None: that of the
                store, or 100 for a new one.
            engine: what runs the base classifier, see `engines.EngineLabeller.engine`. None: that of the store, or for a
                new one whatever the caller samples with ("").

        Raises:
            TrainerError: the store holds counts of something else, or cannot be written; it stays as it is.
        """
        place = Location.of(path)
        version = ENGINE_VERSION if engine else VERSION
        wanted = Identity(
            FORMAT, version, stream, len(digests), int(num_classes), float(sigma), int(seed), base_digest,
            combined_digest(digests), dtype, SAMPLE_BLOCK if sample_block is None else int(sample_block), IMAGE_BLOCK,
            engine or "",
        )  # fmt: skip
        if not place.exists(f"{stream}/zarr.json"):
            _begin(place, wanted, digests)
        group = _open_group(place, stream)
        found = Identity.read(place.address, dict(group.attrs))
        ignored = [
            name for name, given in (("sample_block", sample_block), ("engine", engine)) if given is None
        ]
        wanted.expect(found, place.address, tuple(ignored))
        return CountStore(place, group, found, np.asarray(digests, dtype="S64"))

    def counts(self) -> np.ndarray:
        """Class counts, uint32 [n, K]; rows of frames not sampled yet are zero."""
        return self.read(0, self.identity.num_frames)

    def samples(self) -> np.ndarray:
        """Samples per frame, uint32 [n]; memory holds the counts of a few blocks at a time."""
        step = 16 * self.identity.image_block
        parts = [
            _row_sums(self.read(start, min(start + step, self.identity.num_frames)))
            for start in range(0, self.identity.num_frames, step)
        ]
        return np.concatenate(parts)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Counts of frames start..stop, uint32 [stop - start, K].

        Raises:
            TrainerError: a block is damaged (the message names the file whose removal mends it).
        """
        try:
            counts = np.asarray(self._counts[start:stop])
        except (OSError, ValueError, RuntimeError) as error:
            raise self._damaged(start, stop, str(error)) from error
        if (counts.sum(axis=1, dtype=np.uint64) % self.identity.sample_block).any():
            raise self._damaged(start, stop, f"samples that are no multiple of {self.identity.sample_block}")
        return counts

    def missing(self, num_samples: int | np.ndarray) -> int:
        """Evaluations of the base classifier that are still needed for `num_samples` per frame."""
        done = self.samples().astype(np.int64)
        return int(np.maximum(np.asarray(num_samples, dtype=np.int64) - done, 0).sum())

    def check_num_samples(self, num_samples: int | np.ndarray) -> np.ndarray:
        """`num_samples` per frame as int64 [n]; refused unless every one fits the sample block."""
        return self.identity.check_num_samples(num_samples)

    def lock(self) -> WriterLock:
        """The writer lock, not yet taken."""
        return self._location.lock(self.identity.stream)

    @contextmanager
    def writer(self) -> Iterator[None]:
        """Be the only writer."""
        lock = self.lock()
        lock.acquire()
        try:
            self._location.sweep(self.identity.stream)
            yield
        finally:
            lock.release()

    def sweep(self) -> None:
        """Remove what a killed writer left half written; only while holding the lock."""
        self._location.sweep(self.identity.stream)

    def record_run(self, circumstances: dict[str, str]) -> None:
        """Note in the attributes `runs` what the counts were sampled with, unless that is there already.

        Counts repeat exactly on one device type; on another processor, float rounding may turn a near tie.
        """
        runs = self.attribute("runs") or []
        if circumstances not in runs:
            self.note("runs", [*runs, circumstances], "the circumstances of this run")

    def write(self, start: int, counts: np.ndarray) -> None:
        """Replace the counts of the image block that begins at frame `start`, in one atomic step.

        Raises:
            TrainerError: the disk is full or read-only; the block keeps what it had.
        """
        stop = start + len(counts)
        try:
            self._counts[start:stop] = counts
            self._samples[start:stop] = _row_sums(counts)
        except OSError as error:
            raise self._cannot_write(f"the counts of frames {start} to {stop - 1}", error) from error

    def settle(self, start: int, counts: np.ndarray) -> None:
        """Bring `samples` up to `counts`, as stored; a run killed between the two left them apart."""
        if (np.asarray(self._samples[start : start + len(counts)]) != _row_sums(counts)).any():
            self.write(start, counts)

    @property
    def plans(self) -> Plans:
        """What was fixed about the draws before the first of them, and where the counts could be looked at."""
        return Plans(self)

    def attribute(self, name: str) -> Any:
        """An attribute of the stream as it is now, None where it was never noted; another process may have written it."""
        return self._open_again().attrs.get(name)

    def note(self, name: str, value: Any, what: str) -> None:
        """Write an attribute of the stream. what: for the message. Raises: TrainerError: the disk is full or read-only."""
        try:
            self._group.attrs[name] = value
        except OSError as error:
            raise self._cannot_write(what, error) from error

    def _open_again(self) -> zarr.Group:
        """The group with its attributes as they are now; another process may have written them."""
        self._group = _open_group(self._location, self.identity.stream)
        return self._group

    def _cannot_write(self, what: str, error: OSError) -> TrainerError:
        return TrainerError(
            f"{self.path}: cannot write {what} ({error.strerror or error}). Everything stored before is intact; make "
            "room or mend the permissions and run the same command again, it continues"
        )

    def _damaged(self, start: int, stop: int, why: str) -> TrainerError:
        block = self.identity.image_block
        files = [
            f"{self.path}/{self.identity.stream}/counts/c/{i}/0"
            for i in range(start // block, -(-stop // block))
        ]
        return TrainerError(
            f"{self.path}: damaged counts in frames {start} to {stop - 1} ({why}); expected what rrise wrote. Find and "
            f"remove the damaged one of {files[0]} ... {files[-1]} and run again: only its frames are counted anew"
        )


def recorded_engines(path: str | Path, base_digest: str) -> set[str]:
    """The engines of all streams in a store that were counted from this base classifier; "" for one without a name."""
    place, found = Location.of(path), set()
    for stream in place.folders():
        check_stream(place, stream)
        attributes = dict(_open_group(place, stream).attrs)
        if attributes.get("format") == FORMAT and attributes.get("base_digest") == base_digest:
            found.add(Identity.read(place.address, attributes).engine)
    return found


def _row_sums(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts.sum(axis=1, dtype=np.uint64).astype(np.uint32))


def _begin(place: Location, identity: Identity, digests: np.ndarray) -> None:
    """Make the group of a stream, by whichever process comes first."""
    # Not the writer lock: processes of one run wait here for each other, while one of them may be writing already.
    lock = place.lock(".begin")
    lock.acquire(wait=True)
    try:
        if not place.exists(f"{identity.stream}/zarr.json"):
            _create(place, identity, digests)
    except OSError as error:
        raise TrainerError(
            f"{place.address}: cannot begin the stream {identity.stream!r} ({error.strerror or error}); expected a "
            "writable place with room. Nothing that was there has changed"
        ) from error
    finally:
        lock.release()


def _create(place: Location, identity: Identity, digests: np.ndarray) -> None:
    """In a folder, make the group under a temporary name and rename it: it exists complete or not at all."""
    name = f".{identity.stream}.partial" if place.local else identity.stream
    check_root(place)
    group = zarr.open_group(place.store(), mode="a", zarr_format=3).create_group(name, overwrite=True)
    for array, columns in (("counts", (identity.num_classes,)), ("samples", ())):
        group.create_array(
            array,
            shape=(identity.num_frames, *columns),
            chunks=(min(identity.image_block, identity.num_frames), *columns),
            dtype="uint32",
            fill_value=0,
            serializer=BytesCodec(),
            # Uncompressed (a block is a few KiB), with a checksum, so that damage is found instead of certified.
            compressors=[Crc32cCodec()],
        )
    group.create_array("digests", data=np.asarray(digests, dtype="S64").view(np.uint8).reshape(-1, 64))
    group.attrs.update(asdict(identity))
    if place.local:
        (Path(place.address) / name).rename(Path(place.address) / identity.stream)


def _open_group(place: Location, stream: str) -> zarr.Group:
    check_stream(place, stream)
    try:
        return zarr.open_group(place.store(stream), mode="r+", zarr_format=3, use_consolidated=False)
    except Exception as error:  # damaged metadata may raise anything
        raise _unreadable(place, stream, error) from error


def _array(place: Location, group: zarr.Group, name: str) -> Any:
    try:
        return group[name]
    except Exception as error:  # see above
        raise _unreadable(place, str(group.attrs["stream"]), error) from error


def _unreadable(place: Location, stream: str, error: Exception) -> TrainerError:
    return TrainerError(
        f"{place.address}: cannot read the stream {stream!r} ({error!r}); restore it, or remove "
        f"{place.address}/{stream} to sample it again"
    )
