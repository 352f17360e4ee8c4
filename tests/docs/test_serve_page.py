"""What the page on serving shows is what the program takes; its examples are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from page_commands import ROOT, commands
from typer.testing import CliRunner

from vila_core.miniature.words import build_tokenizer
from vila_core.model import VilaProcessor, build_preset, load_preset, save
from vila_ops.cli.main import app
from vila_ops.serving import request
from vila_ops.serving.figures import Figures

PAGE = ROOT / "docs" / "how-to" / "serve.md"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)
    assert found is not None
    return found.group(1)


def test_the_options_of_the_page_are_those_of_the_command() -> None:
    text = PAGE.read_text()
    known = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    for option in set(re.findall(r"(?<=[ `])--[a-z-]+", text)) - {"--data", "--name", "--file"}:
        if option not in ("--from-file",):
            assert option in known, option
    assert any(command.startswith("vila serve") for command in commands(PAGE))


def test_the_parameters_of_the_page_are_those_of_the_endpoint() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", PAGE.read_text(), re.M)
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    known = {*request.ChatRequest.model_fields, *request.IGNORED, *request.NEUTRAL}
    assert named <= known
    assert set(request.ChatRequest.model_fields) <= named | {"stream_options"}


def test_the_figures_of_the_page_are_there() -> None:
    text = PAGE.read_text()
    part = text[text.index("`/metrics`") : text.index("The log has a")]
    figures = "".join(Figures().lines()) + "vila_serve_queue_length vila_serve_running"
    names = re.findall(r"`(?:vila_serve)?(_[a-z_]+)`", part)
    assert len(names) >= 12
    for name in names:
        assert f"vila_serve{name}" in figures


def test_the_objects_of_the_page_are_well_formed() -> None:
    deployment, service = yaml.safe_load_all(block("yaml"))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    command = deployment["spec"]["template"]["spec"]["containers"][0]["command"]
    grace = int(command[command.index("--grace") + 1])
    assert grace < deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.slow
def test_the_examples_of_the_page_work(tmp_path: Path) -> None:
    folder = tmp_path / "miniature@candidate"
    half = (0.5, 0.5, 0.5)
    processor = VilaProcessor(
        build_tokenizer(), image_size=32, tokens_per_image=4, mean=half, std=half
    )
    save(build_preset(load_preset("miniature")).eval(), processor, folder)
    words = ["serve", str(folder), "--port", "0", "--template", "miniature"]
    with subprocess.Popen(
        [sys.executable, "-m", "vila_ops.cli.main", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
            assert found is not None
            assert "is loaded" in server.stdout.readline()

            def run(*command: str, text: str) -> str:
                done = subprocess.run(
                    command,
                    input=text.replace("http://127.0.0.1:8000", found.group()),
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                )
                assert done.returncode == 0, done.stderr
                return done.stdout

            assert '"object":"chat.completion"' in run("bash", text=block("bash"))
            said = run(sys.executable, "-", text=block("python"))
            assert set(said.split()) <= set(processor.tokenizer.get_vocab())
        finally:
            server.terminate()
