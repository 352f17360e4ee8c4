"""Formats of the user's own: found by place, run in other processes, and their mistakes told."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.make import write_lines
from vila_core.config import validate
from vila_core.data.readers import READERS, code_file, reader_of
from vila_core.data.sample import Sample
from vila_core.data.work import CorpusSource
from vila_core.errors import UserError
from vila_core.stages import prepare

CODE = """
from pydantic import Field
from vila_core.data.readers import Reader
from vila_core.data.readers.common import Options
from vila_core.data.sample import Text, make_sample

class Own(Options):
    field: str = Field(default="t", description="where the text is")

class Converter:
    def __init__(self, path, images, options):
        self.field = options.field

    def __call__(self, key, record):
        if record.get("none"):
            return []
        return make_sample(key, "text-only", [Text(record[self.field])], [])

READER = Reader(Converter, Own, "plain")
THING = 3
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "own format.py"
    path.write_text(CODE)
    return path


def test_a_file_is_a_format(code: Path, tmp_path: Path) -> None:
    reader = reader_of(f"{code}:READER")
    path = write_lines(tmp_path / "a.jsonl", [{"t": "one"}, {"none": True}])
    one, none = reader.read(path, corpus="own")
    assert isinstance(one, Sample)
    assert not isinstance(none, Sample)
    assert none.reason == "no sample"
    assert code_file(f"{code}:READER") == code
    assert code_file("mmc4") is None


def test_a_module_is_a_format(code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "corpora.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert reader_of("package.corpora:READER").template == "plain"
    assert code_file("package.corpora:READER") == tmp_path / "package" / "corpora.py"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("coco", "format 'coco' is unknown; known are mmc4, coyo"),
        ("{code}:OTHER", "defines no OTHER; it has READER, THING"),
        ("{code}:THING", "is int, expected a Reader"),
        ("{code}:", "expected my_package"),
        (":READER", "expected my_package"),
        ("{folder}/none.py:READER", "none.py is no file"),
        ("{folder}/broken.py:READER", "broken.py can't be run: SyntaxError"),
        ("{folder}/raising.py:READER", "can't be run: ModuleNotFoundError: No module named 'no_'"),
        ("no_such.module:READER", "can't be imported: ModuleNotFoundError"),
    ],
)
def test_places_without_a_format(code: Path, tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "raising.py").write_text("import no_")
    name = place.format(code=code, folder=tmp_path)
    with pytest.raises(UserError) as caught:
        reader_of(name)
    assert message in str(caught.value)
    corpus = {"name": "a", "format": name, "path": "x"}
    values = {"source": "corpora", "tokenizer": "t", "corpora": [corpus]}
    with pytest.raises(UserError, match=r"prepare\.corpora\.0\.format"):
        validate(prepare.Config, values, where="test.yaml", path="prepare")


def test_mistakes_are_told_with_record_and_line(code: Path, tmp_path: Path) -> None:
    reader = reader_of(f"{code}:READER")
    for record, error in (({"x": 1}, "KeyError: 't'"), ({"t": 3}, "TypeError: the text of a")):
        path = write_lines(tmp_path / "a.jsonl", [record])
        with pytest.raises(UserError) as caught:
            list(reader.read(path, corpus="own"))
        assert f"it failed on the record of own/a/000000: {error}" in str(caught.value)
    path = write_lines(tmp_path / "a.jsonl", [{"x": 1}])
    with pytest.raises(UserError, match=r"own format\.py:17, in __call__"):
        list(reader.read(path, corpus="own"))


def test_a_format_and_its_options_travel_to_another_process(code: Path, tmp_path: Path) -> None:
    name = f"{code}:READER"
    options = reader_of(name).options.model_validate({"field": "q"})
    source = CorpusSource("own", name, tmp_path, None, "plain", options)
    (tmp_path / "source").write_bytes(pickle.dumps(source))
    script = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).options.field)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "source")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "q\n"


def test_the_format_is_an_input_of_prepare(code: Path) -> None:
    corpus = {"name": "a", "format": f"{code}:READER", "path": "/data/x", "options": {"field": "q"}}
    values = {"source": "corpora", "tokenizer": "/data/t", "corpora": [corpus]}
    config = validate(prepare.Config, values, where="test.yaml", path="prepare")
    assert code in config.outside()
    corpus["format"] = "prepared"
    corpus["options"] = {}
    with pytest.raises(UserError, match="has samples of any kind: set `template`"):
        validate(prepare.Config, values, where="test.yaml", path="prepare")
    assert READERS["prepared"].template == ""
