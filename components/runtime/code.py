"""The digest of the code that a stage runs: every first-party module it can reach by imports.

Found by reading the syntax trees, so nothing is imported to ask. Counted are imports at any depth
of the code (in functions too), parent packages, modules and packages named in string constants
(lazy tables), the data files beside the modules, and folders opened by `importlib.resources.files`.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.runtime.code_facts import FactFile
from vila_core.jsonio import digest

FIRST_PARTY = ("vila_core", "components", "pipelines", "vila_ops", "configs")
LOCK_FILE = "constraints.txt"

_DOTTED = re.compile(r"\.?[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\.?")
_SKIPPED = (".py", ".pyc", ".so", ".pyi")


@dataclass(frozen=True)
class CodeDigest:
    """sha256 by file, and of all of them together."""

    digest: str
    files: Mapping[str, str]


def code_digest(module: str) -> CodeDigest:
    """Return the digest of `module` and all first-party code below it.

    Raises ModuleNotFoundError when there is no such module.
    """
    roots = {*FIRST_PARTY, module.partition(".")[0]}
    if find(module) is None:
        raise ModuleNotFoundError(f"there is no module '{module}'", name=module)
    files: dict[str, str] = {}
    seen: set[str] = set()
    folders: set[tuple[Path, str]] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen or name.partition(".")[0] not in roots or name.endswith(".__init__"):
            continue
        seen.add(name)
        if "." in name:
            todo.append(name.rpartition(".")[0])  # importing a.b runs a/__init__.py
        path = find(name)
        if path is None or path.is_dir():  # a name in a module; a folder without code of its own
            continue
        facts = _facts_of(path, name)
        files[_label(path, name)] = facts.sha256
        todo += facts.mentions
        for wanted in facts.packages:
            todo += _modules_of(wanted)
        for folder, label in set(_data_folders(path, name, facts)) - folders:
            folders.add((folder, label))
            for file in _data_files(folder):
                files[f"{label}/{file.relative_to(folder).as_posix()}"] = _sha256(file)
    _fact_file().save()
    return CodeDigest(digest(files), dict(sorted(files.items())))


def lock_digest() -> str:
    """Return the digest of Python's version and the lock file (without one: what is installed)."""
    root = find("vila_core")
    lock = root.parent.parent / LOCK_FILE if root else None
    versions = (
        hashlib.sha256(lock.read_bytes()).hexdigest()
        if lock is not None and lock.is_file()
        else _installed_versions()
    )
    return digest({"lock": versions, "python": list(sys.version_info[:2])})


@functools.cache
def _installed_versions() -> str:
    names = {f"{dist.name}=={dist.version}" for dist in importlib.metadata.distributions()}
    return digest(sorted(names))


def find(name: str) -> Path | None:
    """Return the file of a module, `__init__.py` of a package, or a namespace folder; no import."""
    leaf = name.rpartition(".")[2]
    for folder in _search_path(name):
        for path in (folder / leaf / "__init__.py", folder / f"{leaf}.py"):
            if path.is_file():
                return path
        if (folder / leaf).is_dir() and any((folder / leaf).glob("*.py")):
            return folder / leaf
    return None


def _search_path(name: str) -> list[Path]:
    parent = name.rpartition(".")[0]
    if not parent:
        return _top_path(name)
    if parent in sys.modules:  # knows about extended paths
        return [Path(entry) for entry in getattr(sys.modules[parent], "__path__", [])]
    found = find(parent)
    if found is None:
        return []
    if found.is_dir():
        return [found]
    return [found.parent] if found.name == "__init__.py" else []


def _top_path(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)  # of a top-level name: imports nothing
    if spec is None:
        return []
    if spec.submodule_search_locations:
        return [Path(entry).parent for entry in spec.submodule_search_locations]
    return [Path(spec.origin).parent] if spec.origin else []


@dataclass(frozen=True)
class _Facts:
    """What one file says: modules it names, packages it takes whole, resource folders it opens."""

    sha256: str
    mentions: tuple[str, ...]
    packages: tuple[str, ...]
    resources: tuple[tuple[str, tuple[str, ...]], ...]


def _facts_of(path: Path, name: str) -> _Facts:
    status = path.stat()
    return _read_facts(path, name, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4096)
def _read_facts(path: Path, name: str, mtime_ns: int, size: int) -> _Facts:
    """Read one file; the time and size are there to read a changed file again."""
    source = path.read_bytes()
    sha256 = hashlib.sha256(source).hexdigest()
    initial = path.name == "__init__.py"
    key = f"{sha256} {name}{'/' if initial else ''}"
    mentions, packages, resources = _fact_file().get(key, lambda: _parse(source, name, initial))
    return _Facts(
        sha256=sha256,
        mentions=tuple(mentions),
        packages=tuple(packages),
        resources=tuple((folder, tuple(parts)) for folder, parts in resources),
    )


