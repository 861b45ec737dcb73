"""A listing as data: CSV with a header, or JSON lines, with path, label, and clip, split, start and end where there are any."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rrise.calibration.storage.files import parse_json
from rrise.trainer.data.readers.pictures import ImageFiles, Place
from rrise.trainer.data.readers.recorded import Part, Taking, recorded_source
from rrise.trainer.data.readers.recordings import Recording, is_recording
from rrise.trainer.data.readers.source import DataSource, clip_numbers, files_stamp, held_out_of, in_order
from rrise.trainer.errors import TrainerError

NEEDED, OPTIONAL = ("path", "label"), ("clip", "split", "start", "end")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")


def open_listing(listing: Path, *, topic: str = "", taking: Taking | None = None) -> DataSource:
    """The images, or the parts of recordings, that a listing names; relative paths start at its folder.

    label is the name of a class. Rows of one clip belong together. split is train, or val, test or held_out. start and end are
    seconds from the first frame of a recording. topic, taking: of recordings.
    """
    rows = list(_csv_rows(listing) if listing.suffix.lower() in (".csv", ".tsv") else _json_rows(listing))
    if not rows:
        raise TrainerError(f"{listing}: got no rows, expected one row per image or part of a recording")
    paths = [listing.parent / row["path"] for row in rows]
    recorded = [is_recording(path) for path in paths]
    missing = [
        str(path) for path, whole in zip(paths, recorded) if not (path.is_file() or (whole and path.exists()))
    ]
    if missing:
        raise TrainerError(
            f"{listing}: {len(missing)} of {len(rows)} files are not there, the first {missing[0]}; relative paths "
            f"start at {listing.parent}"
        )
    splits = [row["split"] for row in rows if row.get("split")]
    if splits and len(splits) < len(rows):
        raise TrainerError(
            f"{listing}: {len(rows) - len(splits)} of {len(rows)} rows have no split; fill all or none"
        )
    if any(recorded):
        if not all(recorded):
            raise TrainerError(
                f"{listing}: names images and recordings, expected one kind; make two listings"
            )
        cut = [_part(listing, row, Recording(path, topic)) for row, path in zip(rows, paths)]
        return recorded_source(cut, listing.parent, str(listing), taking or Taking(), [listing])
    if any(row.get("start") or row.get("end") for row in rows):
        raise TrainerError(
            f"{listing}: start and end belong to recordings, and its paths are images; leave them out"
        )
    names = in_order(row["label"] for row in rows)
    clips = [row["clip"] if row.get("clip") else ("row", number) for number, row in enumerate(rows)]
    return DataSource(
        ImageFiles([Place(path) for path in paths]),
        np.array([names.index(row["label"]) for row in rows], np.int64),
        tuple(names),
        clip_numbers(clips),
        files_stamp([listing, *paths], listing.parent),
        held_out_of(splits, str(listing)) if splits else None,
    )


def _part(listing: Path, row: dict[str, str], recording: Recording) -> Part:
    """All parts of one recording are one clip, unless the listing says otherwise: they show the same scene and light."""
    where = f"{listing}, {row['path']} from {row.get('start') or 0} to {row.get('end') or 'its end'}"
    start = _seconds(where, row.get("start")) or 0.0
    end = _seconds(where, row.get("end"))
    if end is not None and end <= start:
        raise TrainerError(f"{where}: the end is not after the start")
    clip = row["clip"] if row.get("clip") else ("recording", str(recording.path))
    return Part(recording, row["label"], clip, row.get("split") or "", start, end, where)


def _seconds(where: str, text: str | None) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise TrainerError(
            f"{where}: got {text!r}, expected seconds from the recording's first frame, such as 12.5"
        )
    return value


def _csv_rows(listing: Path) -> Iterator[dict[str, str]]:
    try:
        # utf-8-sig: spreadsheets write a byte order mark.
        with open(listing, encoding="utf-8-sig", newline="") as file:
            start = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=start.count)
            reader = csv.DictReader(file, delimiter=delimiter)
            _check_columns(listing, [name.strip() for name in reader.fieldnames or ()])
            for row in reader:
                yield _checked(
                    listing, reader.line_num, {str(key).strip(): value for key, value in row.items()}
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainerError(f"{listing}: cannot be read as CSV ({error})") from error


def _json_rows(listing: Path) -> Iterator[dict[str, str]]:
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainerError(f"{listing}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                raise TrainerError(f"{listing}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise TrainerError(f"{listing}, line {number}: got {line[:60]!r}, expected an object")
            _check_columns(listing, list(row))
            yield _checked(listing, number, {key: _text(value) for key, value in row.items()})


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _checked(listing: Path, number: int, row: dict[str, str]) -> dict[str, str]:
    for name in NEEDED:
        if not row.get(name):
            raise TrainerError(
                f"{listing}, line {number}: got no {name}, expected {' and '.join(NEEDED)} in every row"
            )
    if row.get("None"):
        raise TrainerError(
            f"{listing}, line {number}: got more fields than the header has; put texts in quotes"
        )
    return row


def _check_columns(listing: Path, columns: list[str]) -> None:
    known = [*NEEDED, *OPTIONAL]
    for column in columns:
        if column not in known:
            near = difflib.get_close_matches(column.lower(), known, n=1, cutoff=0.5)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            raise TrainerError(f"{listing}: column {column!r}, expected {', '.join(known)}{hint}")
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise TrainerError(
            f"{listing}: got columns {columns}, expected {', '.join(known)}: {missing} missing"
        )
