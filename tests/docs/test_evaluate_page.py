"""What the page on `vila eval` shows is what the program takes; its example runs as it stands."""

import re
import shlex
from pathlib import Path

import pytest
from page_commands import ROOT, commands
from typer.testing import CliRunner

from vila_core.eval.benchmark import benchmark
from vila_core.stages.benchmark import Config
from vila_ops.cli.main import app

PAGE = ROOT / "docs" / "how-to" / "evaluate.md"


def test_the_settings_of_the_page_are_those_of_the_stage():
    for key in re.findall(r"--set ([a-z_.0-9]+)=", PAGE.read_text()):
        head, _, rest = key.partition(".")
        if head == "demos":
            assert rest in type(Config.model_fields["demos"].default).model_fields
        elif rest:
            assert benchmark(head)
            assert rest in Config.model_fields
        else:
            assert head in Config.model_fields


def test_the_options_of_the_page_are_those_of_the_command():
    help_text = CliRunner().invoke(app, ["eval", "--help"]).output
    for command in commands(PAGE):
        if command.startswith("vila eval"):
            for option in re.findall(r"--[a-z-]+", command):
                assert option in help_text


@pytest.mark.slow
def test_the_example_of_the_page_works(tmp_path: Path):
    from tests.eval.tiny import write_tiny_vila

    model = write_tiny_vila(tmp_path / "vila")
    found = [one for one in commands(PAGE) if "examples/benchmarks" in one]
    assert len(found) == 1
    program, *arguments = shlex.split(found[0].replace("MODEL", str(model)))
    assert program == "vila"
    arguments = [one.replace("examples", str(ROOT / "examples")) for one in arguments]
    store = ["--store", str(tmp_path / "store"), "--runner", "inline"]
    done = CliRunner().invoke(app, [*arguments, *store])
    assert done.exit_code == 0, done.output
    header = next(line for line in PAGE.read_text().splitlines() if "95% interval  q" in line)
    assert header.split() == next(x for x in done.output.splitlines() if "interval" in x).split()
