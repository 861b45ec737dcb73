"""Gaussian noise in cells: every (frame, sample block) has its own random stream, whoever draws it and when.

The stream of a cell is fixed by (seed, stream name, frame index, sample block), so that counts depend neither on the
batch size nor on the order, the number of workers or interruptions; and no two frames ever share noise, which the
guarantee needs (one noise block shared by all frames breaks it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Long cells are cut into units of about this many numbers, each with a stream of its own, so that threads share the
# work; shorter ones would spend their time on seeding (15 microseconds) instead of drawing.
UNIT_NUMBERS = 1 << 16


@dataclass(frozen=True)
class Cell:
    """One sample block of one frame. row: where its frame is in the image block that is being sampled."""

    row: int
    frame: int
    sample_block: int


@dataclass(frozen=True)
class NoiseKey:
    """Names all noise of one stream of counts."""

    seed: int
    stream: str

    def words(self) -> list[int]:
        """256 bits as eight 32-bit words."""
        return [int(word) for word in self._words]

    @cached_property
    def _words(self) -> np.ndarray:
        """The same as uint32 [8]: every unit of noise asks for them, and numpy takes an array in half the time."""
        digest = hashlib.sha256(f"{self.seed}/{self.stream}".encode()).digest()
        return np.frombuffer(digest, dtype="<u4").astype(np.uint32)

    def generator(self, frame: int, sample_block: int, unit: int) -> np.random.Generator:
        """The generator of one unit of one cell; distinct arguments give independent streams."""
        sequence = np.random.SeedSequence(self._words, spawn_key=(frame, sample_block, unit))
        return np.random.Generator(np.random.SFC64(sequence))


class Unit:
    """A run of samples of one cell, drawn in order from one generator, in as many pieces as batches want."""

    def __init__(self, key: NoiseKey, cell: Cell, index: int, samples: int) -> None:
        self._key, self._index = key, index
        self._generator: np.random.Generator | None = None
        self.cell, self.left = cell, samples

    def add_noise(self, out: np.ndarray, frame: np.ndarray, sigma: np.float32) -> None:
        """Write frame + sigma * noise, summed in float32, for the next len(out) samples. Releases the GIL."""
        if self._generator is None:
            self._generator = self._key.generator(self.cell.frame, self.cell.sample_block, self._index)
        self._generator.standard_normal(out=out, dtype=np.float32)
        out *= sigma
        out += frame


@dataclass(frozen=True)
class Piece:
    """Rows start..stop of a batch, to be filled from one unit."""

    unit: Unit
    start: int
    stop: int


def units(key: NoiseKey, cells: list[Cell], sample_block: int, numel: int) -> Iterator[Unit]:
    """The units of `cells` in order. numel: numbers per sample."""
    length = min(sample_block, max(1, UNIT_NUMBERS // numel))
    for cell in cells:
        for index, first in enumerate(range(0, sample_block, length)):
            yield Unit(key, cell, index, min(length, sample_block - first))


def sample_batches(stream: Iterator[Unit], batch_size: int) -> Iterator[list[Piece]]:
    """Cut the samples of `stream` into batches of `batch_size` rows; the last may be smaller."""
    pieces: list[Piece] = []
    filled = 0
    for unit in stream:
        while unit.left:
            take = min(unit.left, batch_size - filled)
            unit.left -= take
            pieces.append(Piece(unit, filled, filled + take))
            filled += take
            if filled == batch_size:
                yield pieces
                pieces, filled = [], 0
    if pieces:
        yield pieces


class NoiseFiller:
    """Fills buffers [rows, H, W, C] with frame + sigma * noise on several threads.

    Such a buffer, permuted, is a channels_last tensor; and noise drawn in this order is the same for every memory
    layout that the network may want.
    """

    def __init__(self, sigma: float, threads: int) -> None:
        self._sigma = np.float32(sigma)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def fill(self, buffer: np.ndarray, frames: np.ndarray, pieces: list[Piece]) -> None:
        """frames: float32 [frames, H, W, C], indexed by the row of each piece's cell."""

        def fill_one(piece: Piece) -> None:
            out = buffer[piece.start : piece.stop]
            piece.unit.add_noise(out, frames[piece.unit.cell.row], self._sigma)

        # Pieces of a batch come from different units, hence different generators and rows: no two threads meet.
        if self._pool is None or len(pieces) == 1:
            for piece in pieces:
                fill_one(piece)
        else:
            list(self._pool.map(fill_one, pieces))

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
