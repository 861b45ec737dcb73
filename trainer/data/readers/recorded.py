"""Frames of recordings as pictures of a data set: every n-th, of the whole or of a part, read one by one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.files import read_arrays, write_arrays
from rrise.trainer.data.readers.recordings import Cursor, Index, Recording
from rrise.trainer.data.readers.source import (
    DataSource,
    Header,
    clip_numbers,
    files_stamp,
    held_out_of,
    in_order,
)
from rrise.trainer.errors import TrainerError


@dataclass(frozen=True)
class Part:
    """A stretch of a recording with one label.

    start, end: seconds from the recording's first frame; end None = to its end. clip: parts with equal ones belong together.
    split: what a listing or a folder's name says of it. where: names the part in messages.
    """

    recording: Recording
    label: str
    clip: object
    split: str = ""
    start: float = 0.0
    end: float | None = None
    where: str = ""


class RecordedFrames:
    """Frames of recordings by number.

    recordings, indexes: R of them; which, frame: int64 [n], the recording of each picture and its number there.
    """

    def __init__(
        self, recordings: Sequence[Recording], indexes: Sequence[Index], which: np.ndarray, frame: np.ndarray
    ) -> None:
        self._recordings, self._indexes, self._which, self._frame = recordings, indexes, which, frame
        self._open: tuple[int, int, Cursor] | None = None

    def __len__(self) -> int:
        return len(self._which)

    @property
    def pieces(self) -> list[range]:
        """Numbers of pictures that one worker should read one after the other, since decoding goes from frame to frame."""
        starts = np.flatnonzero(np.diff(self._which, prepend=-1))
        ends = [*starts[1:], len(self)]
        return [range(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]

    def where(self, number: int) -> str:
        return f"{self._recordings[self._which[number]].path}, frame {self._frame[number]}"

    def header(self, number: int) -> Header:
        header: Header = self._indexes[self._which[number]].header
        return header

    def read(self, number: int) -> np.ndarray:
        return self._cursor(int(self._which[number])).read(int(self._frame[number]))

    def _cursor(self, which: int) -> Cursor:
        """The one that is open in this process; neither a decoder nor a file position may be shared with a fork."""
        if self._open is None or self._open[:2] != (os.getpid(), which):
            if self._open is not None and self._open[0] == os.getpid():
                self._open[2].close()
            self._open = (os.getpid(), which, self._recordings[which].open(self._indexes[which]))
        return self._open[2]


class Indexes:
    """What is known of recordings, kept in a file, so that no bag is read through twice.

    path: of the file, or None to keep nothing. What was recorded into a recording since is found by sizes and times of change.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known = {} if path is None else _load(path)

    def of(self, recording: Recording) -> Index:
        """The index of a recording, read from it where it is not known."""
        key = f"{files_stamp(recording.files, recording.path.parent)} {recording.topic}"
        if key not in self._known:
            self._known[key] = recording.index()
            if self._path is not None:
                _save(self._path, self._known)
        return self._known[key]


def _save(path: Path, known: dict[str, Index]) -> None:
    write_arrays(
        path,
        {f"times{number}": index.times for number, index in enumerate(known.values())},
        {
            "table": "recordings",
            "keys": list(known),
            "headers": [
                [index.header.height, index.header.width, index.header.grey] for index in known.values()
            ],
        },
    )


def _load(path: Path) -> dict[str, Index]:
    """What `_save` wrote; nothing where there is none, or a damaged file: it can always be made again."""
    if not path.exists():
        return {}
    try:
        arrays, meta = read_arrays(path, "index of recordings", (), table="recordings")
        return {
            key: Index(arrays[f"times{number}"], Header(*meta["headers"][number]))
            for number, key in enumerate(meta["keys"])
        }
    except (CalibrationError, KeyError, TypeError, IndexError):
        return {}


@dataclass(frozen=True)
class Taking:
    """Which frames of recordings are taken. every: each so-many-th of a part, from its first on. indexes: what is known."""

    every: int = 1
    indexes: Indexes = field(default_factory=Indexes)


def recorded_source(
    parts: Sequence[Part], root: Path, where: str, taking: Taking, listed: Sequence[Path] = ()
) -> DataSource:
    """A data set of parts of recordings. root: names of files in its stamp start there; listed: files beside the recordings.

    Raises TrainerError where a recording cannot be read, or a part holds no frame.
    """
    if taking.every < 1:
        raise TrainerError(
            f"[data] every: got {taking.every}, expected 1 (all frames) or more (each so-many-th)"
        )
    recordings = list(dict.fromkeys(part.recording for part in parts))
    known = [taking.indexes.of(recording) for recording in recordings]
    places = [recordings.index(part.recording) for part in parts]
    frames = [_inside(part, known[place], taking.every) for part, place in zip(parts, places, strict=True)]
    owner = np.repeat(np.arange(len(parts)), [len(item) for item in frames])
    names = in_order(part.label for part in parts)
    words = [part.split for part in parts]
    held_out = held_out_of(words, where) if len(set(words)) > 1 else None
    files = [file for recording in recordings for file in recording.files]
    return DataSource(
        RecordedFrames(recordings, known, np.array(places, np.int64)[owner], np.concatenate(frames)),
        np.array([names.index(part.label) for part in parts], np.int64)[owner],
        tuple(names),
        clip_numbers([part.clip for part in parts])[owner],
        files_stamp([*listed, *files], root),
        None if held_out is None else held_out[owner],
    )


def _inside(part: Part, index: Index, every: int) -> np.ndarray:
    """Numbers of the frames of a part in its recording."""
    seconds = index.times / 1e9
    inside = np.flatnonzero((seconds >= part.start) & (seconds < (np.inf if part.end is None else part.end)))[
        ::every
    ]
    if not len(inside):
        raise TrainerError(
            f"{part.where or part.recording.path}: no frame from {part.start:g} to {part.end or seconds[-1]:g} s; "
            f"{part.recording.path} has {len(seconds):,} frames, the last at {seconds[-1]:.2f} s"
        )
    return inside
