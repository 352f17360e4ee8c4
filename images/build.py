"""Build the images of roles with podman, buildah or docker: what `make images` runs.

    python3 images/build.py data train      (none named: all)

Standard library only. The pip settings of this machine are used in the build and stay in no layer:
its configuration goes in as a secret, the CA that it trusts as another, a local folder of wheels
(its find-links) as a read-only mount. Each image's bill of materials lies in build/images then.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROLES = ("data", "train", "eval", "ops")
ENGINES = ("podman", "docker", "buildah")
_IN_BUILD = {"ca_bundle": "/run/secrets/ca_bundle", "wheels": "/wheels"}
_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "no-index", "timeout", "retries")


class Unfit(Exception):
    """This machine or the arguments don't do; the message says what to change."""


@dataclass(frozen=True)
class PipSettings:
    """What of the host's pip settings a build needs: lines for pip.conf, CA file, wheel folder."""

    values: Mapping[str, str]
    ca: Path | None
    wheels: Path | None

    def text(self) -> str:
        """Return pip.conf as it is inside the build."""
        values = dict(self.values)
        if self.ca is not None:
            values["cert"] = _IN_BUILD["ca_bundle"]
        return "".join(["[global]\n", *(f"{key} = {value}\n" for key, value in values.items())])


def parse_pip_settings(listed: str) -> PipSettings:
    """Read the output of `pip config list`; the environment's settings come over the files'.

    Local folders among find-links and indexes aren't visible in a build: the first folder of
    find-links is mounted, indexes on the disk are left out.
    """
    found: dict[str, str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        scope, _, name = key.rpartition(".")
        if scope not in ("global", "install", ":env:") or (name in found and scope != ":env:"):
            continue
        found[name] = ast.literal_eval(value)
    values = {}
    for name in _SETTINGS:
        words = [word for word in found.get(name, "").split() if not word.startswith("file:")]
        if words:
            values[name] = " ".join(words)
    ca = Path(found["cert"]) if found.get("cert") else None
    folders = [Path(word) for word in found.get("find-links", "").split() if "://" not in word]
    wheels = next((folder for folder in folders if folder.is_dir()), None)
    return PipSettings(values, ca if ca and ca.is_file() else None, wheels)


def host_settings() -> PipSettings:
    """Return the pip settings of this machine; empty without pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return parse_pip_settings(done.stdout if done.returncode == 0 else "")


def find_engine(wanted: str | None) -> str:
    """Return the engine to use. Raises Unfit if it, or any, is missing."""
    names = (wanted,) if wanted else ENGINES
    for name in names:
        if shutil.which(name):
            return name
    raise Unfit(
        f"no container engine found ({', '.join(names)}).\n"
        "  fix: install podman and runc (Debian: apt-get install podman runc), docker or buildah"
    )


def facts_of_checkout() -> dict[str, str]:
    """Return the build arguments that become labels: revision, its time, version, lock digest."""
    revision = _git("rev-parse", "HEAD") or "unknown"
    if revision != "unknown" and _git("status", "--porcelain"):
        revision += "-dirty"
    seconds = int(_git("log", "-1", "--format=%ct") or 0)
    init = (ROOT / "vila_core" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "(.+)"', init)
    return {
        "REVISION": revision,
        "CREATED": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)),
        "VERSION": version[1] if version else "0",
        "LOCK_DIGEST": hashlib.sha256((ROOT / "constraints.txt").read_bytes()).hexdigest(),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


@dataclass(frozen=True)
class Request:
    """What to build, and with what."""

    engine: str
    base: str
    prefix: str
    tag: str
    arguments: Mapping[str, str]
    wheels: Path | None
    secrets: Mapping[str, Path]
    options: tuple[str, ...] = ()

    def image(self, role: str) -> str:
        """Return the image's name."""
        return f"{self.prefix}/{role}:{self.tag}"

    def command(self, role: str) -> list[str]:
        """Return the engine's command line."""
        command = [self.engine, "build", "-f", f"images/{role}.Dockerfile", "-t", self.image(role)]
        for name, value in {"BASE_IMAGE": self.base, **self.arguments}.items():
            command += ["--build-arg", f"{name}={value}"]
        for name, path in self.secrets.items():
            command += ["--secret", f"id={name},src={path}"]
        if self.wheels is not None:
            command += ["--build-context", f"wheels={self.wheels}"]
        return [*command, *self.options, "."]


def build(request: Request, roles: Sequence[str], out: Path) -> None:
    """Build the images and write their bills of materials to `out`. Raises Unfit at a failure."""
    environment = dict(os.environ)
    if request.engine == "docker":
        environment["DOCKER_BUILDKIT"] = "1"
    for role in roles:
        began = time.monotonic()
        command = request.command(role)
        print("+", shlex.join(command), flush=True)
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            raise Unfit(f"{request.engine} could not build {request.image(role)}; see above")
        size = _size(request.engine, request.image(role))
        seconds = time.monotonic() - began
        print(f"{request.image(role)}: {size / 1e6:.0f} MB, built in {seconds:.0f} s", flush=True)
        _bill(request, role, out)


def _size(engine: str, image: str) -> int:
    """Return the size of an image in bytes, 0 where the engine doesn't say it."""
    if engine == "buildah":
        listed = json.loads(_output([engine, "images", "--json", image]) or "[]")
        return _bytes(listed[0]["size"]) if listed else 0
    return int(_output([engine, "image", "inspect", "--format", "{{.Size}}", image]) or 0)


def _bytes(text: str) -> int:
    number, unit = text.split()
    return round(float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()])


