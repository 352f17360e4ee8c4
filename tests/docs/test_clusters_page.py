"""The reference of clusters names every key; the commands of the how-to page work as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("kubernetes", reason="the extra 'pipeline' is not installed")

from pydantic import BaseModel

from tests.api_server import ApiServer
from tests.cluster.places import Laptop, Site
from vila_ops.cluster import config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "clusters.md").read_text(encoding="utf-8")
HOW_TO = (ROOT / "docs" / "how-to" / "submit-to-a-cluster.md").read_text(encoding="utf-8")
PARTS: dict[str, type[BaseModel]] = {
    "key": config.ClusterConfig,
    "`store.`": config.StorePlace,
    "`kfp.`": config.KfpPlace,
    "`nodes.`": config.Nodes,
    "`tracking.`": config.Tracking,
    "in `defaults` and `tasks.NAME`": config.TaskPlace,
}


def tables() -> Iterator[tuple[str, set[str]]]:
    for part in PAGE.split("\n\n"):
        head, _, body = part.strip().partition("\n")
        title = head.split("|")[1].strip() if head.startswith("|") else ""
        if title in PARTS:
            yield (
                title,
                set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", body, re.M)))),
            )


def test_every_key_is_told_and_no_other() -> None:
    told = dict(tables())
    assert told.keys() == PARTS.keys()
    for title, model in PARTS.items():
        wanted = set(model.model_fields)
        if title == "key":
            wanted -= {"store", "kfp", "nodes", "tracking"}  # have tables of their own
        assert told[title] == wanted, title


def test_small_defaults_are_those_of_the_code() -> None:
    place, nodes = config.TaskPlace(), config.Nodes()
    assert f"| `cpu`, `memory` | `{place.cpu}`, `{place.memory}` |" in PAGE
    assert f"| `retries`, `retry_wait_s` | {place.retries}, {place.retry_wait_s} |" in PAGE
    assert f"| `{nodes.relay_cpu}`, `{nodes.relay_memory}` |" in PAGE
    assert f"| `restarts` | {nodes.restarts} |" in PAGE


@pytest.mark.slow
def test_the_commands_of_the_how_to_page_work(
    api_server: ApiServer, tmp_path: Path, s3_environment: dict[str, str]
) -> None:
    site = Site(api_server, tmp_path, s3_environment, tmp_path / "none.yaml")
    laptop = Laptop(tmp_path / "laptop", {**s3_environment, "KUBECONFIG": str(site.kubeconfig)}, "")
    del laptop.env["VILA_STORE"]
    commands = re.findall(r"^\$ vila (.+)$", HOW_TO, flags=re.M)
    assert len(commands) == 9
    names = {"NAME": str(site.cluster)}
    for command in commands:
        words = [names.get(word, word) for word in re.sub(r"'([^']*)'", _joined, command).split()]
        words = [word.replace("\0", " ") for word in words]
        if words[0] in ("run", "resume") and "--schedule" not in words:
            words.append("-d")  # nothing is executed here, so there is no end to wait for
        if words[-1] == "-f":
            words.pop()
        printed = laptop(*words).strip()
        if words[0] == "run":
            names["SCHEDULE" if "--schedule" in words else "RUN"] = printed.splitlines()[-1]
            laptop.env["VILA_STORE"] = site.uri
        if words[0] == "stop":
            assert f"vila resume {names['RUN']}" in printed


def _joined(found: re.Match[str]) -> str:
    return found[1].replace(" ", "\0")
