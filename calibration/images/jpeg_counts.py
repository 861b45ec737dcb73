"""Count the blocks in the entropy-coded data of a baseline JPEG, without decoding them to pixels."""

from __future__ import annotations

from functools import lru_cache
from typing import Dict, List, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import ImageError

DAMAGED = "; some of its data is lost or changed, check the link or disk it came over"
_END_OF_BLOCK, _INVALID = 128, 255
_CHUNK, _AHEAD = 32768, 4096
"""Bytes that are looked up at a time, and beyond them, for a unit that begins at their end."""
_LARGEST = 4 << 20
"""Bytes that are counted at all: some seconds."""

STANDARD = {
    0x00: bytes.fromhex("00010501010101010100000000000000000102030405060708090a0b"),
    0x01: bytes.fromhex("00030101010101010101010000000000000102030405060708090a0b"),
    0x10: bytes.fromhex(
        "0002010303020403050504040000017d01020300041105122131410613516107227114328191a1082342b1c11552"
        "d1f02433627282090a161718191a25262728292a3435363738393a434445464748494a535455565758595a636465"
        "666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8"
        "b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
    ),
    0x11: bytes.fromhex(
        "00020102040403040705040400010277000102031104052131061241510761711322328108144291a1b1c1092333"
        "52f0156272d10a162434e125f11718191a262728292a35363738393a434445464748494a535455565758595a6364"
        "65666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6"
        "b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
    ),
}
"""The tables of the standard (ITU-T T.81, K.3), which motion JPEG of many cameras leaves out and decoders put in."""


def count_blocks(segment: bytes, unit: Sequence[Tuple[int, bytes, bytes]], units: int) -> None:
    """Follow the codes of one piece of baseline data from block to block, which it must fill.

    Args:
        segment: entropy-coded bytes between two markers, as they stand in the file.
        unit: of each component, its blocks in a unit and its Huffman tables (DC, AC: 16 numbers of codes, symbols).
        units: expected.

    Raises:
        ImageError: the data ends before, goes on behind, or holds codes that the tables do not have.
    """
    data = segment.replace(b"\xff\x00", b"\xff")
    if len(data) > _LARGEST:
        raise ImageError(f"JPEG: ends in even grey and is too long to be counted{DAMAGED}")
    start = position = 0
    order = _steps(data, unit)
    try:
        for _ in range(units):
            if position >= 8 * _CHUNK:
                start, position = start + _CHUNK, position - 8 * _CHUNK
                order = _steps(data[start:], unit)
            for first, lengths, steps in order:
                position += first[position]
                index = 1
                while index < 64:
                    index += steps[position]
                    position += lengths[position]
                if 64 < index < _END_OF_BLOCK or index >= _INVALID:
                    raise ImageError(f"JPEG: its data ends before the picture does, or is none{DAMAGED}")
    except IndexError as error:
        raise ImageError(f"JPEG: its data ends before the picture does{DAMAGED}") from error
    left = 8 * (len(data) - start) - position
    if left < 0:
        raise ImageError(f"JPEG: its data ends before the picture does{DAMAGED}")
    rest = data[len(data) - left // 8 :]
    if rest.strip(b"\0") and rest.strip(b"\xff"):  # some encoders fill up with either
        raise ImageError(f"JPEG: {len(rest)} bytes are left when the picture is full{DAMAGED}")


def _steps(data: bytes, unit: Sequence[Tuple[int, bytes, bytes]]) -> List[Tuple[bytes, bytes, bytes]]:
    """For each block of a unit: bits of the first code and of the others at every bit, and how far those advance."""
    # Behind the end stand ones, which no proper table has as a code.
    padded = np.frombuffer(data[: _CHUNK + _AHEAD] + b"\xff" * 8, np.uint8).astype(np.uint32)
    triples = (padded[:-2] << 16) | (padded[1:-1] << 8) | padded[2:]
    windows = ((triples[:, None] >> np.arange(8, 0, -1, dtype=np.uint32)) & 0xFFFF).reshape(-1)
    order: List[Tuple[bytes, bytes, bytes]] = []
    looked_up: Dict[Tuple[bytes, bytes], Tuple[bytes, bytes, bytes]] = {}
    for blocks, *tables in unit:
        pair = (tables[0], tables[1])
        if pair not in looked_up:
            lengths, steps = _lookup(pair[1], False)
            first = _lookup(pair[0], True)[0]
            looked_up[pair] = (first[windows].tobytes(), lengths[windows].tobytes(), steps[windows].tobytes())
        order += [looked_up[pair]] * blocks
    return order


@lru_cache(maxsize=64)
def _lookup(table: bytes, is_dc: bool) -> Tuple[np.ndarray, np.ndarray]:
    """For every 16 bits: how many bits code and value take, and by how many coefficients a block advances."""
    lengths = np.full(65536, _INVALID if is_dc else 1, np.uint8)
    steps = np.full(65536, _INVALID, np.uint8)
    code, place = 0, 16
    for size in range(1, 17):
        for symbol in table[place : place + table[size - 1]]:
            low, high = code << (16 - size), (code + 1) << (16 - size)
            run, value = (0, symbol) if is_dc else divmod(symbol, 16)
            lengths[low:high] = size + min(value, 16)
            steps[low:high] = run + 1 if value or run == 15 else _END_OF_BLOCK
            code += 1
        place += table[size - 1]
        code <<= 1
    return lengths, steps
