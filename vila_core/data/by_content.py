"""Locations that are a list of files named by content: versions in a DVC remote, artifacts.

The list is checked by the digest in the address, every file by its digest in the list, so that what
is read is what was meant, whoever may write to the store.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from abc import abstractmethod
from typing import Self

from vila_core.data.cache import RemoteFile
from vila_core.data.location import MANIFEST, Location
from vila_core.errors import Damaged, NotFound, UserError
from vila_core.store import open_store

DVC, ARTIFACT = "dvc+", "artifact+"
_ADDRESSES = {
    DVC: re.compile(r"dvc\+(?P<store>[^#]+)#(?P<digest>[0-9a-f]{32}\.dir)(?:/(?P<lead>.*))?"),
    ARTIFACT: re.compile(
        r"artifact\+(?P<store>.+)/artifacts/(?P<digest>[0-9a-f]{64})(?:/(?P<lead>.*))?"
    ),
}
_FIX = (
    "remove the object from the remote, then `vila data push` where the right content is, "
    "or name another version."
)


def dvc_address(remote: str, md5: str, below: str = "") -> str:
    """Return the address of a version: `dvc+s3://bucket/prefix#<md5>.dir`, perhaps `/folder`."""
    return f"{DVC}{remote}#{md5}" + (f"/{below}" if below else "")


def content_of(address: str) -> str | None:
    """Return the part of an address that names the content; None for other locations."""
    found = _matched(address)
    if found is None:
        return None
    return "/".join(filter(None, (found["digest"], (found["lead"] or "").strip("/"))))


def at_address(text: str) -> ByContent:
    """Return the location of a `dvc+` or `artifact+` address. Raises UserError for none."""
    found = _matched(text)
    if found is None:
        raise UserError(
            f"{text}: is not the address of a version; fix: dvc:PATH@REV, or "
            "dvc+s3://bucket/prefix#<md5>.dir, or artifact+s3://bucket/prefix/artifacts/<sha256>."
        )
    kind = InDvc if text.startswith(DVC) else InArtifact
    lead = (found["lead"] or "").strip("/")
    return kind(found["store"].rstrip("/"), found["digest"], f"{lead}/" if lead else "")


def _matched(text: str) -> re.Match[str] | None:
    for prefix, pattern in _ADDRESSES.items():
        if text.startswith(prefix):
            return pattern.fullmatch(text)
    return None


class ByContent(Location):
    """A folder `lead` (empty, or ending with a slash) of what `digest` names in a store."""

    def __init__(self, store: str, digest: str, lead: str = "") -> None:
        self._store, self._digest, self._lead = store, digest, lead
        self._listed: dict[str, str] | None = None
        self.uri = self._address().rstrip("/")

    def names(self) -> list[str]:
        """Return the sorted names directly below; none where there is nothing."""
        own = (name[len(self._lead) :] for name in self._files() if name.startswith(self._lead))
        return sorted({name.partition("/")[0] for name in own})

    def below(self, name: str) -> Self:
        """Return the folder `name` in this one."""
        self._files()  # read once, for all
        found = copy.copy(self)
        found._lead = f"{self._lead}{name}/"
        found.uri = found._address().rstrip("/")
        return found

    def read(self, name: str) -> bytes:
        """Return a file, checked. Raises FileNotFoundError, NotFound, Damaged."""
        return self._checked(self._digest_of(name), self._lead + name)

    def file(self, name: str, sha256: str, size: int | None) -> RemoteFile:
        """Return what the shard cache needs. Raises Damaged for a file that isn't listed."""
        try:
            digest = self._digest_of(name)
        except FileNotFoundError:
            raise Damaged(
                f"{self.uri}: has no {name}, which its manifest names: the corpus is not whole."
            ) from None
        return self._remote_file(digest, self._lead + name, sha256, size)

    def _digest_of(self, name: str) -> str:
        digest = self._files().get(self._lead + name)
        if digest is None:
            raise FileNotFoundError(f"{self.uri}/{name}")
        return digest

    def _files(self) -> dict[str, str]:
        """Return the digest of every file by its path, read once."""
        if self._listed is None:
            self._listed = self._list()
        return self._listed

    @abstractmethod
    def _address(self) -> str:
        """Return the address, with `lead`."""

    @abstractmethod
    def _list(self) -> dict[str, str]:
        """Read and check the list of files."""

    @abstractmethod
    def _checked(self, digest: str, name: str) -> bytes:
        """Read a file whole and check it."""

    @abstractmethod
    def _remote_file(self, digest: str, name: str, sha256: str, size: int | None) -> RemoteFile:
        """Return where the file is and what it must be."""


class InDvc(ByContent):
    """A version of a folder in a DVC remote: no git, no DVC, no checkout.

    DVC 3 keeps a file as `files/md5/ab/cdef…`, and a folder as the JSON list of its files under the
    list's own md5 with the ending `.dir`. Shards are checked by the sha256 in their corpus's
    manifest, which was checked by its md5.
    """

    def _address(self) -> str:
        return dvc_address(self._store, self._digest, self._lead)

    def _list(self) -> dict[str, str]:
        listed = json.loads(self._checked(self._digest, "the list of files"))
        return {entry["relpath"]: entry["md5"] for entry in listed}

    def _checked(self, digest: str, name: str) -> bytes:
        key = self._key(digest)
        try:
            data = open_store(self._store).read(key)
        except NotFound:
            raise NotFound(
                f"{self._store}/{key} ({name}): is not in the DVC remote.\n"
                "  fix: `vila data push` where the data was added."
            ) from None
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if found != digest.removesuffix(".dir"):
            raise Damaged(
                f"{self._store}/{key} ({name}): was changed behind DVC's back: its md5 is {found}."
                f"\n  fix: {_FIX}"
            )
        return data

    def _remote_file(self, digest: str, name: str, sha256: str, size: int | None) -> RemoteFile:
        return RemoteFile(self._store, self._key(digest), sha256, size, name=name, fix=_FIX)

    @staticmethod
    def _key(md5: str) -> str:
        return f"files/md5/{md5[:2]}/{md5[2:]}"


class InArtifact(ByContent):
    """An artifact in the store of the runs, such as the output of a prepare task."""

    def _address(self) -> str:
        return f"{ARTIFACT}{self._store}/{self._key(self._lead)}"

    def _list(self) -> dict[str, str]:
        listed = json.loads(self._checked(self._digest, MANIFEST))
        return {entry["path"]: entry["sha256"] for entry in listed["files"]}

    def _checked(self, digest: str, name: str) -> bytes:
        data = open_store(self._store).read(self._key(name))
        if hashlib.sha256(data).hexdigest() != digest:
            raise Damaged(f"{self._store}/{self._key(name)}: does not match its digest; remove it.")
        return data

    def _remote_file(self, digest: str, name: str, sha256: str, size: int | None) -> RemoteFile:
        # The artifact's own list is older than any change to the corpus's manifest: both must hold.
        fix = "remove the artifact, and run the task again."
        return RemoteFile(self._store, self._key(name), digest, size, fix=fix)

    def _key(self, name: str) -> str:
        return f"artifacts/{self._digest}/{name}"
