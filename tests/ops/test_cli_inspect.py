"""`vila data inspect`: the page tells the truth about the data, and needs nothing else."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.ops.test_cli_prepare import config, vila, write_config
from vila_core.data.corpus import Corpus
from vila_core.data.encode import IGNORE, Encoder
from vila_core.data.tokenizer import load_tokenizer
from vila_core.errors import UserError
from vila_ops.data.charts import draw, histogram
from vila_ops.data.inspect import inspect

__all__ = ["config"]


class Balanced(HTMLParser):
    """Fails on tags that don't match; collects what a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def prepared(config: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    vila("data", "prepare", config, "--to", out, "--json")
    return out


def test_the_page_is_whole_and_loads_nothing(prepared: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert "written:" in vila("data", "inspect", prepared, "--to", page, "--samples", 5)
    text = page.read_text()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert all(load.startswith(("data:image/", "#")) for load in parser.loads)
    assert "300 records read" in text
    assert "set aside: missing image" in text
    assert "docs.jsonl:96" in text
    assert text.count("<article>") == 5
    vila("data", "inspect", prepared, "--to", tmp_path / "again.html", "--samples", 5)
    assert (tmp_path / "again.html").read_text() == text


def test_samples_are_shown_with_their_own_images_and_loss(prepared: Path) -> None:
    (facts,) = inspect(prepared, samples=20)
    corpus = Corpus.open(prepared / "corpora/mmc4")
    encoder = Encoder(load_tokenizer(prepared / "tokenizer"), "plain", 0, 1)
    assert len(facts.gallery) == 20
    for shown in facts.gallery:
        sample = corpus.read(corpus.find(shown.key))
        image, *rest = shown.runs
        data = base64.b64decode(image.image.partition(",")[2])
        with Image.open(io.BytesIO(data)) as seen, Image.open(io.BytesIO(sample.images[0])) as own:
            assert np.array_equal(np.asarray(seen.convert("RGB")), np.asarray(own.convert("RGB")))
        encoded = encoder.encode(sample)
        assert shown.supervised == encoded.num_supervised
        loss = "".join(run.text or "" for run in rest if run.loss)
        kept = encoded.input_ids[encoded.labels != IGNORE]
        assert encoder.tokenizer.decode(kept.tolist()).replace(" ", "") == loss.replace(" ", "")


def test_the_first_word_of_a_text_bears_no_loss(config: Path, tmp_path: Path) -> None:
    (tmp_path / "mmc4/docs.jsonl").write_text('{"text_list": ["red", "blue"], "image_info": []}\n')
    write_config(tmp_path)
    vila("data", "prepare", config, "--to", tmp_path / "out", "--json")
    (facts,) = inspect(tmp_path / "out")
    (shown,) = facts.gallery
    assert [(run.text, run.loss) for run in shown.runs] == [("red", False), (" blue</s>", True)]


def test_text_of_a_corpus_can_not_break_the_page(config: Path, tmp_path: Path) -> None:
    row = '{"text_list": ["red <script>alert(1)</script> </div>"], "image_info": []}\n'
    (tmp_path / "mmc4/docs.jsonl").write_text(row)
    vila("data", "prepare", config, "--to", tmp_path / "out", "--json")
    vila("data", "inspect", tmp_path / "out", "--to", tmp_path / "page.html")
    assert "<script" not in (tmp_path / "page.html").read_text()


def test_what_is_no_prepared_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no prepared corpus"):
        vila("data", "inspect", tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        vila("data", "inspect", tmp_path / "none")


@pytest.mark.parametrize(
    "values", [np.arange(500), np.array([3, 3, 4]), np.linspace(0.1, 0.2, 50), np.array([7])]
)
def test_histograms_count_every_value(values: np.ndarray) -> None:
    chart = histogram("lengths", "tokens", values)
    assert chart
    assert chart.counts.sum() == len(values)
    if len(chart.counts) > 1:
        counts = [int(count) for count in re.findall(r": (\d+)</title>", draw(chart))]
        assert sum(counts) == len(values)
