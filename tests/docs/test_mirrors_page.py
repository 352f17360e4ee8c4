"""The page on webhooks and mirrors: its file is read, its receiver verifies what we send."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from page_commands import ROOT, commands
from typer.testing import CliRunner

from components.registry import HistoryEntry
from tests.mirrors.receivers import receiving
from vila_ops.cli.main import app
from vila_ops.registry.mirror_settings import HuggingFace, Wandb, Webhook, read_settings
from vila_ops.registry.outbox import FIRST_WAIT_S, LONGEST_WAIT_S, MOST_REFUSALS
from vila_ops.registry.webhooks import event, post, secret_key

PAGE = ROOT / "docs" / "how-to" / "registry-mirrors.md"


def block(kind: str, name: str) -> str:
    found = re.findall(rf"```{kind}\n# {re.escape(name)}\n(.*?)```", PAGE.read_text(), re.S)
    assert len(found) == 1
    return found[0]


def test_the_file_of_the_page_is_read(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(block("yaml", "registry.yaml"))
    kinds = [type(target) for _, target in read_settings(path).targets()]
    assert kinds == [Webhook, Wandb, HuggingFace]


def test_the_keys_of_the_page_are_those_of_the_file() -> None:
    told = {"webhooks": set(), "wandb": set(), "huggingface": set()}
    for names, whose in re.findall(r"^\| (`[^|]+`) \| (\w+) \|", PAGE.read_text(), re.M):
        for kind in told if whose == "all" else [whose]:
            told[kind] |= set(re.findall(r"`(\w+)`", names))
    for kind, model in (("webhooks", Webhook), ("wandb", Wandb), ("huggingface", HuggingFace)):
        assert told[kind] == set(model.model_fields)


def test_the_receiver_of_the_page_verifies_what_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("secret.py", "verify.py"):
        (tmp_path / name).write_text(block("python", name))
    made = subprocess.run(
        [sys.executable, tmp_path / "secret.py"], capture_output=True, text=True, check=True
    )
    secret = made.stdout.strip()
    assert 24 <= len(secret_key(secret)) <= 64
    verify = runpy.run_path(str(tmp_path / "verify.py"))["verify"]
    monkeypatch.setenv("PAGE_SECRET", secret)
    entry = HistoryEntry(1, "promote", 1, "champion", None, "me", "2026-11-29T10:00:00Z", "x")
    with receiving() as receiver:
        hook = Webhook.model_validate(
            {"url": receiver.url, "secret": {"env": "PAGE_SECRET"}, "allow_http": True,
             "allow_private": True}
        )  # fmt: skip
        post(hook, "deploy", "mini", entry)
    body, headers = receiver.bodies[0], receiver.headers[0]
    assert verify(secret, headers, body)
    assert not verify(secret, headers, body.replace(b"mini", b"maxi"))
    assert not verify("whsec_" + "A" * 32, headers, body)
    assert not verify(secret, {**headers, "webhook-timestamp": "1000000000"}, body)


def test_what_the_page_says_of_bodies_and_waits_is_so() -> None:
    text = PAGE.read_text()
    entry = HistoryEntry(1, "promote", 1, "champion", None, "me", "2026-11-29T10:00:00Z", "x")
    data = event("mini", entry)["data"]
    told = re.search(r"`data` with (.*?), the digest", text, re.S)
    assert told
    assert set(re.findall(r"`(\w+)`", told.group(1))) <= set(data)
    assert (FIRST_WAIT_S, LONGEST_WAIT_S, MOST_REFUSALS) == (10, 3600, 10)


@pytest.mark.parametrize("page", ["registry-mirrors.md", "use-a-version-elsewhere.md"])
def test_the_options_of_the_pages_are_those_of_the_commands(page: str) -> None:
    found = 0
    for command in commands(ROOT / "docs" / "how-to" / page):
        if command.startswith("vila "):
            words = [word for word in command.split()[1:3] if re.fullmatch("[a-z]+", word)]
            words = words if words[0] == "registry" else words[:1]
            help_text = CliRunner().invoke(app, [*words, "--help"], terminal_width=200).output
            for option in re.findall(r" (--[a-z-]+)", command):
                assert option in help_text, command
            found += 1
    assert found >= 3
