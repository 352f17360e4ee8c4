"""Fill /opt/venv for one role: the only step of an image's build that installs anything.

Runs in the build stage with the base image's own Python and the standard library alone:

    python images/install.py --extras train,lora --also kubernetes --no-deps kfp

Run again it adds what is missing. What is installed comes from pyproject.toml (the extras) and
constraints.txt (the versions); a base image that brings torch keeps its own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VENV = Path("/opt/venv")
WHEELS = Path("/wheels")
_NAME = re.compile(r"[A-Za-z0-9._-]+")

# Of no use at run time: tests, headers (there is no compiler), copies of libraries under names that
# only a linker asks for, and what reaches other services than ours: Arrow's own S3 and Flight, the
# model hub's transfer. Measured in docs/reference/images.md.
UNUSED = (
    "torch/test",
    "torch/include",
    "torch/bin/*Test",
    "torch/bin/test_*",
    "torch/bin/protoc*",
    "torch/lib/lib*test*.so",
    "torch/lib/libbackend_with_compiler.so",
    "pyarrow/tests",
    "pyarrow/include",
    "pyarrow/src",
    "pyarrow/**/*.p[yx][xdi]",
    "numpy/**/*.pyi",
    "numpy/**/*.a",
    "pyarrow/*flight*",
    "pyarrow/*s3*",
    "pyarrow/libarrow_python*.so",
    "pyarrow/libarrow_python*.so.*.*.*",
    "Crypto/SelfTest",
    "hf_xet",
    "hf_xet-*.dist-info",
    "numpy/**/tests",
    "scipy/**/tests",
    "sklearn/**/tests",
    "pandas/tests",
    "sympy/**/tests",
    "networkx/**/tests",
)
# What of transformers is of no use without torch: its models, and what makes their inputs of images
# and sound. Tokenizers stay, and the tables in models/auto, which they are found by.
UNUSED_WITHOUT_TORCH = tuple(
    f"transformers/models/*/{kind}_*.py"
    for kind in (
        "modeling",
        "modular",
        "processing",
        "image_processing",
        "video_processing",
        "feature_extraction",
        "convert",
    )
)


class Unfit(Exception):
    """The base image or the arguments don't do; the message says what to change."""


@dataclass(frozen=True)
class BaseTorch:
    """The torch that the base image brings: its version, and the folder it is imported from."""

    version: str
    folder: Path

    @property
    def public(self) -> str:
        """The version without the local part: 2.13.0+cu130 is 2.13.0."""
        return self.version.partition("+")[0]


def base_torch() -> BaseTorch | None:
    """Return the torch of the Python that runs this, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    return BaseTorch(importlib.metadata.version("torch"), Path(spec.origin).parents[1])


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    """Return the name that a requirement starts with. Raises Unfit if it starts with none."""
    found = _NAME.match(requirement)
    if found is None:
        raise Unfit(f"'{requirement}' is no requirement")
    return canonical(found[0])


def requirements(project: Path, extras: Sequence[str]) -> list[str]:
    """Return what the package and its `extras` need. Raises Unfit for an unknown extra."""
    facts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    known = facts["optional-dependencies"]
    unknown = [extra for extra in extras if extra not in known]
    if unknown:
        raise Unfit(f"{project}: no extra {', '.join(unknown)}; there are {', '.join(known)}")
    return [*facts["dependencies"], *(item for extra in extras for item in known[extra])]


def locked(lock: Path) -> dict[str, str]:
    """Return the lines of the lock by package."""
    lines = (line.strip() for line in lock.read_text(encoding="utf-8").splitlines())
    return {requirement_name(line): line for line in lines if line and not line.startswith("#")}


def keep_torch(lock: dict[str, str], torch: BaseTorch) -> dict[str, str]:
    """Return the lock with the base's torch in place of its own, so that pip leaves it alone."""
    return lock | {"torch": f"torch=={torch.public}"}


def check_locked(names: Sequence[str], lock: dict[str, str]) -> None:
    """Raise Unfit for a package that would be installed in a version which nobody chose."""
    missing = [name for name in names if requirement_name(name) not in lock]
    if missing:
        raise Unfit(f"constraints.txt has no version of {', '.join(missing)}; run make lock")


def unused(site: Path, without_torch: bool) -> list[Path]:
    """Return what is there of the lists above."""
    patterns = UNUSED + (UNUSED_WITHOUT_TORCH if without_torch else ())
    found = (path for pattern in patterns for path in sorted(site.glob(pattern)))
    return [path for path in found if path.parent.name != "auto"]


def remove(paths: Sequence[Path]) -> int:
    """Remove files and folders; return how many bytes that freed."""
    freed = 0
    for path in paths:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        freed += sum(file.lstat().st_size for file in files)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return freed


