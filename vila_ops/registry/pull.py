"""A version as a folder of its own, for people and programs that know nothing of the store."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.registry import Version
from components.registry.records import unsigned
from components.registry.signatures import Signatures
from components.registry.verify import verified_version
from vila_core.errors import Damaged, NotFound, Unreachable, UserError, VilaError
from vila_core.jsonio import dumps
from vila_core.layouts import LAYOUTS, OURS, check_layout
from vila_core.store import Store
from vila_ops.registry.export import convert

RECORD, BUNDLE, PROMPT = "vila-version.json", "vila-version.sigstore.json", "vila-prompt.json"


@dataclass(frozen=True)
class Pulled:
    """Where a version is now, and whether it had been there already."""

    path: Path
    version: Version
    fresh: bool = True


def pull(
    store: Store,
    name: str,
    out: Path,
    *,
    allow_unsigned: bool = False,
    layout: str = OURS,
    say: Callable[[str], None] = lambda text: None,
) -> Pulled:
    """Write the version meant by `model@number` or `model@alias` to the folder `out`, verified.

    It is made beside `out` and renamed: there is never half a version in `out`. Files that were
    complete when an earlier pull broke off are not fetched again. `layout` is OURS or one of
    LAYOUTS. Raises UserError where `out` holds something else, and for a version that
    is not signed by somebody trusted (`verified_version`), Damaged for what was changed.
    """
    version = verified_version(store, name, allow_unsigned)
    manifest = _manifest(store, version)
    check_layout(layout, (OURS, *LAYOUTS))
    if _there(out, store, version, layout, manifest):
        return Pulled(out, version, fresh=False)
    aside = out.with_name(f".{out.name}.pull-{version.artifact.sha256[:16]}")
    with _alone(out, aside):
        _fetch(store, version, manifest, aside, say)
        made = aside
        if layout != OURS:
            made = aside.with_name(f"{aside.name}-{layout}")
            say(f"converting to {layout}, and comparing its answers")
            shutil.rmtree(made, ignore_errors=True)
            convert(aside, made, layout)
        _describe(store, version, made, layout)
        _put(made, out)
        shutil.rmtree(aside, ignore_errors=True)
    return Pulled(out, version)


def _manifest(store: Store, version: Version) -> dict[str, str]:
    """Return the digest of each file of the version's artifact."""
    sha256 = version.artifact.sha256
    place = f"artifacts/{sha256}/manifest.json"
    try:
        data = store.read(place)
    except NotFound:
        raise Damaged(f"{version.name}: its files are gone: {place} is missing.") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Damaged(f"{version.name}: {place} was changed.{_look(version)}")
    try:
        return {str(one["path"]): str(one["sha256"]) for one in json.loads(data)["files"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged(f"{version.name}: {place} is not a manifest.{_look(version)}") from None


def _look(version: Version) -> str:
    return f"\n  fix: vila registry verify {version.model}"


def _there(
    out: Path, store: Store, version: Version, layout: str, manifest: Mapping[str, str]
) -> bool:
    """Return whether `out` is this version already, whole. Raises UserError for anything else."""
    if not out.exists() and not out.is_symlink():
        return False
    if not out.is_dir():
        raise UserError(f"{out}: is there and is no folder; fix: --out ANOTHER.")
    if not any(out.iterdir()):
        return False
    same = (out / RECORD).is_file() and (out / RECORD).read_bytes() == _record(store, version)
    if not same or _layout_of(out) != layout:
        raise UserError(
            f"{out}: is not empty, and not {version.name} ({layout}).\n"
            "  fix: remove it, or --out ANOTHER."
        )
    wanted = manifest if layout == OURS else _certified(out)
    return all(_is(out / path, sha256) for path, sha256 in wanted.items())


def _layout_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / PROMPT).read_text(encoding="utf-8"))["layout"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _certified(folder: Path) -> dict[str, str]:
    try:
        proof = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
        return {str(path): str(sha256) for path, sha256 in proof["sha256"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"certificate.json": ""}  # nothing has that digest: it is written anew


def _is(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


@contextlib.contextmanager
def _alone(out: Path, aside: Path) -> Iterator[None]:
    """Keep other pulls to the same place out. What is aside stays where going on may help."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(out, aside)
    except OSError as error:
        raise UserError(f"{out}: can't be written: {error.strerror or error}") from None
    try:
        yield
    except (Unreachable, KeyboardInterrupt):
        raise  # the next pull goes on
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise VilaError(f"{out}: can't be written: {error.strerror or error}") from None
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def _locked(out: Path, aside: Path) -> int:
    """Return an open descriptor of the folder `aside`, which nobody else has locked."""
    while True:
        aside.mkdir(exist_ok=True)
        descriptor = os.open(aside, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if aside.exists() and os.fstat(descriptor).st_ino == aside.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"{out}: another pull is writing it; wait for its end.") from None
        os.close(descriptor)  # that one was renamed into place by its pull


def _fetch(
    store: Store,
    version: Version,
    manifest: Mapping[str, str],
    folder: Path,
    say: Callable[[str], None],
) -> None:
    lead = f"artifacts/{version.artifact.sha256}"
    for path, sha256 in manifest.items():
        target = folder / path
        if _is(target, sha256):
            continue
        say(f"fetching {path}")
        try:
            store.download(f"{lead}/{path}", target, sha256=sha256)
        except ValueError:
            raise Damaged(f"{version.name}: its manifest names a file '{path}'.") from None
        except NotFound:
            raise Damaged(f"{version.name}: {lead}/{path} is missing.{_look(version)}") from None
        except Damaged as error:
            raise Damaged(f"{version.name}: {error}{_look(version)}") from None


def _describe(store: Store, version: Version, folder: Path, layout: str) -> None:
    """Write what tells of the version: card, record, signature, template."""
    from vila_ops.ask import template_of
    from vila_ops.registry.card import card

    _write(folder / RECORD, _record(store, version))
    bundles = Signatures(store, version.model).of(version)
    if bundles:
        _write(folder / BUNDLE, (dumps(bundles[0]) + "\n").encode())
    prompt = {"name": version.name, "layout": layout}
    template = template_of(store, version.run_id)
    prompt |= {"template": template} if template else {}
    _write(folder / PROMPT, (dumps(prompt, indent=1) + "\n").encode())
    if layout == OURS:
        manifest = store.read(f"artifacts/{version.artifact.sha256}/manifest.json")
        _write(folder / "manifest.json", manifest)
    if not (folder / "README.md").exists():
        text = card(store, version, layout)
        _write(folder / "README.md", text.encode())


def _record(store: Store, version: Version) -> bytes:
    """Return the record as it is signed: canonical JSON, whose sha256 is the first subject."""
    place = f"registry/{version.model}/versions/{version.number}.json"
    return dumps(unsigned(json.loads(store.read(place)))).encode()


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _put(made: Path, out: Path) -> None:
    """Rename the whole folder into place; what is there is empty, or a damaged copy of it."""
    for path in made.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if out.exists():
        old = out.with_name(f".{out.name}.pull-old")
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
        made.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        made.rename(out)


__all__ = ["Pulled", "pull"]
