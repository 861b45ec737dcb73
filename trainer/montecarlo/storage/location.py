"""Where a store lies: a folder (also on a shared file system), or an object store through fsspec."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fsspec
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from rrise.trainer.data.lock import WriterLock
from rrise.trainer.errors import TrainerError


@dataclass(frozen=True)
class Location:
    """A folder or a URL such as s3://bucket/targets.zarr."""

    address: str

    @staticmethod
    def of(path: str | Path) -> Location:
        """The location of a path or URL. What is called file:// is a folder like another, with its locks."""
        text = str(path)
        if "://" not in text:
            return Location(str(Path(path)))
        url = urlsplit(text)
        if url.scheme != "file":
            return Location(text)
        if url.netloc not in ("", "localhost") or not url.path:
            raise TrainerError(
                f"{text}: expected a folder of this machine, such as file:///data/targets.zarr"
            )
        return Location(str(Path(unquote(url.path))))

    @property
    def local(self) -> bool:
        """Whether it is a folder."""
        return "://" not in self.address

    def store(self, inner: str = "") -> Store:
        """The Zarr store at `inner` below this location."""
        address = f"{self.address}/{inner}" if inner else self.address
        if self.local:
            return LocalStore(address)
        try:
            return FsspecStore.from_url(address)
        except (ImportError, ValueError) as error:
            raise TrainerError(
                f"{self.address}: cannot be opened ({error}); install what fsspec needs for it, such as `pip install s3fs` for "
                "s3://, or use a folder"
            ) from error

    def exists(self, inner: str) -> bool:
        """Whether there is a file `inner`."""
        if self.local:
            return (Path(self.address) / inner).exists()
        return bool(fsspec.core.url_to_fs(f"{self.address}/{inner}")[0].exists(f"{self.address}/{inner}"))

    def folders(self) -> list[str]:
        """Names of the folders in it, those that begin with a dot left out; empty where there is nothing yet."""
        if self.local:
            root = Path(self.address)
            names = [item.name for item in root.iterdir() if item.is_dir()] if root.is_dir() else []
        else:
            files, root_path = fsspec.core.url_to_fs(self.address)
            found = files.ls(root_path, detail=True) if files.exists(root_path) else []
            names = [
                item["name"].rstrip("/").rsplit("/", 1)[-1] for item in found if item["type"] == "directory"
            ]
        return sorted(name for name in names if not name.startswith("."))

    def read(self, inner: str, largest: int) -> bytes | None:
        """The bytes of the file `inner`, None where there is none.

        Raises:
            TrainerError: more than `largest` bytes, or it cannot be read.
        """
        if not self.exists(inner):
            return None
        try:
            if self.local:
                with (Path(self.address) / inner).open("rb") as file:
                    data = file.read(largest + 1)
            else:
                with fsspec.open(f"{self.address}/{inner}", "rb") as file:
                    data = file.read(largest + 1)
        except OSError as error:
            raise TrainerError(
                f"{self.address}/{inner}: cannot be read ({error}); restore it, or remove the stream to sample it again"
            ) from error
        if len(data) > largest:
            raise TrainerError(
                f"{self.address}/{inner}: got more than {largest} bytes of metadata, expected a few KiB; restore it"
            )
        return bytes(data)

    def lock(self, stream: str) -> WriterLock:
        """The writer lock of a stream, or of anything else that has a name.

        An object store has no locks: there, two runs at once waste work, but they agree on every count.
        """
        if not self.local:
            return WriterLock(None)
        folder = Path(self.address)
        # Beside the store, not inside it: other Zarr tools complain about files that they do not know.
        return WriterLock(folder.parent / f".{folder.name}.locks" / stream)

    def sweep(self, stream: str) -> None:
        """Remove what a killed writer left half written."""
        if self.local:
            for leftover in (Path(self.address) / stream).glob("**/*.partial"):
                with contextlib.suppress(OSError):
                    leftover.unlink()
