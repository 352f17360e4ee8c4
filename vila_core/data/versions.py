"""From `dvc:PATH@REV` in a git repository with DVC to a version that is named by its content."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vila_core.data.by_content import dvc_address
from vila_core.errors import UserError, VilaError, require

SCHEME = "dvc:"

Repo = Output = Any  # of dvc, which annotates only parts


@dataclass(frozen=True)
class Version:
    """A tracked folder at a revision. `md5` (with `.dir`) names its content, wherever it lies.

    `path` is relative to the repository; `below` is the folder meant in it, often empty. `dirty`
    says that the version is not part of a commit yet; `git_rev` then is the commit before.
    """

    path: str
    md5: str
    size: int
    nfiles: int
    git_rev: str | None
    dirty: bool
    remote: str
    below: str = ""

    @property
    def address(self) -> str:
        """Where it can be read from without the repository."""
        return dvc_address(self.remote, self.md5, self.below)

    def as_json(self) -> dict[str, Any]:
        """Return what a run records of it."""
        return asdict(self)


def resolve(location: str) -> Version:
    """Return the version that `dvc:PATH` or `dvc:PATH@REV` means; PATH as seen from here.

    Without REV it is what was added last, committed or not. Raises UserError for a place that is
    no DVC repository, an unknown revision, a path that isn't tracked, data that was changed since
    it was added, and a remote that can't be streamed from.
    """
    text = location.removeprefix(SCHEME)
    name, at, rev = text.rpartition("@") if "@" in text else (text, "", "")
    if not name or (at and not rev):
        raise UserError(f"{location}: is not dvc:PATH or dvc:PATH@REV.")
    path = Path(os.path.abspath(Path(name).expanduser()))
    root = find_root(path)
    relative = path.relative_to(root).as_posix()
    at_rev = commit_of(root, rev) if rev else None
    with open_repo(root) as repo:
        if at_rev:
            with repo.switch(at_rev):
                out = _tracked(repo, relative, location)
                found = _facts(repo, out)
        else:
            out = _tracked(repo, relative, location)
            found = _facts(repo, out)
            if repo.data_status(targets=[found[0]])["uncommitted"]:
                raise UserError(
                    f"{location}: {found[0]} was changed since it was added, and training would "
                    f"not see that.\n  fix: vila data add {found[0]}, or name a revision: "
                    f"dvc:{name}@HEAD."
                )
        path_, md5, size, nfiles, stage, wanted = found
        remote = remote_url(repo, wanted)
    if not md5.endswith(".dir"):
        raise UserError(f"{location}: is a file; a folder of prepared corpora is needed.")
    dirty = not rev and bool(git(root, "status", "--porcelain", "--", stage))
    below = relative.removeprefix(path_).strip("/")
    return Version(path_, md5, size, nfiles, at_rev or head(root), dirty, remote, below)


def find_root(path: Path) -> Path:
    """Return the DVC repository around a path, which need not exist. Raises UserError."""
    for folder in (path, *path.parents):
        if (folder / ".dvc").is_dir() and (folder / ".git").exists():
            return folder
    raise UserError(
        f"{path}: is not in a git repository with DVC.\n"
        "  fix: vila data add PATH --init, or run this in the repository."
    )


@contextlib.contextmanager
def open_repo(root: Path) -> Iterator[Repo]:
    """Open a DVC repository for a block, with what it reads from its remotes always verified.

    The endpoint of S3 remotes without one is VILA_S3_ENDPOINT; credentials come from the
    environment. Raises UserError where dvc is missing; DVC's own errors become VilaErrors.
    """
    require("dvc", extra="versioning", why="version data")
    os.environ["DVC_NO_ANALYTICS"] = "1"
    with explained():
        from dvc.repo import Repo as DvcRepo

        with DvcRepo(str(root)) as repo:
            for settings in repo.config["remote"].values():
                settings["verify"] = True  # else dvc takes what an S3 remote gives
                endpoint = os.environ.get("VILA_S3_ENDPOINT")
                if endpoint and str(settings["url"]).startswith("s3://"):
                    settings.setdefault("endpointurl", endpoint)
            yield repo


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn DVC's exceptions into VilaErrors of one message; leave out its hints and warnings."""
    logger = logging.getLogger("dvc")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dvc's dependencies
        from dvc.exceptions import DvcException

        logger.setLevel(logging.WARNING)
        try:
            yield
        except DvcException as error:
            reasons, cause = [str(error)], error.__cause__
            while cause is not None and len(reasons) < 3:
                reasons.append(str(cause))
                cause = cause.__cause__
            raise VilaError("dvc: " + "; ".join(dict.fromkeys(filter(None, reasons)))) from error
        finally:
            logger.setLevel(before)


