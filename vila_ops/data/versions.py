"""`vila data add|push|pull|status|diff|log`: versions of prepared corpora, by DVC in git.

DVC does the work through its Python API (a call of its command costs more than a second to start).
Nothing secret is written: credentials and endpoint come from the environment, as for a store.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vila_core.config import Frozen
from vila_core.data.versions import (
    SCHEME,
    Version,
    commit_of,
    explained,
    find_root,
    git,
    head,
    open_repo,
    resolve,
)
from vila_core.errors import UserError, require

Repo = Any  # dvc.repo.Repo, which is annotated only in parts

REMOTE = "vila"
"""The name of the remote that `--remote` sets."""


@dataclass(frozen=True)
class Added:
    """What `add` has left: the version, and the files that belong into git."""

    version: Mapping[str, Any]
    files: tuple[str, ...]
    committed: str | None  # the commit, with a message


@dataclass(frozen=True)
class Entry:
    """One version of a folder in the history of the repository."""

    git_rev: str
    at: str
    subject: str
    md5: str
    size: int
    nfiles: int


def add(path: Path, *, init: bool, remote: str | None, message: str | None) -> Added:
    """Have DVC keep a folder as it is now; `init` makes the repositories that are missing, here.

    With `message` the small files that name the version are committed, and nothing else. Raises
    UserError for a path that is missing, or in no repository.
    """
    path = path.expanduser().absolute()
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder.")
    if init:
        _init(Path.cwd() if Path.cwd() in path.parents else path.parent)
    root = find_root(path.parent)
    with _quiet(root) as repo:
        if remote:
            _set_remote(repo, remote)
        [stage] = repo.add(str(path))
        out = stage.outs[0]
        version = {
            "path": path.relative_to(root).as_posix(),
            "md5": str(out.hash_info.value),
            "size": out.meta.size or 0,
            "nfiles": out.meta.nfiles or 1,
        }
        tracked_by = Path(stage.path)
    named = [tracked_by, tracked_by.parent / ".gitignore", root / ".dvcignore"]
    named += [root / ".dvc/config", root / ".dvc/.gitignore"]
    files = [file.relative_to(root).as_posix() for file in named if file.exists()]
    changed = git(root, "status", "--porcelain", "--", *files)
    if message and changed:
        git(root, "add", "--", *files)
        git(root, "commit", "--quiet", "-m", message, "--", *files)
    committed = head(root) if message else None
    return Added(version, tuple(files) if changed else (), committed)


def push(paths: Sequence[Path], remote: str | None) -> tuple[str, int]:
    """Send what the remote lacks; return its URL and the number of files that were sent."""
    root, targets = _targets(paths)
    with _quiet(root) as repo:
        if remote:
            _set_remote(repo, remote)
        url = _default_url(repo)
        return url, int(repo.push(targets=targets))


def pull(paths: Sequence[Path]) -> dict[str, int]:
    """Bring folders to the version that is checked out in git; return counts of what changed."""
    root, targets = _targets(paths)
    with _quiet(root) as repo:
        _default_url(repo)
        found = repo.pull(targets=targets)
    counts = {key: value for key, value in found["stats"].items() if isinstance(value, int)}
    return {key: value for key, value in counts.items() if value}


def status(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Return what is not settled, by kind, each a list of paths; empty lists for what is.

    changed: differs from what was added. uncommitted: the version is not in a commit. missing:
    not here (pull). unpushed: not in the remote, which is asked if there is one.
    """
    root, targets = _targets(paths)
    with _quiet(root) as repo:
        found = repo.data_status(targets=targets, granular=True)
        outs = [out for out in repo.index.outs if not targets or _among(out.fs_path, targets)]
        tracked = {os.path.relpath(out.fs_path, root): out.stage.path for out in outs}
        unpushed: Mapping[str, Any] = {}
        if repo.config["core"].get("remote"):
            unpushed = repo.status(targets=targets, cloud=True)
    changed = [
        name
        for names in found["uncommitted"].values()
        for name in names
        if not name.endswith("/")  # the folder of a file that is listed
    ]
    files = {path: os.path.relpath(stage, root) for path, stage in tracked.items()}
    open_ = [
        path for path, stage in files.items() if git(root, "status", "--porcelain", "--", stage)
    ]
    return {
        "tracked": sorted(tracked),
        "changed": sorted(changed),
        "uncommitted": sorted(open_),
        "missing": sorted(name.rstrip("/") for name in found.get("not_in_cache", [])),
        "unpushed": sorted(name for name, state in unpushed.items() if state == "new"),
    }


def diff(path: Path, before: str, after: str | None) -> dict[str, list[str]]:
    """Return the files of a folder that were added, changed and removed between two revisions.

    Without `after`, until now.
    """
    path = path.expanduser().absolute()
    root = find_root(path.parent)
    for rev in filter(None, (before, after)):
        commit_of(root, rev)
    with _quiet(root) as repo:
        found = repo.diff(before, after)
    folder = path.relative_to(root).as_posix()
    kinds = {"added": "added", "modified": "changed", "deleted": "removed"}
    return {
        name: sorted(entry["path"] for entry in found[kind] if _in_it(entry["path"], folder))
        for kind, name in kinds.items()
    }


