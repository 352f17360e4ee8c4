"""A Hugging Face Hub in a few lines: repositories with commits and tags, as its client asks.

Files come inline in the commit, as the Hub takes small ones.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.local_http import Handler, served

TOKEN = "hf_a_token_of_tests"


@dataclass
class Hub:
    """Answers in `refuse`, each (status, headers), are given to the next that change something."""

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    cards: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    refuse: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> str:
        files = self.repos[repo]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        oid = hashlib.sha1(json.dumps([lines, len(self.commits)]).encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.heads[repo] = oid
        return oid


@contextlib.contextmanager
def hubbing() -> Iterator[Hub]:
    hub = Hub()

    class Answering(Handler):
        protocol_version = "HTTP/1.1"

        def answer(
            self, value: Any, status: int = 200, headers: dict[str, str] | None = None
        ) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self.chunks()
            else:
                body = self.rfile.read(length)
            path = unquote(urlsplit(self.path).path)
            hub.calls.append(f"{self.command} {path}")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer({"error": "Invalid credentials"}, 401)
            if hub.refuse and self.command != "GET":
                status, headers = hub.refuse.pop(0)
                return self.answer({"error": "not now"}, status, headers)
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization')}/{asked['name']}"
                if name in hub.repos:
                    return self.answer({"error": "exists", "url": f"{hub.url}/{name}"}, 409)
                hub.repos[name] = {}
                hub.commit(name, [])
                return self.answer({"url": f"{hub.url}/{name}", "name": name})
            if path == "/api/validate-yaml":  # of the card, before it is uploaded
                hub.cards.append(json.loads(body)["content"])
                return self.answer({"errors": [], "warnings": []})
            _, _, _, owner, name, *rest = path.split("/")
            return self.repository(f"{owner}/{name}", rest, body)

        def repository(self, repo: str, rest: list[str], body: bytes) -> None:
            if rest[:1] == ["refs"]:
                return self.answer({
                    "branches": [{"name": "main", "ref": "refs/heads/main",
                                  "targetCommit": hub.heads[repo]}],
                    "tags": [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c}
                             for n, c in hub.tags.items()],
                    "converts": [],
                })  # fmt: skip
            if rest[:1] == ["preupload"]:
                files = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                         for f in files]  # fmt: skip
                return self.answer({"files": modes})
            if rest[:1] == ["commit"]:
                lines = [json.loads(line) for line in body.splitlines()]
                oid = hub.commit(repo, lines)
                return self.answer({"success": True, "commitOid": oid,
                                    "commitUrl": f"{hub.url}/{repo}/commit/{oid}"})  # fmt: skip
            if rest[:1] == ["tree"]:
                return self.answer([{"type": "file", "path": path, "size": len(data),
                                     "oid": hashlib.sha1(data).hexdigest()}
                                    for path, data in hub.repos[repo].items()])  # fmt: skip
            if rest[:1] == ["tag"] and self.command == "POST":
                tag = json.loads(body)["tag"]
                if tag in hub.tags:
                    return self.answer({"error": "tag exists"}, 409)
                hub.tags[tag] = rest[1]
                return self.answer({})
            if rest[:1] == ["tag"] and self.command == "DELETE":
                del hub.tags[rest[1]]
                return self.answer({})
            if rest == [] or rest[:1] == ["revision"]:
                return self.answer({
                    "id": repo, "sha": hub.heads[repo],
                    "siblings": [{"rfilename": path} for path in hub.repos[repo]],
                })  # fmt: skip
            return self.answer({"error": f"unknown: {rest}"}, 404)

        def chunks(self) -> bytes:
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        do_GET = do_POST = do_DELETE = do_HEAD = handle_any

    with served(Answering) as hub.url:
        yield hub