def _parse(source: bytes, name: str, initial: bool) -> tuple[list[str], list[str], list[Any]]:
    """Return mentions, packages and resources of a module's source; `initial`: an __init__.py."""
    reader = _Reader(name if initial else name.rpartition(".")[0])
    reader.visit(ast.parse(source, filename=name))
    packages = set(reader.packages)
    if initial and reader.lazy:
        packages.add(name)  # `__getattr__`: any of its modules may be meant
    return sorted(reader.mentions), sorted(packages), sorted(reader.resources)


@functools.cache
def _fact_file() -> FactFile:
    return FactFile(Path(__file__))


class _Reader(ast.NodeVisitor):
    def __init__(self, package: str) -> None:
        self.package = package
        self.mentions: set[str] = set()
        self.packages: set[str] = set()
        self.resources: set[tuple[str, tuple[str, ...]]] = set()
        self.lazy = False

    def visit_Import(self, node: ast.Import) -> None:
        self.mentions |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self._absolute("." * node.level + (node.module or ""))
        self.mentions.add(base)
        self.mentions |= {f"{base}.{alias.name}" for alias in node.names if alias.name != "*"}

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
        body = [] if name == "TYPE_CHECKING" else node.body  # never runs
        for part in [test, *body, *node.orelse]:
            self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.lazy |= node.name == "__getattr__"
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        text = node.value
        if not isinstance(text, str) or "." not in text or not _DOTTED.fullmatch(text):
            return
        if text.endswith("."):  # f"vila_core.data.readers.{name}"
            self.packages.add(self._absolute(text[:-1]))
        else:
            self.mentions.add(self._absolute(text))

    def visit_Call(self, node: ast.Call) -> None:
        if not self._resource(node):
            self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not self._resource(node):
            self.generic_visit(node)

    def _resource(self, node: ast.expr) -> bool:
        found = _resource_folder(node)
        if found is not None:
            self.resources.add(found)
        return found is not None

    def _absolute(self, name: str) -> str:
        level = len(name) - len(name.lstrip("."))
        if not level:
            return name
        parts = self.package.split(".")
        base = ".".join(parts[: len(parts) - level + 1])
        return f"{base}.{name[level:]}".rstrip(".")


def _resource_folder(node: ast.expr) -> tuple[str, tuple[str, ...]] | None:
    """Read `files("configs") / "models"` as (package, parts); Path(str(…)) and joinpath too."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        left = _resource_folder(node.left)
        return None if left is None else (left[0], (*left[1], *_constants([node.right])))
    if not isinstance(node, ast.Call) or not node.args:
        return None
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name == "files":
        constants = _constants(node.args)
        return (constants[0], ()) if constants else None
    if name == "joinpath" and isinstance(node.func, ast.Attribute):
        left = _resource_folder(node.func.value)
        return None if left is None else (left[0], (*left[1], *_constants(node.args)))
    return _resource_folder(node.args[0]) if name in ("Path", "str") else None


def _constants(nodes: list[ast.expr]) -> tuple[str, ...]:
    """Return the leading string constants; what varies after them is covered by their folder."""
    found = []
    for node in nodes:
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            break
        found.append(node.value)
    return tuple(found)


def _modules_of(package: str) -> list[str]:
    path = find(package)
    if path is None or not (path.is_dir() or path.name == "__init__.py"):
        return []
    folder = path if path.is_dir() else path.parent
    return [package, *(f"{package}.{file.stem}" for file in folder.glob("*.py"))]


def _data_folders(path: Path, name: str, facts: _Facts) -> Iterator[tuple[Path, str]]:
    """Yield the folders whose data files count, each with the label of its files."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    if package.partition(".")[0] != "configs":  # its folders count only where they are opened
        yield path.parent, package.replace(".", "/")
    for opened, parts in facts.resources:
        found = find(opened)
        if found is None:
            continue
        target = (found if found.is_dir() else found.parent).joinpath(*parts)
        label = "/".join([opened.replace(".", "/"), *parts])
        if target.is_file():
            yield target.parent, label.rpartition("/")[0]
        elif target.is_dir():
            yield target, label


def _data_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_dir():
            if not any(path.glob("*.py")):  # else a package: counted when it is imported
                yield from _data_files(path)
        elif not path.name.endswith(_SKIPPED):
            yield path


def _label(path: Path, name: str) -> str:
    stem = name.replace(".", "/")
    return f"{stem}/__init__.py" if path.name == "__init__.py" else f"{stem}.py"


def _sha256(path: Path) -> str:
    status = path.stat()
    return _read_sha256(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4096)
def _read_sha256(path: Path, mtime_ns: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