def remote_url(repo: Repo, name: str | None) -> str:
    """Return the URL of a remote as `open_store` takes it; the default one without a name.

    Raises UserError when there is none, or none that can be streamed from.
    """
    name = name or repo.config["core"].get("remote")
    settings = repo.config["remote"].get(name)
    if settings is None:
        raise UserError(
            f"{repo.root_dir}: has no DVC remote to read from; "
            "fix: vila data push --remote s3://bucket/prefix (or a folder)."
        )
    url = str(settings["url"])
    if url.startswith("s3://"):
        endpoint = settings.get("endpointurl") or ""
        ours = os.environ.get("VILA_S3_ENDPOINT", "")
        if endpoint.rstrip("/") != ours.rstrip("/"):
            raise UserError(
                f"the DVC remote '{name}' is at {endpoint or 'AWS'}, VILA_S3_ENDPOINT says "
                f"{ours or 'AWS'}; fix: set VILA_S3_ENDPOINT, or the remote's endpointurl."
            )
        return url.rstrip("/")
    if "://" in url:
        raise UserError(f"the DVC remote '{name}' is {url}; only s3:// and folders are streamed.")
    return Path(url).as_uri()


def head(root: Path) -> str | None:
    """Return the commit that is checked out, None before the first."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    except UserError:
        return None


def git(root: Path, *words: str) -> str:
    """Run git in a repository and return what it prints. Raises UserError with what it says."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("git is not installed, but versions of data are kept in it.") from None
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise UserError(f"git {' '.join(words[:2])} in {root}: {said}")
    return done.stdout.strip()


def commit_of(root: Path, rev: str) -> str:
    """Return the commit that a revision means. Raises UserError with some that are known."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}")
    except UserError:
        known = git(root, "for-each-ref", "--count=8", "--format=%(refname:short)").split()
        raise UserError(
            f"{root}: has no revision '{rev}'; some it has: {', '.join(known)}."
        ) from None


def _tracked(repo: Repo, relative: str, location: str) -> Output:
    """Return the tracked folder that the path is, or lies in."""
    from dvc.exceptions import OutputNotFoundError

    parts = relative.split("/")
    for count in range(len(parts), 0, -1):
        place = os.path.join(repo.root_dir, *parts[:count])
        with contextlib.suppress(OutputNotFoundError):
            return repo.find_outs_by_path(place)[0]
    raise UserError(
        f"{location}: DVC doesn't track {relative} there; fix: vila data add {relative}."
    )


def _facts(repo: Repo, out: Output) -> tuple[str, str, int, int, str, str | None]:
    """Return path, md5, size, number of files, the file that tracks it, and its own remote."""
    info, meta = out.hash_info, out.meta
    path = os.path.relpath(out.fs_path, repo.root_dir)
    if info is None or info.name != "md5" or not info.value or meta is None:
        raise UserError(f"{path}: is tracked by an old DVC; fix: vila data add {path} again.")
    tracked_by = os.path.relpath(out.stage.path, repo.root_dir)
    return path, str(info.value), meta.size or 0, meta.nfiles or 1, tracked_by, out.remote
