"""Signatures: who released a bundle, whether it is older than one seen before, and who made a device's records.

What is signed is the digest of the manifest, and the manifest holds the digest of every other file, so one signature covers
the whole release.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Union

from rrise.calibration.errors import CalibrationError
from rrise.calibration.storage.digests import PathLike, file_digest, json_digest
from rrise.calibration.storage.files import present, read_json, write_json
from rrise.calibration.storage.formats import check_format
from rrise.edge_sdk.errors import BundleError, EdgeError
from rrise.edge_sdk.formats.keys import PrivateKey, PublicKey

SIGNATURE_FILE = "signature.json"
DEVICE_SIGNATURE = ".signature.json"
SIGNATURE_FORMATS = ("rrise-signature/1",)
LOG_FORMATS = ("rrise-release-log/1",)
"""Release 0.1 named neither."""
RELEASE_DOMAIN = "rrise-release/1"
DEVICE_DOMAIN = "rrise-device-record/1"
_LIMIT = 64 << 10
"""Bytes of the largest signature or release log, which are read before anything is known to be genuine."""


@dataclass(frozen=True)
class Signature:
    """Who signed what: `digest` of a manifest or of a device record, and the release counter (0 for device records)."""

    key_id: str
    release: int
    digest: str
    value: bytes

    def save(self, path: Path) -> None:
        value = {"format": SIGNATURE_FORMATS[-1], **_statement(self), "signature": self.value.hex()}
        write_json(path, value)

    @classmethod
    def load(cls, path: Path) -> "Signature":
        """Raises: BundleError: missing or malformed."""
        try:
            content = dict(read_json(path, "signature", limit=_LIMIT))
            form = content.get("format", SIGNATURE_FORMATS[0])
            check_format(f"signature {path}", form, SIGNATURE_FORMATS, "sign again", BundleError)
            return cls(
                str(content["key_id"]),
                int(content["release"]),
                str(content["digest"]),
                bytes.fromhex(content["signature"]),
            )
        except (CalibrationError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{path}: not a signature ({error}); sign with `rrise-export sign`") from error


def sign_release(bundle: Path, digest: str, release: int, key: PrivateKey) -> Signature:
    """Sign a release whose manifest has this digest, as number `release` (1, 2, ...), and write its signature file."""
    if release < 1:
        raise EdgeError(f"release: got {release}, expected a number from 1 that grows with every release")
    signature = _sign(RELEASE_DOMAIN, digest, release, key)
    signature.save(bundle / SIGNATURE_FILE)
    return signature


def sign_device_record(record: Path, key: PrivateKey) -> Signature:
    """Sign one record that this device made, beside it."""
    signature = _sign(DEVICE_DOMAIN, file_digest(record), 0, key)
    signature.save(_beside(record))
    return signature


@dataclass(frozen=True)
class Trust:
    """Whose bundles may be loaded. Build one with `Trust.of`.

    Attributes:
        release_key: only bundles that this key signed.
        minimum_release: only releases with this number or a higher one.
        log: a file that remembers the highest release that was loaded, so that an older one is refused from then on.
        device_key: only device records that this key signed; without it none is accepted,
        accept_local_records: unless the caller accepts what lies in the device folder as it is.
        noting: whether `remember` writes to the log; see `only_looking`.
    """

    release_key: PublicKey
    minimum_release: int = 0
    log: Optional[Path] = None
    device_key: Optional[PublicKey] = None
    accept_local_records: bool = False
    noting: bool = True

    @classmethod
    def of(
        cls,
        release_key: Union[PublicKey, bytes, PathLike],
        *,
        minimum_release: int = 0,
        log: Optional[PathLike] = None,
        device_key: Union[PublicKey, bytes, PathLike, None] = None,
        accept_local_records: bool = False,
    ) -> "Trust":
        """From keys as objects, raw bytes or files."""
        device = None if device_key is None else PublicKey.load(device_key)
        path = None if log is None else Path(os.path.abspath(log))  # it may be needed after a chdir
        return cls(PublicKey.load(release_key), minimum_release, path, device, accept_local_records)

    def only_looking(self) -> "Trust":
        """The same without a memory: a bundle that is looked at, and perhaps refused, is not the one in use."""
        return replace(self, noting=False)

    def check_release(self, bundle: Path, digest: str) -> Signature:
        """Check the signature over a manifest with this digest.

        Raises:
            BundleError: no signature, another key's, a wrong one, or an older release than allowed.
        """
        path = bundle / SIGNATURE_FILE
        if not present(path):
            raise BundleError(
                f"{bundle}: is not signed, expected a signature by key {self.release_key.key_id}"
            )
        signature = Signature.load(path)
        if signature.key_id != self.release_key.key_id:
            raise BundleError(
                f"{bundle}: signed by key {signature.key_id}, expected {self.release_key.key_id}"
            )
        if signature.digest != digest or not _valid(RELEASE_DOMAIN, signature, self.release_key):
            raise BundleError(
                f"{bundle}: the signature does not belong to this manifest; get the bundle from its release again"
            )
        least = max(self.minimum_release, self._seen())
        if signature.release < least:
            raise BundleError(
                f"{bundle}: is release {signature.release}, expected at least {least}; an older release is refused"
            )
        return signature

    def check_device_record(self, record: Path, data: bytes) -> None:
        """Check who made a device record, before what it says is believed.

        data: its bytes, as they will be used.

        Raises:
            BundleError: it is neither signed by the device key nor accepted explicitly.
        """
        if self.accept_local_records:
            return
        mend = (
            "sign it with the device's key (`rrise-export sign BUNDLE --device-records`) and name that with --device-key,"
            " accept what this device made with --accept-local-records (in Python: accept_local_records=True), or remove it"
        )
        if self.device_key is None:
            raise BundleError(f"{record}: a device record without a device key to check it; {mend}")
        path = _beside(record)
        if not present(path):
            raise BundleError(
                f"{record}: is not signed, expected a signature by device key {self.device_key.key_id}; {mend}"
            )
        signature = Signature.load(path)
        if signature.digest != hashlib.sha256(data).hexdigest() or not _valid(
            DEVICE_DOMAIN, signature, self.device_key
        ):
            raise BundleError(
                f"{record}: its signature is not by device key {self.device_key.key_id}; {mend}"
            )

    def remember(self, signature: Signature) -> bool:
        """Note a release that was loaded, so that no older one is loaded after it; whether that was new to the log.

        Raises:
            EdgeError: it cannot be noted.
        """
        return self._note(lambda noted: max(noted, signature.release))

    def return_to(self, earlier: Optional[Signature], abandoned: Optional[Signature]) -> None:
        """After a rollback: let the release that is in use again load at the next start, too.

        Nothing changes where another process has noted a newer release than the abandoned one.

        Raises:
            EdgeError: it cannot be noted.
        """
        if earlier is None or abandoned is None:
            return
        self._note(
            lambda noted: min(noted, earlier.release) if noted == abandoned.release else noted,
        )

    def _note(self, change: Callable[[int], int]) -> bool:
        """Change this key's entry, while no other process changes the log; whether it did. Raises: EdgeError, BundleError."""
        if self.log is None or not self.noting:
            return False
        try:
            with _locked(self.log):
                noted = self._seen()
                wanted = change(noted)
                if wanted != noted:
                    known = {"format": LOG_FORMATS[-1], **self._log(), self.release_key.key_id: wanted}
                    write_json(self.log, known)
                return wanted != noted
        except OSError as error:
            raise EdgeError(
                f"{self.log}: cannot remember there which release is in use ({error.strerror or error}), so that an older one"
                " could not be refused; name a file in a folder that can be written"
            ) from error

    def _seen(self) -> int:
        return int(self._log().get(self.release_key.key_id, 0))

    def _log(self) -> Dict[str, int]:
        """Raises: BundleError: the log is unreadable; a lost memory must not open the door to old releases."""
        try:
            if self.log is None or not present(self.log):
                return {}
            noted = dict(read_json(self.log, "release log", limit=_LIMIT))
            form = noted.pop("format", LOG_FORMATS[0])
            check_format(
                f"release log {self.log}", form, LOG_FORMATS, "restore it from a backup", BundleError
            )
            return {str(key): int(value) for key, value in noted.items()}
        except (OSError, CalibrationError, AttributeError, TypeError, ValueError) as error:
            raise BundleError(f"{self.log}: not a release log ({error}); restore it from a backup") from error


@contextmanager
def _locked(log: Path) -> Iterator[None]:
    """Wait until no other process changes the log; nothing where the system has no such locks."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # A file of its own, since the log is another file after every change.
    with open(log.with_name(f".{log.name}.lock"), "ab") as file:
        try:
            import fcntl
        except ImportError:
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sign(domain: str, digest: str, release: int, key: PrivateKey) -> Signature:
    unsigned = Signature(key.public.key_id, release, digest, b"")
    return Signature(unsigned.key_id, release, digest, key.sign(_message(domain, unsigned)))


def _valid(domain: str, signature: Signature, key: PublicKey) -> bool:
    return signature.key_id == key.key_id and key.check(signature.value, _message(domain, signature))


def _statement(signature: Signature) -> Dict[str, Any]:
    return {"key_id": signature.key_id, "release": signature.release, "digest": signature.digest}


def _message(domain: str, signature: Signature) -> bytes:
    # The domain keeps a signature for one purpose from being used for another.
    return f"{domain}\n{json_digest(_statement(signature))}".encode()


def _beside(record: Path) -> Path:
    return record.with_name(record.name + DEVICE_SIGNATURE)
