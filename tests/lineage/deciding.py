"""What a person at the pages of the registry does: ask the gates, read the form, send it."""

from __future__ import annotations

import json
import re

from httpx import Response
from starlette.testclient import TestClient

from vila_core.store import Store

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def csrf_of(client: TestClient, **headers: str) -> str:
    found = re.search(
        r'name="csrf" content="([^"]*)"', client.get("/registry", headers=headers).text
    )
    assert found is not None
    return found.group(1)


def judged(client: TestClient, what: str, to: str = "candidate") -> tuple[str, str]:
    """Return the page of a judgement and the name that its form sends back."""
    shown = client.get("/registry/promote", params={"what": what, "to": to}).text
    found = re.search(r'name="judged" value="([^"]*)"', shown)
    return shown, found.group(1) if found else ""


def send(client: TestClient, path: str, **fields: str) -> Response:
    return client.post(path, data={"csrf": csrf_of(client), **fields})


def promote(
    client: TestClient, what: str, name: str, why: str, action: str = "promote"
) -> Response:
    """Send the form of the judgement `name`, for the alias candidate."""
    fields = {"judged": name, "what": what, "to": "candidate", "action": action, "why": why}
    return send(client, "/registry/promote", **fields)


def set_gate(store: Store, run_id: str, least: float) -> None:
    """Let the run's own gates be one threshold, which it passes by 0.5, and fails by 1.0."""
    path = store.local_path(f"runs/{run_id}/run.json")
    assert path is not None
    value = json.loads(path.read_text())
    value["config"]["register"]["gates"] = [{"metric": "miniature_vqa/accuracy@0", "min": least}]
    path.write_text(json.dumps(value))
    started = path.parent / "tasks/register/001/started.json"
    attempt = json.loads(started.read_text())
    attempt["config"] = value["config"]["register"]
    attempt["key_parts"]["config"] = attempt["config"]
    started.write_text(json.dumps(attempt))
