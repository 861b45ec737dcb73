"""SHA-256 digests of frames, files and JSON values: how artefacts say what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, Iterable, Union

import numpy as np

PathLike = Union[str, "os.PathLike[str]"]


def frame_digest(frame: np.ndarray) -> str:
    """Digest of one frame over its dtype, shape and C-order bytes, as 64 hexadecimal characters."""
    header = f"{frame.dtype.newbyteorder('<').str}{tuple(int(side) for side in frame.shape)}".encode()
    little_endian = np.ascontiguousarray(frame, dtype=frame.dtype.newbyteorder("<"))
    digest = hashlib.sha256(header)
    digest.update(
        little_endian.reshape(-1).view(np.uint8).data
    )  # as it lies in memory: no copy of a large frame
    return digest.hexdigest()


def frame_digests(frames: np.ndarray) -> np.ndarray:
    """Digests of `frames` [n, ...] as an array of dtype S64, shape [n]."""
    return np.array([frame_digest(frame).encode() for frame in frames], dtype="S64")


def file_digest(path: PathLike) -> str:
    """Digest of a file's bytes, read in pieces of one MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """Digest of a JSON value in canonical form (sorted keys, no spaces; NaN and infinity are refused)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def combined_digest(digests: Iterable[Union[str, bytes]]) -> str:
    """One digest of an ordered list of digests, such as the frames of a split."""
    total = hashlib.sha256()
    for digest in digests:
        total.update(digest.encode() if isinstance(digest, str) else bytes(digest))
        total.update(b"\n")
    return total.hexdigest()
