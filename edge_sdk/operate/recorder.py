"""The flight recorder: every certificate in a bounded set of MCAP files, written by another thread.

Messages are written one by one and without chunks, so that a file cut off by a power failure opens up to its last
whole message.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import struct
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, List, Optional, Set

from rrise.calibration.requirements import install
from rrise.calibration.storage.digests import PathLike
from rrise.calibration.storage.files import parse_json
from rrise.calibration.storage.formats import check_format
from rrise.edge_sdk.certificate import FIELDS, Certificate
from rrise.edge_sdk.errors import EdgeError

TOPIC = "/rrise/certificate"
_PREFIX = "flight-"
_QUEUE = 1024
_FLUSH_SECONDS = 1.0
_LONGEST_MESSAGE = 1 << 20
"""Bytes of one certificate; a longer message is none of ours."""
_LONGEST_NUMBER = 1000
"""Digits of a frame's id, which may be any number."""
_LONGEST_END = 10.0
"""Seconds that `close` waits for a disk that does not answer."""
_LOCK = "recorder.lock"
FORMATS = ("rrise-flight/1",)
"""Of the channel; release 0.1 did not name it."""
_in_use: Set[Path] = set()
_SCHEMA = {"title": "rrise.Certificate", "type": "object", "properties": {name: {} for name in FIELDS}}


