"""The flight recorder: every certificate in a bounded set of MCAP files, written by another thread.

Messages are written one by one and without chunks, so that a file cut off by a power failure opens up to its last
whole message.
"""

from __future__ import annotations

import json
import queue
import struct
import threading
import time
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Optional

from rrise.calibration.storage.digests import PathLike
from rrise.edge_sdk.certificate import FIELDS, Certificate
from rrise.edge_sdk.errors import EdgeError

TOPIC = "/rrise/certificate"
_PREFIX = "flight-"
_QUEUE = 1024
_FLUSH_SECONDS = 1.0
_SCHEMA = {"title": "rrise.Certificate", "type": "object", "properties": {name: {} for name in FIELDS}}


class FlightRecorder:
    """Keeps the last certificates on disk.

    Args:
        folder: for the files flight-00000001.mcap, ...; a new start goes on with the next number.
        file_bytes: a file is closed at this size; `files` of them are kept, the oldest is removed.

    Attributes:
        dropped: certificates that were not recorded because the disk was too slow; the camera loop never waits.
        problem: why recording stopped, as when the disk is full; empty while it goes on.
    """

    def __init__(self, folder: PathLike, *, file_bytes: int = 16 << 20, files: int = 8) -> None:
        if file_bytes < 4096 or files < 1:
            raise EdgeError(
                f"flight recorder: got {files} files of {file_bytes} bytes, expected at least 1 of 4096"
            )
        self._folder, self._file_bytes, self._files = Path(folder), file_bytes, files
        self._writer_module = _mcap_writer()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgeError(
                f"flight recorder: cannot make {folder} ({error}); choose another folder"
            ) from error
        self._number = max((_number(file) for file in flights(folder)), default=0)
        self._queue: "queue.Queue[Optional[Certificate]]" = queue.Queue(_QUEUE)
        self.dropped = 0
        self.problem = ""
        self._thread = threading.Thread(target=self._write, name="rrise-recorder", daemon=True)
        self._thread.start()

    def add(self, certificate: Certificate) -> None:
        """Hand one certificate over; never waits."""
        try:
            self._queue.put_nowait(certificate)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is waiting and finish the file."""
        self._queue.put(None)
        self._thread.join()

    def __enter__(self) -> "FlightRecorder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self) -> None:
        current: Optional[_File] = None
        while True:
            certificate = self._take(current)
            if certificate is None:
                break
            if self.problem:
                self.dropped += 1
                continue
            try:
                if current is None or current.size >= self._file_bytes:
                    current = self._next_file(current)
                current.add(certificate)
            except Exception as error:  # a thread that ends unheard would leave `close` waiting for it
                self.problem = f"flight recorder: stopped writing ({error})"
                self.dropped += 1
        if current is not None:
            self._finish(current)

    def _take(self, current: "Optional[_File]") -> Optional[Certificate]:
        while True:
            try:
                return self._queue.get(timeout=_FLUSH_SECONDS)
            except queue.Empty:
                if current is not None and not self.problem:
                    current.flush()

    def _next_file(self, current: "Optional[_File]") -> "_File":
        if current is not None:
            self._finish(current)
        for old in flights(self._folder)[: -(self._files - 1) or None]:
            old.unlink(missing_ok=True)
        self._number += 1
        return _File(self._folder / f"{_PREFIX}{self._number:08d}.mcap", self._writer_module)

    def _finish(self, current: "_File") -> None:
        try:
            current.finish()
        except OSError as error:
            self.problem = f"flight recorder: stopped writing ({error})"


class _File:
    """One MCAP file that is being written."""

    def __init__(self, path: Path, writer_module: Any) -> None:
        self._stream: IO[bytes] = open(path, "wb")  # noqa: SIM115 - closed by finish, in another call
        self._writer = writer_module.Writer(self._stream, use_chunking=False)
        self._writer.start(profile="", library="rrise")
        schema = self._writer.register_schema("rrise.Certificate", "jsonschema", json.dumps(_SCHEMA).encode())
        self._channel = self._writer.register_channel(TOPIC, "json", schema)
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
        EdgeError: unreadable from the start, or mcap is not installed.
    """
    try:
        from mcap.exceptions import McapError
        from mcap.stream_reader import StreamReader
    except ImportError as error:
        raise EdgeError("mcap is not installed: `pip install rrise[mcap]`") from error
    try:
        with open(path, "rb") as file:
            records: Iterator[Any] = StreamReader(file).records
            for record in records:
                if type(record).__name__ == "Message":
                    yield json.loads(record.data)
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
        raise EdgeError("mcap is not installed: `pip install rrise[mcap]`") from error
    return mcap.writer
