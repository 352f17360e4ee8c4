"""A version of a folder in a DVC remote, read by content: no git, no DVC, no checkout.

DVC 3 keeps a file as `files/md5/ab/cdef…`, and a folder as the list of its files under the list's
own md5 with the ending `.dir`. That md5 names the whole version: the list is checked by it, small
files by their md5 in the list, shards by the sha256 in a manifest that was checked so.
"""

from __future__ import annotations

import hashlib
import json
import re

from vila_core.data.cache import RemoteFile
from vila_core.data.location import Location
from vila_core.errors import Damaged, NotFound, UserError
from vila_core.store import open_store

PREFIX = "dvc+"
_ADDRESS = re.compile(r"dvc\+(?P<remote>[^#]+)#(?P<md5>[0-9a-f]{32}\.dir)(?:/(?P<lead>.*))?")
_FIX = (
    "remove the object from the remote, then `vila data push` where the right content is, "
    "or name another version."
)


def address(remote: str, md5: str, below: str = "") -> str:
    """Return the address of a version: `dvc+s3://bucket/prefix#<md5>.dir`, perhaps `/folder`."""
    return f"{PREFIX}{remote}#{md5}" + (f"/{below}" if below else "")


class InDvc(Location):
    """A folder of a version in a DVC remote."""

    def __init__(self, remote: str, md5: str, lead: str = "") -> None:
        """Point to `lead` (empty, or ending with a slash) in the version `md5` (with `.dir`)."""
        self._remote, self._md5, self._lead = remote.rstrip("/"), md5, lead
        self.uri = address(self._remote, md5, lead.rstrip("/"))
        self._listed: dict[str, str] | None = None

    @classmethod
    def parse(cls, text: str) -> InDvc:
        """Read an address. Raises UserError."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise UserError(
                f"{text}: is not the address of a version; "
                "fix: dvc:PATH@REV, or dvc+s3://bucket/prefix#<md5>.dir."
            )
        lead = (found["lead"] or "").strip("/")
        return cls(found["remote"], found["md5"], f"{lead}/" if lead else "")

    def names(self) -> list[str]:
        """Return the sorted names directly below; none where there is nothing."""
        own = (path.removeprefix(self._lead) for path in self._files() if self._holds(path))
        return sorted({path.partition("/")[0] for path in own})

    def below(self, name: str) -> InDvc:
        """Return the folder `name` in this one."""
        found = InDvc(self._remote, self._md5, f"{self._lead}{name}/")
        found._listed = self._files()
        return found

    def read(self, name: str) -> bytes:
        """Return a file, checked by its md5. Raises FileNotFoundError, NotFound, Damaged."""
        md5 = self._md5_of(name)
        return _checked(self._remote, md5, self._lead + name)

    def file(self, name: str, sha256: str, size: int | None) -> RemoteFile:
        """Return what the shard cache needs. Raises Damaged for a file that the version lacks."""
        try:
            md5 = self._md5_of(name)
        except FileNotFoundError:
            raise Damaged(
                f"{self.uri}: has no {name}, which its manifest names: the corpus is not whole.\n"
                "  fix: `vila data add` and `vila data push` the whole folder."
            ) from None
        shown = self._lead + name
        return RemoteFile(self._remote, _key(md5), sha256, size, name=shown, fix=_FIX)

    def _holds(self, path: str) -> bool:
        return path.startswith(self._lead)

    def _md5_of(self, name: str) -> str:
        md5 = self._files().get(self._lead + name)
        if md5 is None:
            raise FileNotFoundError(f"{self.uri}/{name}")
        return md5

    def _files(self) -> dict[str, str]:
        """Return the md5 of every file of the version by its path, read once."""
        if self._listed is None:
            listed = json.loads(_checked(self._remote, self._md5, "the list of files"))
            self._listed = {entry["relpath"]: entry["md5"] for entry in listed}
        return self._listed


def _key(md5: str) -> str:
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def _checked(remote: str, md5: str, name: str) -> bytes:
    """Read an object of the remote and check it. Raises NotFound, Damaged, StoreError."""
    try:
        data = open_store(remote).read(_key(md5))
    except NotFound:
        raise NotFound(
            f"{remote}/{_key(md5)} ({name}): is not in the DVC remote.\n"
            "  fix: `vila data push` where the data was added."
        ) from None
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5.removesuffix(".dir"):
        raise Damaged(
            f"{remote}/{_key(md5)} ({name}): was changed behind DVC's back: its md5 is {found}.\n"
            f"  fix: {_FIX}"
        )
    return data