def _bill(request: Request, role: str, out: Path) -> None:
    if request.engine == "buildah":
        return  # it runs no images; the bill is in the image
    inside = ["cat", "/opt/vila/sbom.cdx.json"]
    text = _output([request.engine, "run", "--rm", "--network=none", request.image(role), *inside])
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{role}.cdx.json").write_text(text, encoding="utf-8")


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unfit(f"{shlex.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Build as arguments and environment say; return the exit code."""
    env = os.environ
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("roles", nargs="*", help="of data, train, eval, ops; none: all")
    parser.add_argument("--engine", default=env.get("ENGINE"), help="podman, docker or buildah")
    parser.add_argument("--base", default=env.get("BASE_IMAGE") or "python:3.11-slim")
    parser.add_argument("--prefix", default=env.get("IMAGE_PREFIX") or "vila-platform")
    parser.add_argument("--tag", default=env.get("IMAGE_TAG") or "latest")
    parser.add_argument("--wheels", default=env.get("WHEELS"), help="folder of wheels")
    parser.add_argument("--pip-conf", default=env.get("PIP_CONF"), help="pip.conf for the build")
    parser.add_argument("--ca-bundle", default=env.get("CA_BUNDLE"), help="PEM file pip trusts")
    parser.add_argument("--options", default=env.get("IMAGE_ARGS", ""), help="for the engine")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "images")
    chosen = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            request = _request(chosen, Path(folder))
            build(request, chosen.roles or ROLES, chosen.out)
    except Unfit as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _request(chosen: argparse.Namespace, work: Path) -> Request:
    unknown = [role for role in chosen.roles if role not in ROLES]
    if unknown:
        raise Unfit(f"there is no role {', '.join(unknown)}; there are {', '.join(ROLES)}")
    settings = host_settings()
    ca = _path(chosen.ca_bundle) or settings.ca
    settings = PipSettings(settings.values, ca, _path(chosen.wheels) or settings.wheels)
    conf = _path(chosen.pip_conf)
    for path in (conf, ca, settings.wheels):
        if path is not None and not path.exists():
            raise Unfit(f"{path}: there is no such file or folder")
    if conf is None and (settings.values or ca):
        conf = work / "pip.conf"
        conf.write_text(settings.text(), encoding="utf-8")
    found = {"pip_conf": conf, "ca_bundle": ca}
    return Request(
        engine=find_engine(chosen.engine),
        base=chosen.base,
        prefix=chosen.prefix,
        tag=chosen.tag,
        arguments=facts_of_checkout() | {"PIP_ARGS": os.environ.get("PIP_ARGS", "")},
        wheels=settings.wheels,
        secrets={name: path for name, path in found.items() if path is not None},
        options=tuple(shlex.split(chosen.options)),
    )


if __name__ == "__main__":
    sys.exit(main())
