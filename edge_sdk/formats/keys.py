"""Ed25519 keys, from the `cryptography` package, which is imported only when a key is used."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from rrise.calibration.requirements import install
from rrise.calibration.storage.digests import PathLike
from rrise.deprecations import warn
from rrise.edge_sdk.errors import EdgeError

KEY_VARIABLE = "RRISE_SIGNING_KEY"


KEY_BYTES = 32


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key; `raw` is its 32 bytes."""

    raw: bytes

    @classmethod
    def load(cls, source: Union["PublicKey", bytes, PathLike]) -> "PublicKey":
        """From 32 bytes or a file: PEM, or 64 hexadecimal characters.

        Raises:
            EdgeError: it holds no Ed25519 public key.
        """
        if isinstance(source, PublicKey):
            return source
        if isinstance(source, bytes):
            if len(source) != KEY_BYTES:
                raise EdgeError(f"public key: got {len(source)} bytes, expected {KEY_BYTES}")
            return cls(source)
        return cls(_key_bytes(_read_text(Path(source), "public key"), private=False))

    def pem(self) -> str:
        """The key as PEM, which says itself that it is a public one."""
        ed25519, serialization = _ed25519(), _serialization()
        key = ed25519.Ed25519PublicKey.from_public_bytes(self.raw)
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return str(key.public_bytes(serialization.Encoding.PEM, form).decode("ascii"))

    @property
    def key_id(self) -> str:
        """Short name of the key: the first 16 characters of its SHA-256."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def check(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` is this key's over `message`."""
        ed25519 = _ed25519()
        from cryptography.exceptions import InvalidSignature

        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, repr=False)
class PrivateKey:
    """An Ed25519 private key. Its text never appears in a representation or a message."""

    raw: bytes

    @classmethod
    def load(cls, path: Optional[PathLike] = None) -> "PrivateKey":
        """From a file (PEM or 64 hexadecimal characters), or from the environment variable RRISE_SIGNING_KEY.

        Raises:
            EdgeError: there is none, or it is no Ed25519 private key.
        """
        if path is not None:
            text = _read_text(Path(path), "private key")
            _refuse_public(Path(path), text)
            return cls(_key_bytes(text, private=True))
        text = os.environ.get(KEY_VARIABLE, "")
        if not text:
            raise EdgeError(
                f"private key: got neither a file nor {KEY_VARIABLE}; make one with `rrise-export keygen`"
            )
        return cls(_key_bytes(text, private=True))

    @classmethod
    def generate(cls) -> "PrivateKey":
        """A new key from the operating system's randomness."""
        return cls(_ed25519().Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def public(self) -> PublicKey:
        return PublicKey(
            _ed25519().Ed25519PrivateKey.from_private_bytes(self.raw).public_key().public_bytes_raw()
        )

    def pem(self) -> str:
        """The key as PEM, unencrypted: for a file that nobody else can read."""
        serialization = _serialization()
        key = _ed25519().Ed25519PrivateKey.from_private_bytes(self.raw)
        form, open_text = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return str(key.private_bytes(serialization.Encoding.PEM, form, open_text).decode("ascii"))

    def sign(self, message: bytes) -> bytes:
        return bytes(_ed25519().Ed25519PrivateKey.from_private_bytes(self.raw).sign(message))


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeError(
            f"{what} {path}: cannot read it ({error}); expected PEM or 64 hexadecimal characters"
        ) from error


def _refuse_public(path: Path, text: str) -> None:
    """64 hexadecimal characters may be either key: what `keygen` wrote as KEY.pub would sign, and anyone could."""
    if "-----BEGIN" in text:
        return
    twins = [other for other in path.parent.glob("*.pub") if other != path and other.is_file()]
    if path.suffix == ".pub" or any(_same_text(other, text) for other in twins):
        raise EdgeError(
            f"private key {path}: got a public key, with which anyone could sign, expected the private one, as in"
            f" {path.name.removesuffix('.pub')}"
        )


def _same_text(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="ascii").strip().lower() == text.strip().lower()
    except (OSError, UnicodeDecodeError):
        return False


def _key_bytes(text: str, *, private: bool) -> bytes:
    what = "private key" if private else "public key"
    ed25519, serialization = _ed25519(), _serialization()
    wrong = "PUBLIC KEY-----" if private else "PRIVATE KEY-----"
    if wrong in text:
        raise EdgeError(f"{what}: got the other half of a key pair ({wrong.strip('-')}), expected the {what}")
    try:
        if "-----BEGIN" not in text:
            raw = bytes.fromhex(text.strip())
            warn("hexadecimal-keys", what, stacklevel=4)
        elif private:
            key = serialization.load_pem_private_key(text.encode(), None)
            raw = key.private_bytes_raw() if isinstance(key, ed25519.Ed25519PrivateKey) else b""
        else:
            public = serialization.load_pem_public_key(text.encode())
            raw = public.public_bytes_raw() if isinstance(public, ed25519.Ed25519PublicKey) else b""
    except (ValueError, TypeError) as error:
        raise EdgeError(
            f"{what}: not readable ({type(error).__name__}); expected Ed25519 as PEM or 64 hexadecimal characters"
        ) from None
    if len(raw) != KEY_BYTES:
        raise EdgeError(
            f"{what}: got another kind of key, expected Ed25519; make one with `rrise-export keygen`"
        )
    return raw


def _serialization() -> Any:
    _ed25519()  # for its message where the package is missing
    from cryptography.hazmat.primitives import serialization

    return serialization


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise EdgeError(f"signatures need the package cryptography: {install('cryptography')}") from error
    return ed25519