def _in_it(name: str, folder: str) -> bool:
    """Return whether a name that `diff` gives is the tracked file, or a file in the folder."""
    return name == folder or (name.startswith(f"{folder}/") and not name.endswith("/"))


def log(path: Path) -> list[Entry]:
    """Return the versions of a folder in the history, newest first. Raises UserError."""
    path = path.expanduser().absolute()
    root = find_root(path.parent)
    name = f"{path.relative_to(root).as_posix()}.dvc"
    entries = []
    for line in git(root, "log", "--format=%H%x09%cI%x09%s", "--", name).splitlines():
        rev, at, subject = line.split("\t", 2)
        try:
            [out] = yaml.safe_load(git(root, "show", f"{rev}:{name}"))["outs"]
        except (UserError, ValueError, KeyError, TypeError):
            continue  # the commit that removed it, or a conflict that was committed
        entries.append(
            Entry(rev, at, subject, out["md5"], out.get("size", 0), out.get("nfiles", 1))
        )
    if not entries:
        raise UserError(f"{path}: no version is committed; fix: vila data add {path.name} -m TEXT.")
    return entries


def pin(configs: Mapping[str, Frozen]) -> tuple[dict[str, Frozen], dict[str, dict[str, Any]]]:
    """Replace each `data: dvc:PATH@REV` by the address of its content.

    Returns the configs, and what a run records of each, by `section.data`. A step then needs
    neither git nor DVC. Raises UserError as `resolve` does, and for a version that isn't pushed.
    """
    pinned, versions = dict(configs), {}
    known: dict[str, Version] = {}
    for section, config in configs.items():
        text = getattr(config, "data", None)
        if isinstance(text, str) and text.startswith(SCHEME):
            known[text] = found = known.get(text) or _pushed(text, section)
            pinned[section] = config.model_copy(update={"data": found.address})
            versions[f"{section}.data"] = found.as_json()
    return pinned, versions


def _pushed(text: str, section: str) -> Version:
    from vila_core.data.location import locate
    from vila_core.errors import NotFound

    try:
        version = resolve(text)
        locate(version.address).names()
    except (UserError, NotFound) as error:
        raise UserError(f"{section}.data: {error}") from None
    return version


@contextlib.contextmanager
def _quiet(root: Path) -> Iterator[Repo]:
    """Open the repository; DVC's hints about its own commands are not for our user."""
    with open_repo(root) as repo, contextlib.redirect_stdout(io.StringIO()):
        yield repo


def _init(folder: Path) -> None:
    """Make a git and a DVC repository around `folder`, where there is none."""
    require("dvc", extra="versioning", why="version data")
    root = next((up for up in (folder, *folder.parents) if (up / ".git").exists()), None)
    if root is None:
        git(folder, "init", "--quiet")
        root = folder
    if (root / ".dvc").is_dir():
        return
    os.environ["DVC_NO_ANALYTICS"] = "1"
    with explained(), contextlib.redirect_stdout(io.StringIO()):
        from dvc.repo import Repo

        Repo.init(str(root)).close()
    with open_repo(root) as repo, repo.config.edit("repo") as settings:
        settings["core"]["analytics"] = False


def _set_remote(repo: Repo, url: str) -> None:
    """Make `url` the default remote. The endpoint is this machine's: it stays out of git."""
    if "://" not in url:
        url = os.path.abspath(Path(url).expanduser())
    with repo.config.edit("repo") as settings:
        settings["remote"][REMOTE] = {"url": url.removeprefix("file://"), "verify": True}
        settings["core"]["remote"] = REMOTE
    endpoint = os.environ.get("VILA_S3_ENDPOINT")
    if endpoint and url.startswith("s3://"):
        with repo.config.edit("local") as settings:
            settings["remote"].setdefault(REMOTE, {})["endpointurl"] = endpoint
    for settings in repo.config["remote"].values():
        settings["verify"] = True


def _default_url(repo: Repo) -> str:
    name = repo.config["core"].get("remote")
    if not name:
        raise UserError(
            f"{repo.root_dir}: has no DVC remote; "
            "fix: vila data push --remote s3://bucket/prefix (or a folder)."
        )
    return str(repo.config["remote"][name]["url"])


def _targets(paths: Sequence[Path]) -> tuple[Path, list[str] | None]:
    """Return the repository and the paths in it; None for all."""
    full = [path.expanduser().absolute() for path in paths]
    root = find_root(full[0].parent if full else Path.cwd())
    return root, [str(path) for path in full] or None


def _among(path: str, targets: Sequence[str]) -> bool:
    return any(path == target or path.startswith(f"{target}/") for target in targets)
