"""What tells that files outside the store have changed, without reading them."""

from __future__ import annotations

from pathlib import Path

from vila_core.jsonio import digest


def fingerprint(path: Path) -> str:
    """Return the digest of names, sizes and times of change below a path, "missing" if it is not.

    Corpora are too large to hash before every run; a changed file has another size or time.
    """
    if not path.exists():
        return "missing"
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files if file.is_file()]
    return digest([[str(f.relative_to(path)), s.st_size, s.st_mtime_ns] for f, s in stats])
