"""Write what an image holds as CycloneDX 1.6 JSON: Python's packages and the distribution's.

Runs in the build stage, which has the same system packages as the image, with the Python of
/opt/venv and the standard library alone:

    python sbom.py --role train --out /opt/vila/sbom.cdx.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

_STATUS = Path("/var/lib/dpkg/status")


def python_packages() -> Iterator[dict[str, Any]]:
    """Yield a component for each distribution that this Python finds; the first one counts."""
    seen: set[str] = set()
    for found in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        if name in seen:
            continue
        seen.add(name)
        purl = f"pkg:pypi/{quote(name)}@{quote(found.version)}"
        yield _component(name, found.version, purl, _licence(found))


def _licence(found: importlib.metadata.Distribution) -> str | None:
    facts = found.metadata
    text = facts.get("License-Expression") or facts.get("License")
    if text and "\n" not in text.strip() and len(text) <= 100:
        return text.strip()
    classified = [
        line.rpartition("::")[2].strip()
        for line in facts.get_all("Classifier", [])
        if line.startswith("License ::")
    ]
    return " AND ".join(classified) or None


def system_packages(status: Path = _STATUS) -> Iterator[dict[str, Any]]:
    """Yield a component for each installed package of dpkg; none on other distributions."""
    if not status.is_file():
        return
    distribution = platform.freedesktop_os_release().get("ID", "debian")
    for block in status.read_text(encoding="utf-8").split("\n\n"):
        facts = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", block, re.M))
        if not facts.get("Status", "").endswith(" installed"):
            continue
        name, version = facts["Package"], facts["Version"]
        where = f"pkg:deb/{distribution}/{quote(name)}@{quote(version)}"
        yield _component(name, version, f"{where}?arch={facts['Architecture']}", None)


def _component(name: str, version: str, purl: str, licence: str | None) -> dict[str, Any]:
    component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if licence:
        component["licenses"] = [{"license": {"name": licence}}]
    return component


def sbom(role: str) -> dict[str, Any]:
    """Return the bill of materials. It has no time of day: the same image gives the same file."""
    components = [*python_packages(), *system_packages()]
    python = platform.python_version()
    purl = f"pkg:generic/python@{python}"
    components.append(_component("python", python, purl, None) | {"type": "platform"})
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": f"vila-platform/{role}",
                "name": f"vila-platform/{role}",
            }
        },
        "components": sorted(components, key=lambda item: item["purl"]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--role", required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    text = json.dumps(sbom(chosen.role), indent=1, ensure_ascii=False)
    chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
