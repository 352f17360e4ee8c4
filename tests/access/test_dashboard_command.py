"""`vila dashboard`: mistakes are one message and exit code 2; the audit log by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.access.test_audit_log import event
from vila_core.errors import UserError, VilaError
from vila_core.store import Store
from vila_ops.cli.main import app
from vila_ops.web.audit import FOLDER, Audit
from vila_ops.web.serve import check_host


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "needs --tokens FILE or --oidc FILE; fix: vila dashboard token"),
        (["--host", "::"], "needs --tokens FILE or --oidc FILE"),
        (["--host", "vila.example.org"], "needs --tokens FILE or --oidc FILE"),
        (["--tokens", "none"], "none: the tokens can't be read"),
        (["--oidc", "none.yaml"], "none.yaml: can't be read"),
        (["--oidc", "bad.yaml"], "bad.yaml: client_id: is required and not set"),
        (["--oidc", "good.yaml"], "good.yaml: client_secret: the environment variable NOT_SET"),
        (["--proxy", "10.0.0.0/99"], "--proxy '10.0.0.0/99': is no address or network"),
        (["token", "--name", "a", "--role", "chief"], "--role 'chief': is none; use one of viewer"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOT_SET", raising=False)
    text = "issuer: https://sso.example.com\nurl: https://vila.example.com\n"
    (tmp_path / "bad.yaml").write_text(text)
    more = "client_id: x\nclient_secret: {env: NOT_SET}\nroles: {default: viewer}\n"
    (tmp_path / "good.yaml").write_text(text + more)
    done = CliRunner().invoke(app, ["dashboard", *words])
    assert isinstance(done.exception, UserError)
    assert done.exception.exit_code == 2
    assert said in str(done.exception)


def test_a_provider_alone_is_enough() -> None:
    check_host("0.0.0.0", guarded=True, ways="--oidc FILE")
    check_host("127.0.0.1", guarded=False, ways="--oidc FILE")


def test_the_audit_log(store: Store) -> None:
    audit = Audit(store)
    for number in range(3):
        audit.add(event(number))
    audit.close()
    words = ["dashboard", "audit", "--store", store.uri]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.output) == (0, "3 entries, every chain is whole\n")
    done = CliRunner().invoke(app, [*words, "--last", "2"])
    assert [line.partition('"what":"')[2][:11] for line in done.stdout.splitlines()] == [
        "miniature@1",
        "miniature@2",
    ]
    (key,) = store.list(FOLDER)
    store.write(key, store.read(key).replace(b'"ada"', b'"eve"', 1))
    done = CliRunner().invoke(app, words)
    assert "was changed" in done.output
    assert isinstance(done.exception, VilaError)
    assert done.exception.exit_code == 1
    assert "not whole: 1 findings in 3 entries" in str(done.exception)