class Installer:
    """One virtual environment without pip in it, and a pip beside it that fills it."""

    def __init__(self, venv: Path, work: Path, pip_args: Sequence[str]) -> None:
        self.python = venv / "bin" / "python"
        self._tool = work / "pip" / "bin" / "python"
        self._args = pip_args
        _call([sys.executable, "-m", "venv", str(work / "pip")])
        if not venv.exists():  # else an earlier step of the build began to fill it
            _call([sys.executable, "-m", "venv", "--without-pip", str(venv)])
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.site = venv / "lib" / version / "site-packages"

    def see(self, torch: BaseTorch, wanted: Sequence[str]) -> None:
        """Let the environment see the base's packages. Raises Unfit for a torch out of range."""
        ranges = [text for text in wanted if requirement_name(text) == "torch"]
        for text in ranges:
            specifier = text[len("torch") :]
            code = (
                "import sys; from pip._vendor.packaging.specifiers import SpecifierSet; "
                "sys.exit(not SpecifierSet(sys.argv[1]).contains(sys.argv[2], prereleases=True))"
            )
            if subprocess.run([self._tool, "-c", code, specifier, torch.public]).returncode:
                raise Unfit(
                    f"the base image has torch {torch.version}, the package needs {text}.\n"
                    "  fix: give a BASE_IMAGE with such a torch, or one without torch"
                )
        line = f"import site; site.addsitedir({str(torch.folder)!r})\n"
        (self.site / "base-image.pth").write_text(line, encoding="utf-8")

    def install(self, constraints: Path, wanted: Sequence[str], *options: str) -> None:
        """Install by pip, in the versions of `constraints`."""
        if not wanted:
            return
        pip = [str(self._tool), "-m", "pip", "--python", str(self.python), "install", "--no-input"]
        pip += ["--no-compile"]  # what is removed below need not be compiled
        if WHEELS.is_dir():
            pip += ["--find-links", str(WHEELS)]
        _call([*pip, *self._args, *options, "-c", str(constraints), *wanted])

    def compile(self) -> None:
        """Write the bytecode of everything: a read-only image can't do it later."""
        _call([str(self.python), "-m", "compileall", "-q", "-j", "0", str(self.site)], fine=(0, 1))

    def check(self) -> None:
        """Have pip check that everything installed fits together."""
        _call([str(self._tool), "-m", "pip", "--python", str(self.python), "check"])


def _call(command: Sequence[str], fine: Sequence[int] = (0,)) -> None:
    print("+", shlex.join(command), flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode not in fine:
        raise Unfit(f"it ended with exit code {done.returncode}: {shlex.join(command)}")


def _entry_point(venv: Path, app: Path, site: Path) -> None:
    """Make the package in `app` importable, and `vila` a command."""
    (site / "vila-platform.pth").write_text(f"{app}\n", encoding="utf-8")
    script = venv / "bin" / "vila"
    script.write_text(
        f"#!{venv}/bin/python\n"
        "import sys\n\nfrom vila_ops.cli.main import main\n\nsys.exit(main())\n",
        encoding="utf-8",
    )
    script.chmod(0o755)


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def main(arguments: Sequence[str] | None = None) -> int:
    """Install as the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", type=_words, default=[], help="extras of pyproject.toml")
    parser.add_argument("--also", type=_words, default=[], help="packages beside them")
    parser.add_argument(
        "--no-deps", type=_words, default=[], help="packages without what they need"
    )
    parser.add_argument("--source", type=Path, default=Path.cwd(), help="folder of pyproject.toml")
    parser.add_argument("--app", type=Path, default=Path("/opt/vila"), help="where the package is")
    parser.add_argument("--venv", type=Path, default=VENV)
    chosen = parser.parse_args(arguments)
    try:
        _run(chosen, shlex.split(os.environ.get("PIP_ARGS", "")))
    except Unfit as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(chosen: argparse.Namespace, pip_args: Sequence[str]) -> None:
    lock = locked(chosen.source / "constraints.txt")
    wanted = [*requirements(chosen.source / "pyproject.toml", chosen.extras), *chosen.also]
    check_locked([*wanted, *chosen.no_deps], lock)
    wants_torch = any(requirement_name(text) == "torch" for text in wanted)
    torch = base_torch() if wants_torch else None
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        installer = Installer(chosen.venv, work, pip_args)
        if torch is not None:
            print(f"torch {torch.version} is the base image's, in {torch.folder}", flush=True)
            lock = keep_torch(lock, torch)
            installer.see(torch, wanted)
        constraints = work / "constraints.txt"
        constraints.write_text("\n".join(lock.values()) + "\n", encoding="utf-8")
        installer.install(constraints, wanted)
        installer.check()
        installer.install(constraints, chosen.no_deps, "--no-deps")
    freed = remove(unused(installer.site, without_torch=not wants_torch))
    print(f"removed what is of no use here: {freed / 1e6:.0f} MB", flush=True)
    installer.compile()
    _entry_point(chosen.venv, chosen.app, installer.site)


if __name__ == "__main__":
    sys.exit(main())
