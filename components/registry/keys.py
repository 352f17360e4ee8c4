"""The keys that sign versions and entries, and those whose signatures are believed.

    VILA_SIGNING_KEY     a PEM file with an Ed25519 key; else $XDG_CONFIG_HOME/vila/signing-key.pem
    VILA_TRUSTED_KEYS    a PEM file or a folder of them; else $XDG_CONFIG_HOME/vila/trusted-keys/

One's own key is trusted too. A private key is never printed, copied or stored anywhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vila_core.errors import UserError, require

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

OWN = "you"
"""What this user's own key is called, where it has no other name."""
_NAME = re.compile(r"[A-Za-z0-9@._+-]{1,80}")


@dataclass(frozen=True)
class SigningKey:
    """A private key. `key_id` is the sha256 (hex) of the public key in DER."""

    key_id: str
    path: Path
    private: Ed25519PrivateKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data`, 64 bytes."""
        return self.private.sign(data)

    def public_pem(self) -> str:
        """Return the public key as others need it to trust this one."""
        return _pem(self.private.public_key())


@dataclass(frozen=True)
class TrustedKey:
    """A public key whose signatures are believed, under the name of its file."""

    key_id: str
    name: str
    public: Ed25519PublicKey = field(repr=False)

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Return whether the signature is this key's, over `data`."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.public.verify(signature, data)
        except InvalidSignature:
            return False
        return True


def config_folder() -> Path:
    """Return the folder of this user's settings."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "vila"


def own_key_path() -> Path:
    """Return where this user's key is, or would be."""
    given = os.environ.get("VILA_SIGNING_KEY")
    return Path(given).expanduser() if given else config_folder() / "signing-key.pem"


def trusted_path() -> Path:
    """Return the file or folder of the public keys that are trusted."""
    given = os.environ.get("VILA_TRUSTED_KEYS")
    return Path(given).expanduser() if given else config_folder() / "trusted-keys"


def own_key(create: bool = False) -> SigningKey | None:
    """Return this user's key, None if there is none; with `create` one is made then.

    Raises UserError for a file that is no such key or that others may read, for a missing
    VILA_SIGNING_KEY, and NotInstalled where the package is missing that reads keys.
    """
    path = own_key_path()
    if not path.exists():
        if create:
            return create_key(path)
        if os.environ.get("VILA_SIGNING_KEY"):
            raise UserError(
                f"VILA_SIGNING_KEY={path}: there is no such file.\n"
                "  fix: vila registry key create, or unset the variable."
            )
        return None
    return _read_private(path)


def first_key() -> tuple[SigningKey | None, bool]:
    """Return this user's key, made if there is none yet, and whether it was made now.

    (None, False) where the package is missing that makes keys: what is registered is unsigned then.
    """
    if importlib.util.find_spec("cryptography") is None:
        return None, False
    fresh = not own_key_path().exists()
    return own_key(create=True), fresh


def create_key(path: Path) -> SigningKey:
    """Make a key and keep it in `path`, for its owner alone.

    Of several that do so at once one wins, and all get its key. Raises UserError where the file
    can't be written.
    """
    require("cryptography", extra="signing", why="sign versions of models")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    data = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    except OSError as error:
        raise UserError(
            f"{path}: the signing key can't be written ({error.strerror or error}).\n"
            "  fix: make the folder writable, or set VILA_SIGNING_KEY to another path."
        ) from None
    finally:
        aside.unlink(missing_ok=True)
    return _read_private(path)


def trusted_keys() -> dict[str, TrustedKey]:
    """Return the keys that are trusted, by id; {} where nobody is.

    Raises UserError for a file that is no Ed25519 public key.
    """
    place = trusted_path()
    paths = sorted(place.glob("*.pem")) if place.is_dir() else [place] if place.exists() else []
    if os.environ.get("VILA_TRUSTED_KEYS") and not place.exists():
        raise UserError(
            f"VILA_TRUSTED_KEYS={place}: there is no such file or folder.\n"
            "  fix: put the public keys there (PEM), or unset the variable."
        )
    found = {key.key_id: key for path in paths for key in read_public(path)}
    own = own_key()
    if own is not None and own.key_id not in found:
        found[own.key_id] = TrustedKey(own.key_id, OWN, own.private.public_key())
    return found


def trust(path: Path, name: str = "") -> TrustedKey:
    """Keep the public key in a file among the trusted ones; return it.

    Raises UserError for a file that holds none or several, and for a name that is taken by another.
    """
    keys = read_public(path)
    if len(keys) != 1:
        raise UserError(f"{path}: holds {len(keys)} keys; fix: trust one file a key.")
    (key,) = keys
    name = name or path.stem
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise UserError(f"'{name}' can't name a key; fix: --name with letters, digits, '.', '-'.")
    folder = trusted_path()
    if folder.is_file():
        raise UserError(f"{folder}: is one file; fix: append the key to it, or use a folder.")
    target = folder / f"{name}.pem"
    pem = _pem(key.public)
    if target.exists():
        if [one.key_id for one in read_public(target)] == [key.key_id]:
            return TrustedKey(key.key_id, name, key.public)
        raise UserError(f"{target}: is the key of somebody else; fix: --name ANOTHER.")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = folder / f".{uuid.uuid4().hex}"
        aside.write_text(pem, encoding="utf-8")
        aside.rename(target)
    except OSError as error:
        raise UserError(f"{target}: can't be written ({error.strerror or error}).") from None
    return TrustedKey(key.key_id, name, key.public)


def read_public(path: Path) -> list[TrustedKey]:
    """Return the public keys in a PEM file. Raises UserError for one that is no Ed25519 key."""
    require("cryptography", extra="signing", why="check signatures")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as a public key ({error}).") from None
    if "PRIVATE KEY" in text:
        raise UserError(
            f"{path}: holds a private key, which must not be passed on.\n"
            "  fix: trust the public one, as 'vila registry key show' prints it."
        )
    end = "-----END PUBLIC KEY-----"
    blocks = [part[part.find("-----BEGIN") :] + end for part in text.split(end)[:-1]]
    found = []
    for block in blocks:
        try:
            key = load_pem_public_key(block.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UserError(f"{path}: is not a public key in PEM ({error}).") from None
        if not isinstance(key, Ed25519PublicKey):
            raise UserError(f"{path}: is not an Ed25519 key; other kinds are not used here.")
        found.append(TrustedKey(key_id_of(key), path.stem, key))
    if not found:
        raise UserError(f"{path}: there is no PUBLIC KEY in it.")
    return found


def key_id_of(key: Ed25519PublicKey) -> str:
    """Return the sha256 (hex) of the public key in DER."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def names_of(keys: Mapping[str, TrustedKey]) -> str:
    """Return the names of keys as a message tells them."""
    return ", ".join(sorted(key.name for key in keys.values())) or "nobody"


def _pem(key: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _read_private(path: Path) -> SigningKey:
    require("cryptography", extra="signing", why="sign versions of models")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the signing key can't be read ({error.strerror}).") from None
    if mode & 0o007:
        raise UserError(
            f"{path}: everybody may read or change this signing key (mode {mode & 0o777:o}).\n"
            f"  fix: chmod 600 {path}"
        )
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise UserError(f"{path}: is locked by a password; fix: use a key without one.") from None
    except (ValueError, UnsupportedAlgorithm):  # whose texts might hold parts of the file
        raise UserError(f"{path}: is not a private key in PEM.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path}: is not an Ed25519 key; fix: vila registry key create.")
    return SigningKey(key_id_of(key.public_key()), path, key)