class FlightRecorder:
    """Keeps the last certificates on disk.

    Args:
        folder: for the files flight-00000001.mcap, ...; a new start goes on with the next number. One recorder at a
            time writes to it.
        file_bytes: a file is closed at this size; `files` of them are kept, the oldest is removed.

    Attributes:
        dropped: certificates that were not recorded because the disk was too slow; the camera loop never waits.
        problem: why recording stopped, as when the disk is full; empty while it goes on. It is also a RuntimeWarning.

    Raises:
        EdgeError: the folder cannot be used, another recorder uses it, or mcap is not installed.
    """

    def __init__(self, folder: PathLike, *, file_bytes: int = 16 << 20, files: int = 8) -> None:
        if file_bytes < 4096 or files < 1:
            raise EdgeError(
                f"flight recorder: got {files} files of {file_bytes} bytes, expected at least 1 of 4096"
            )
        self._folder, self._file_bytes, self._files = Path(os.path.abspath(folder)), file_bytes, files
        self._writer_module = _mcap_writer()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgeError(
                f"flight recorder: cannot make {folder} ({error}); choose another folder"
            ) from error
        self._lock = _lock(self._folder)
        self._number = max((_number(file) for file in flights(self._folder)), default=0)
        self._queue: "queue.Queue[Optional[Certificate]]" = queue.Queue(_QUEUE)
        self.dropped = 0
        self.problem = ""
        self._ended = False
        self._thread = threading.Thread(target=self._write, name="rrise-recorder", daemon=True)
        self._thread.start()

    def add(self, certificate: Certificate) -> None:
        """Hand one certificate over; never waits."""
        try:
            self._queue.put_nowait(certificate)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is waiting and finish the file; a disk that does not answer is not waited for longer than 10 s."""
        end = time.monotonic() + _LONGEST_END
        self._ended = True
        while self._thread.is_alive() and time.monotonic() < end:
            with suppress(queue.Full):
                self._queue.put(None, timeout=0.1)
                self._thread.join(max(end - time.monotonic(), 0.0))
        if self._thread.is_alive():
            self._stopped(f"the disk did not answer for {_LONGEST_END:g} s")

    def __enter__(self) -> "FlightRecorder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self) -> None:
        current: Optional[_File] = None
        while True:
            try:
                certificate = self._queue.get(timeout=_FLUSH_SECONDS)
            except queue.Empty:
                if self._ended:
                    break
                self._try(current.flush if current is not None else None)
                continue
            if certificate is None:
                break
            if self.problem:
                self.dropped += 1
                continue
            try:
                if current is None or current.size >= self._file_bytes:
                    current = self._next_file(current)
                current.add(certificate)
            except Exception as error:  # noqa: BLE001 - a thread that ends unheard leaves `close` waiting for it
                self._stopped(error)
                self.dropped += 1
        self._try(current.finish if current is not None else None)
        self._lock.release()  # not before the last byte is written

    def _try(self, act: Optional[Callable[[], None]]) -> None:
        if act is None or (self.problem and act.__name__ == "flush"):
            return
        try:
            act()
        except Exception as error:  # noqa: BLE001 - as above
            self._stopped(error)

    def _stopped(self, why: object) -> None:
        if not self.problem:
            self.problem = f"flight recorder: stopped writing ({why})"
            with suppress(Exception):  # a filter may turn the warning into an exception
                warnings.warn(f"{self.problem}; certificates go on unrecorded", RuntimeWarning, stacklevel=2)

    def _next_file(self, current: "Optional[_File]") -> "_File":
        if current is not None:
            current.finish()
        for old in flights(self._folder)[: -(self._files - 1) or None]:
            old.unlink(missing_ok=True)
        self._number += 1
        return _File(self._folder / f"{_PREFIX}{self._number:08d}.mcap", self._writer_module)


class _Lock:
    """A folder that one recorder has to itself, in this process and, where the system can say so, among all."""

    def __init__(self, folder: Path, file: Optional[IO[bytes]]) -> None:
        self._folder, self._file = folder, file

    def release(self) -> None:
        _in_use.discard(self._folder)
        if self._file is not None:
            self._file.close()


def _lock(folder: Path) -> _Lock:
    """Raises: EdgeError: another recorder has it."""
    taken = f"flight recorder: another recorder writes to {folder}; choose another folder, or close that one"
    real = Path(os.path.realpath(folder))
    if real in _in_use:
        raise EdgeError(taken)
    file: Optional[IO[bytes]] = None
    try:
        import fcntl

        file = open(real / _LOCK, "ab")  # noqa: SIM115 - held until `release`
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # where files cannot be locked, two processes are told apart by nothing
    except OSError as error:
        if file is not None:
            file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN) and file is not None:
            raise EdgeError(taken) from error
        raise EdgeError(f"flight recorder: cannot write to {folder} ({error}); choose another") from error
    _in_use.add(real)
    return _Lock(real, file)


class _File:
    """One MCAP file that is being written."""

    def __init__(self, path: Path, writer_module: Any) -> None:
        self._stream: IO[bytes] = open(path, "xb")  # noqa: SIM115 - closed by finish, in another call
        self._writer = writer_module.Writer(self._stream, use_chunking=False)
        self._writer.start(profile="", library="rrise")
        schema = self._writer.register_schema("rrise.Certificate", "jsonschema", json.dumps(_SCHEMA).encode())
        self._channel = self._writer.register_channel(TOPIC, "json", schema, {"format": FORMATS[-1]})
        self._flushed = time.monotonic()

    @property
    def size(self) -> int:
        return self._stream.tell()

    def add(self, certificate: Certificate) -> None:
        data = json.dumps(certificate.to_json()).encode()
        when = _nanoseconds(certificate.capture_time)
        self._writer.add_message(self._channel, log_time=time.time_ns(), publish_time=when, data=data)
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._stream.flush()
        self._flushed = time.monotonic()

    def finish(self) -> None:
        try:
            self._writer.finish()
        finally:
            self._stream.close()


def read_flight(path: PathLike) -> Iterator[Dict[str, Any]]:
    """Certificates of one file as JSON values, up to where it was cut off.

    Raises:
        EdgeError: unreadable from the start, of a newer format, or mcap is not installed.
    """
    try:
        from mcap.exceptions import McapError
        from mcap.stream_reader import StreamReader
    except ImportError as error:
        raise EdgeError(f"mcap is not installed: {install('mcap')}") from error
    try:
        with open(path, "rb") as file:
            records: Iterator[Any] = StreamReader(file).records
            for record in records:
                kind = type(record).__name__
                if kind == "Channel":
                    form = record.metadata.get("format", FORMATS[0])
                    check_format(f"flight recording {path}", form, FORMATS, "record anew", EdgeError)
                if kind == "Message":
                    if len(record.data) > _LONGEST_MESSAGE:
                        raise ValueError(f"a message of {len(record.data):,} bytes")
                    yield parse_json(record.data, finite=False, digits=_LONGEST_NUMBER)
    except (McapError, ValueError, EOFError, struct.error) as error:
        if Path(path).stat().st_size < 8 or not _starts_like_mcap(path):
            raise EdgeError(f"{path}: is no MCAP file ({error})") from error
    except OSError as error:
        raise EdgeError(f"{path}: cannot be read ({error})") from error


def _starts_like_mcap(path: PathLike) -> bool:
    with open(path, "rb") as file:
        return file.read(5) == b"\x89MCAP"


def flights(folder: PathLike) -> List[Path]:
    """The recorder's files in a folder, oldest first."""
    return sorted(file for file in Path(folder).glob(f"{_PREFIX}*.mcap") if _number(file))


def _number(file: Path) -> int:
    digits = file.stem[len(_PREFIX) :]
    return int(digits) if digits.isdigit() else 0


def _nanoseconds(seconds: float) -> int:
    """Capture time for MCAP, which has unsigned 64-bit nanoseconds; 0 for a time that does not fit."""
    return int(seconds * 1e9) if 0 <= seconds < 1.8e10 else 0


def _mcap_writer() -> Any:
    try:
        import mcap.writer
    except ImportError as error:
        raise EdgeError(f"mcap is not installed: {install('mcap')}") from error
    return mcap.writer
