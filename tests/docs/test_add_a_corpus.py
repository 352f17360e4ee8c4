"""The how-to page on new corpora: its files are written as they stand there, and prepared."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from page_commands import ROOT, commands

from tests.data.make import picture, write_images
from vila_core.data.readers import reader_of
from vila_core.data.sample import Image, Sample, Text
from vila_core.miniature.words import build_tokenizer

PAGE = ROOT / "docs" / "how-to" / "add-a-corpus.md"


def blocks() -> dict[str, str]:
    """Return the page's files by the name that the text before each gives, and the last snippet."""
    text = PAGE.read_text()
    found: dict[str, str] = {}
    for match in re.finditer(r"```(python|json|yaml)\n(.*?)```", text, re.S):
        named = re.findall(r"[Ss]ave (?:this|them) as\s+`([^`]+)`", text[: match.start()])
        name = "snippet" if named[-1] in found else named[-1]
        found[name] = match[2]
    return found


def run(folder: Path, *arguments: str) -> str:
    paths = os.pathsep.join((str(ROOT), str(folder)))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A folder with the page's files, its photos and a tokenizer."""
    for name, content in blocks().items():
        (tmp_path / name).write_text(content)
    write_images(tmp_path / "images", {"1.jpg": picture(form="JPEG"), "2.jpg": picture()})
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def test_the_page_has_its_files() -> None:
    names = ["cooking.py", "cooking.jsonl", "cooking.yaml", "snippet", "table.py"]
    assert list(blocks()) == names


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_says(page: Path) -> None:
    (command,) = commands(PAGE)
    program, *arguments = shlex.split(command)
    assert program == "vila"
    run(page, "-m", "vila_ops.cli.main", *arguments)
    report = json.loads((page / "prepared" / "report.json").read_text())["corpora"]["cooking"]
    assert (report["read"], report["kept"]) == (3, 1)
    lines = (page / "prepared" / "set_aside.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    told = [f"{row['where']} {row['group']} {row['reason']}: {row['detail']}" for row in rows]
    assert "\n".join(told) in PAGE.read_text()
    printed = run(page, "snippet")
    assert printed.count("Sample(") == 1
    assert printed.count("SetAside(") == 2


def test_the_formats_of_the_page(page: Path) -> None:
    reader = reader_of(f"{page / 'cooking.py'}:READER")
    rows = list(reader.read(page / "cooking.jsonl", corpus="cooking"))
    pancakes = rows[0]
    assert isinstance(pancakes, Sample)
    assert pancakes.parts == (Text("Pancakes"), Image(0), Text("Mix. Fry. Turn."))
    licences = [row.meta["licence"] for row in rows if isinstance(row, Sample)]
    assert licences == ["CC0-1.0", "CC-BY-4.0"]
    (page / "b.csv").write_text("file,caption\n1.jpg, one \n9.jpg,none\n")
    (page / "a.csv").write_text("file,caption\n2.jpg,two\n")
    two, one, missing = reader_of(f"{page / 'table.py'}:READER").read(page, corpus="table")
    assert isinstance(two, Sample)
    assert isinstance(one, Sample)
    assert (two.key, one.key) == ("table/a/000000", "table/b/000000")
    assert one.parts == (Image(0), Text("one"))
    assert not isinstance(missing, Sample)
    assert missing.where == "b.csv row 1"
