"""Every operation of `/api/v1` does what its schema says, whatever it is sent and by whomever."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from tests.web.dashboards import client_of
from tests.web.story import MODEL, Story, make_story
from vila_core.store import Store, open_store
from vila_ops.web.limits import Buckets, Limit
from vila_ops.web.tokens import Tokens, make_token

SCHEMA = "/api/v1/openapi.json"
CONFORMS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
EXAMPLES = 10
"""Drawn for each operation, fit and unfit ones."""
FEW = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module", autouse=True)
def story(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return make_story(store, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    return path, {role: make_token(path, role, role)[0] for role in ("viewer", "admin")}


@pytest.fixture(scope="module")
def client(store: Store, tokens: tuple[Path, dict[str, str]]) -> Iterator[TestClient]:
    made = client_of(store, Tokens(tokens[0]), "http://vila.example.org")
    access = app_of(made).state.access
    access.reads, access.writes, access.logins = (Buckets(Limit(1e9, 1)) for _ in range(3))
    yield made
    access.audit.close()


def app_of(client: TestClient) -> FastAPI:
    assert isinstance(client.app, FastAPI)
    return client.app


@pytest.fixture(scope="module")
def document(client: TestClient, tokens: tuple[Path, dict[str, str]]) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {tokens[1]['viewer']}"}
    assert client.get(SCHEMA).status_code == 401
    return client.get(SCHEMA, headers=headers).json()


@pytest.mark.slow  # the story takes a while
def test_the_schema_tells_all(document: dict[str, Any]) -> None:
    assert document["info"]["title"] == "VILA dashboard"
    assert set(document["components"]["securitySchemes"]) == {"token", "session"}
    operations = [
        (path, method, one)
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    ]
    assert len(operations) > 15
    names = [one["operationId"] for _, _, one in operations]
    assert len(names) == len(set(names))
    for path, method, one in operations:
        assert re.fullmatch(r"(get|post|put|delete)_[a-z0-9_]+", one["operationId"])
        assert one["summary"], path
        assert one.get("description"), f"{method} {path}: its function has a docstring"
        assert one["tags"], path
        codes = {"400", "401", "403", "404", "422", "429", "503"}
        codes |= set() if method == "get" else {"409", "413", "415"}
        assert codes <= set(one["responses"]), path
        for code in codes:
            held = one["responses"][code]["content"]["application/json"]["schema"]
            assert held == {"$ref": "#/components/schemas/Problem"}, (path, code)
        for value in one.get("parameters", []):
            assert value["schema"], (path, value["name"])
    assert "HTTPValidationError" not in document["components"]["schemas"]


@pytest.fixture(scope="module")
def api(client: TestClient) -> Any:
    generation = GenerationConfig(deterministic=True, database="none")
    project = ProjectConfig(generation=generation)
    config = SchemathesisConfig(projects=ProjectsConfig(default=project))
    app = app_of(client)
    return schemathesis.openapi.from_dict(app.openapi(), config=config)


def each(api: Any, check: Callable[[Any], None], examples: int, writing: bool = False) -> None:
    """Check cases of every operation, fit and unfit; tell of each operation that fails."""
    failures = []
    for found in api.get_all_operations():
        operation = found.ok()
        if writing and operation.method == "get":
            continue
        for mode in GenerationMode:
            name = f"{operation.method} {operation.path} ({mode.value})"
            try:
                cases = operation.as_strategy(generation_mode=mode)
                settings(
                    max_examples=examples,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                )(given(cases)(check))()
            except Unsatisfiable:  # nothing is unfit: there is no parameter
                assert not operation.parameters(), name
            except (Exception, FailureGroup) as error:
                failures.append(f"{name}: {type(error).__name__}: {error}")
    assert not failures, "\n\n".join(failures)


@pytest.mark.slow
def test_what_is_there_is_told(
    api: Any, client: TestClient, tokens: tuple[Path, dict[str, str]], story: Story
) -> None:
    """Every operation that reads, asked for what the store holds."""
    headers = {"authorization": f"Bearer {tokens[1]['admin']}"}
    known = {
        "run_id": story.first.run_id,
        "run": [story.first.run_id, story.second.run_id],
        "model": MODEL,
        "number": 1,
        "q": story.version.artifact.sha256,
        "task": "sft",
        "metric": "loss",
        "benchmark": "miniature_icl",
    }
    seen = 0
    for found in api.get_all_operations():
        operation = found.ok()
        if operation.method != "get":
            continue
        values = {
            one.name: known[one.name] for one in operation.iter_parameters() if one.name in known
        }
        if operation.path.endswith(("/runs", "/audit")):
            values = {}
        if operation.path.endswith("/disagreements"):
            values["benchmark"] = "miniature_icl@0"
        in_path = set(re.findall(r"{(\w+)}", operation.path))
        case = operation.Case(
            path_parameters={name: values.pop(name) for name in in_path}, query=values
        )
        answer = case.call(app=client.app, headers=headers)
        assert answer.status_code == 200, (operation.path, values, answer.text[:300])
        case.validate_response(answer, checks=CONFORMS)
        seen += 1
    assert seen > 10


@pytest.mark.slow
def test_an_admin(api: Any, client: TestClient, tokens: tuple[Path, dict[str, str]]) -> None:
    headers = {"authorization": f"Bearer {tokens[1]['admin']}"}

    def check(case: Any) -> None:
        answer = case.call(app=client.app, headers=headers)
        # Values that fit the schema may still name what is not there.
        case.validate_response(answer, excluded_checks=[ignored_auth, positive_data_acceptance])

    each(api, check, EXAMPLES)


@pytest.mark.slow
def test_nobody(api: Any, client: TestClient) -> None:
    """Whatever is sent, it tells nothing and changes nothing."""

    def check(case: Any) -> None:
        answer = case.call(app=client.app, headers={"authorization": ""})
        assert answer.status_code == 401, answer.status_code
        assert answer.headers["www-authenticate"] == ["Bearer"]
        case.validate_response(answer, checks=CONFORMS)

    each(api, check, FEW)


@pytest.mark.slow
def test_a_viewer(
    api: Any, client: TestClient, tokens: tuple[Path, dict[str, str]], store: Store
) -> None:
    """Looks at everything but the audit log, and changes nothing."""
    headers = {"authorization": f"Bearer {tokens[1]['viewer']}"}
    before = {key: store.etag(key) for key in store.list("registry/")}

    def check(case: Any) -> None:
        answer = case.call(app=client.app, headers=headers)
        writes, audit = case.method.upper() != "GET", case.path.endswith("/audit")
        allowed = (400, 403, 404, 415, 422) if writes or audit else (200, 304, 404, 422)
        assert answer.status_code in allowed, answer.status_code
        case.validate_response(answer, checks=CONFORMS)

    each(api, check, FEW)
    assert {key: store.etag(key) for key in store.list("registry/")} == before


@pytest.mark.slow
def test_a_session_without_its_pages_token_changes_nothing(
    api: Any, client: TestClient, tokens: tuple[Path, dict[str, str]], store: Store
) -> None:
    cookie = session(client, tokens[1]["admin"])
    before = {key: store.etag(key) for key in store.list("registry/")}

    def check(case: Any) -> None:
        answer = case.call(app=client.app, headers={"cookie": cookie, "authorization": ""})
        assert answer.status_code in (400, 403, 415, 422), answer.status_code
        case.validate_response(answer, checks=CONFORMS)

    each(api, check, FEW, writing=True)
    assert {key: store.etag(key) for key in store.list("registry/")} == before


def session(client: TestClient, token: str) -> str:
    """The header of a browser that logged in."""
    browser = TestClient(client.app, base_url="http://vila.example.org", follow_redirects=False)
    found = re.search(r'name="csrf" value="(\w+)"', browser.get("/login").text)
    assert found is not None
    browser.post("/login", data={"token": token, "csrf": found.group(1)})
    return f"vila_session={browser.cookies['vila_session']}"
