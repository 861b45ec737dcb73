"""Is a JPEG whole? Its markers are read, and where that is cheap or something looks odd, its entropy-coded data is counted.

A decoder fills up what is missing with grey and says nothing, so a frame that lost a packet is a picture of something
else. Found are: a missing end marker, missing or exchanged restart markers, missing scans of a progressive file, and
in a baseline file data for fewer or more blocks than the picture has. Not found are values that changed and still
decode to the right number of blocks, and data lost inside a scan of a progressive file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Sequence, Tuple

import numpy as np

from rrise.calibration.errors import ImageError
from rrise.calibration.images.jpeg_counts import DAMAGED, STANDARD, count_blocks

MAX_SCANS = 64
"""A progressive file has about ten; each more costs a pass over the whole picture, and a file can hold thousands."""

COUNTED_BYTES = 4096
"""Entropy-coded data up to this size is counted in every frame (about 1 ms); beyond it only where the picture looks odd."""

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_SEARCHED = 1 << 20
"""Bytes that are searched for markers at a time."""
_NO_LENGTH = {0x01, 0xD8, *range(0xD0, 0xD8)}
_BASELINE, _PROGRESSIVE = (0xC0, 0xC1), 0xC2


@dataclass(frozen=True)
class Component:
    """One colour channel: how many blocks of 8 x 8 it has in a unit of the scan, across and down."""

    number: int
    across: int
    down: int


@dataclass(frozen=True)
class Scan:
    """One scan: entropy-coded data without restart markers, its components with their tables, and what it codes."""

    segments: Tuple[bytes, ...]
    components: Tuple[Component, ...]
    tables: Tuple[Tuple[bytes, bytes], ...]
    interval: int
    first: int
    last: int
    bits_left: int


@dataclass(frozen=True)
class Jpeg:
    """What the markers of a JPEG say: size in pixels, components, scans in order."""

    width: int
    height: int
    progressive: bool
    components: Tuple[Component, ...]
    scans: Tuple[Scan, ...]

    @property
    def unit(self) -> Tuple[int, int]:
        """Width and height, in pixels, of what an interleaved scan codes at a time."""
        return 8 * max(one.across for one in self.components), 8 * max(one.down for one in self.components)


def read_jpeg(data: bytes) -> Jpeg:
    """Read the markers up to the end marker, decoding nothing; what follows it (padding, a preview) is left alone.

    Raises:
        ImageError: no JPEG, of a kind that cameras do not make, or not whole.
    """
    state = _Reading(data)
    try:
        for _ in iter(state.step, True):
            pass
    except IndexError as error:
        raise ImageError(f"JPEG: ends in the middle of its header{DAMAGED}") from error
    if not state.scans or not state.components:
        raise ImageError(f"JPEG: has no picture in it{DAMAGED}")
    jpeg = Jpeg(state.width, state.height, state.progressive, state.components, tuple(state.scans))
    _check_scans(jpeg)
    return jpeg


def check_decoded(jpeg: Jpeg, pixels: np.ndarray) -> None:
    """Does the data hold as many blocks as the picture has?

    Args:
        jpeg: the markers of the file.
        pixels: uint8 [H, W, C], what a decoder made of it, before it was turned.

    Raises:
        ImageError: it holds fewer or more.
    """
    if jpeg.progressive:
        return  # its blocks cannot be counted scan by scan at a bearable cost
    size = sum(len(segment) for scan in jpeg.scans for segment in scan.segments)
    for scan in jpeg.scans:
        together = len(scan.components) > 1
        blocks = [
            (one.across * one.down if together else 1, *tables)
            for one, tables in zip(scan.components, scan.tables)
        ]
        for number, (segment, units) in enumerate(zip(scan.segments, _units(jpeg, scan))):
            last = number * scan.interval + units - 1
            if size <= COUNTED_BYTES or _grey(jpeg, scan, pixels, last):
                count_blocks(segment, blocks, units)


def _units(jpeg: Jpeg, scan: Scan) -> Iterator[int]:
    """How many units each segment of a scan codes."""
    across, down = _grid(jpeg, scan)
    left = across * down
    while left > 0:
        part = min(scan.interval or left, left)
        yield part
        left -= part


def _grid(jpeg: Jpeg, scan: Scan) -> Tuple[int, int]:
    """Units across and down: a scan of one component codes the blocks that it needs, others whole units of all."""
    wide, high = jpeg.unit
    if len(scan.components) > 1:
        return -(-jpeg.width // wide), -(-jpeg.height // high)
    one = scan.components[0]
    width, height = -(-jpeg.width * 8 * one.across // wide), -(-jpeg.height * 8 * one.down // high)
    return -(-width // 8), -(-height // 8)


def _grey(jpeg: Jpeg, scan: Scan, pixels: np.ndarray, unit: int) -> bool:
    """Whether a unit is even middle grey: what a decoder puts where data is missing."""
    wide, high = jpeg.unit
    if len(scan.components) == 1:
        wide, high = wide // scan.components[0].across, high // scan.components[0].down
    down, across = divmod(unit, _grid(jpeg, scan)[0])
    block = pixels[down * high : (down + 1) * high, across * wide : (across + 1) * wide].astype(np.float64)
    luma = block @ np.array([0.299, 0.587, 0.114]) if block.shape[2] == 3 else block
    # Chroma of a neighbour reaches one pixel far into a unit, luma does not.
    return bool(luma.size and np.ptp(luma) <= 2.0 and abs(luma.mean() - 128.0) <= 2.0)


def _check_scans(jpeg: Jpeg) -> None:
    for scan in jpeg.scans:
        expected = len(list(_units(jpeg, scan)))
        if len(scan.segments) != expected:
            raise ImageError(
                f"JPEG: got {len(scan.segments)} pieces between restart markers, expected {expected}{DAMAGED}"
            )
    for one in jpeg.components:
        # Progressive: every coefficient down to its last bit. Baseline: one scan with all of them.
        left = [14] * 64
        for scan in jpeg.scans:
            if one in scan.components:
                left[scan.first : scan.last + 1] = [scan.bits_left] * (scan.last + 1 - scan.first)
        if any(left):
            raise ImageError(f"JPEG: scans are missing, component {one.number} is not complete{DAMAGED}")


@dataclass
class _Reading:
    """A walk over the markers; `step` reads one and says whether it was the end."""

    data: bytes
    position: int = 2
    width: int = 0
    height: int = 0
    progressive: bool = False
    components: Tuple[Component, ...] = ()
    interval: int = 0
    tables: Dict[int, bytes] = field(default_factory=dict)
    scans: List[Scan] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.data[:2] != b"\xff\xd8":
            raise ImageError("JPEG: does not begin like one, expected the bytes of a JPEG file")

    def step(self) -> bool:
        found = _MARKER.match(self.data, self.position)
        if found is None:
            raise ImageError(f"JPEG: ends before its end marker{DAMAGED}")
        kind, self.position = found[1][0], found.end()
        if kind == 0xD9:
            return True
        if kind in _NO_LENGTH:
            return False
        length = self.data[self.position] << 8 | self.data[self.position + 1]
        body = self.data[self.position + 2 : self.position + length]
        if length < 2 or len(body) != length - 2:
            raise ImageError(f"JPEG: ends in the middle of its header{DAMAGED}")
        self.position += length
        if kind == 0xC4:
            self._tables(body)
        elif kind == 0xDD:
            self.interval = body[0] << 8 | body[1]
        elif kind == 0xDA:
            self._scan(body)
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC8, 0xCC):
            self._frame(kind, body)
        return False

    def _frame(self, kind: int, body: bytes) -> None:
        if kind not in (*_BASELINE, _PROGRESSIVE) or body[0] != 8:
            raise ImageError(
                f"JPEG: got process {kind - 0xC0} with {body[0]} bits, expected baseline or progressive"
                " Huffman coding with 8; save it again"
            )
        self.height, self.width = body[1] << 8 | body[2], body[3] << 8 | body[4]
        if self.components or not self.height or not self.width or not body[5]:
            raise ImageError(f"JPEG: its header gives no size, or two{DAMAGED}")
        self.progressive = kind == _PROGRESSIVE
        parts = [body[at : at + 2] for at in range(6, 6 + 3 * body[5], 3)]
        self.components = tuple(Component(part[0], part[1] >> 4, part[1] & 15) for part in parts)
        if not all(1 <= one.across <= 4 and 1 <= one.down <= 4 for one in self.components):
            raise ImageError(f"JPEG: got sampling factors outside 1 to 4{DAMAGED}")

    def _tables(self, body: bytes) -> None:
        while body:
            size = 17 + sum(body[1:17])
            if len(body) < size:
                raise ImageError(f"JPEG: a Huffman table is cut off{DAMAGED}")
            self.tables[body[0]], body = bytes(body[1:size]), body[size:]

    def _scan(self, body: bytes) -> None:
        if len(self.scans) == MAX_SCANS:
            raise ImageError(f"JPEG: got more than {MAX_SCANS} scans, expected about ten; save it again")
        known = {one.number: one for one in self.components}
        chosen: Sequence[bytes] = [body[at : at + 2] for at in range(1, 1 + 2 * body[0], 2)]
        if not chosen or any(one[0] not in known for one in chosen):
            raise ImageError(f"JPEG: a scan names components that the header does not{DAMAGED}")
        first, last, bits = body[1 + 2 * body[0] :][:3]
        if not self.progressive:
            first, last, bits = 0, 63, 0
        tables = tuple((self._table(one[1] >> 4), self._table(0x10 | one[1] & 15)) for one in chosen)
        pieces, numbers = self._pieces()
        if any(number != 0xD0 + place % 8 for place, number in enumerate(numbers)):
            raise ImageError(f"JPEG: its restart markers are not in order{DAMAGED}")
        components = tuple(known[one[0]] for one in chosen)
        self.scans.append(
            Scan(tuple(pieces), components, tables, self.interval, first, min(last, 63), bits & 15)
        )

    def _pieces(self) -> Tuple[List[bytes], List[int]]:
        """Entropy-coded data from here to the marker that ends it, cut at restart markers; and their numbers.

        Markers may have any number of fill bytes 0xff before them, which belong to no piece.
        """
        pieces: List[bytes] = []
        numbers: List[int] = []
        for place, kind in _markers(self.data, self.position):
            pieces.append(self.data[self.position : place].rstrip(b"\xff"))
            if not 0xD0 <= kind <= 0xD7:
                self.position += len(pieces[-1])
                return pieces, numbers
            numbers.append(kind)
            self.position = place + 2
        raise ImageError(f"JPEG: ends before its end marker{DAMAGED}")

    def _table(self, number: int) -> bytes:
        if self.progressive:
            return (
                b""  # a scan of one kind of coefficient has no table for the other, and none is needed here
            )
        if number not in self.tables and number not in STANDARD:
            raise ImageError(f"JPEG: Huffman table {number:#x} is missing{DAMAGED}")
        return self.tables.get(number) or STANDARD[number]


def _markers(data: bytes, start: int) -> Iterator[Tuple[int, int]]:
    """Place of the last 0xff and kind of each marker from `start` on, restart markers too.

    In a hundredth of a regular expression's time, which used to be as long as decoding.
    """
    while start < len(data) - 1:
        part = np.frombuffer(data, np.uint8, min(_SEARCHED, len(data) - start), start)
        places = np.flatnonzero(part[:-1] == 0xFF)
        kinds = part[places + 1]
        chosen = (kinds != 0) & (kinds != 0xFF)
        for place, kind in zip(places[chosen].tolist(), kinds[chosen].tolist()):
            yield start + place, kind
        start += len(part) - 1  # the last byte may be the first of a marker
