"""What holds for every benchmark of answers and captions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.eval.benchmarks.ends import answered, ask, shown
from tests.eval.benchmarks.samples_vqa import MAKERS
from vila_core.errors import UserError
from vila_core.eval.benchmark import Options, benchmark
from vila_core.eval.fewshot import Demonstrator
from vila_core.eval.files import Files, StoredImage, read_image
from vila_core.eval.prompts import chat_prompt, plain_prompt

NAMES = sorted(MAKERS)
every = pytest.mark.parametrize("name", NAMES)


@every
def test_from_files_to_metrics_and_submission(name: str, tmp_path: Path) -> None:
    chosen = benchmark(name)
    MAKERS[name](tmp_path)
    files = Files(tmp_path)
    questions = chosen.read(files, Options(chosen.splits[0]))
    run = answered(name, questions, lambda question: question.case.answer or "yes")
    assert len(run.grades) == len(questions)
    public = any(question.references for question in questions)
    assert (chosen.headline in run.metrics) == public
    assert bool(run.files) == (chosen.submission is not None)
    assert files.digests  # of every annotation file, for the result
    for question in questions:
        read_image_of = [part for part in question.case.parts if not isinstance(part, str)]
        assert all(read_image(image) for image in read_image_of)


@every
def test_what_was_never_said_is_graded_too(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    chosen = benchmark(name)
    local = next(split for split in chosen.splits if "test" not in split or name in _PUBLIC_TEST)
    questions = ask(name, tmp_path, local)
    replies = ("", "\x00\x1b[0m\ufffd", "word " * 4000)
    said = {question.key: replies[n % 3] for n, question in enumerate(questions)}
    run = answered(name, questions, lambda question: said[question.key])
    assert len(questions) >= 3
    assert 0.0 <= run.metrics[chosen.headline] < 0.1
    json.dumps(run.metrics, allow_nan=False)


_PUBLIC_TEST = {"scienceqa", "coco_caption", "flickr30k"}
_UNWRITTEN = {  # splits that the samples leave empty
    "scienceqa": {"minival"},
    "coco_caption": {"val", "train2014"},
    "flickr30k": {"val"},
}


@every
def test_demonstrations_come_from_train(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    chosen = benchmark(name)
    assert chosen.train_split
    for layout in ("chat", "plain"):
        train = ask(name, tmp_path, chosen.train_split, layout=layout)
        questions = ask(name, tmp_path, layout=layout)[:1]
        assert all(each.case.answer for each in train)
        demos = Demonstrator(train).demonstrations(questions, 2)[0]
        if layout == "chat":
            prompt = chat_prompt(questions[0].case, demos)
            assert [turn.answer for turn in prompt.turns] == [
                *(demo.answer for demo in demos),
                None,
            ]
        else:
            prompt = plain_prompt(questions[0].case, demos, chosen.plain_stop)
            first = prompt.text.split("\n<image>")[0]
            assert first.endswith(f": {demos[0].answer}")
            assert prompt.text.endswith(shown(questions[0]))
        assert len(prompt.images) == 3


@every
def test_all_splits_but_the_servers_are_read(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    for split in set(benchmark(name).splits) - _UNWRITTEN.get(name, set()):
        assert ask(name, tmp_path, split), split


@every
def test_files_may_lie_in_a_store(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    uri = tmp_path.as_uri()
    chosen = benchmark(name)
    questions = chosen.read(Files(uri), Options(chosen.splits[0]))
    here = ask(name, tmp_path)
    assert [(q.key, shown(q), q.references) for q in questions] == [
        (q.key, shown(q), q.references) for q in here
    ]
    image = next(part for part in questions[0].case.parts if not isinstance(part, str))
    assert isinstance(image, StoredImage)
    assert read_image(image) == read_image(here[0].case.parts[0])  # type: ignore[arg-type]


@every
def test_mistakes_are_told_in_one_line(name: str, tmp_path: Path) -> None:
    chosen = benchmark(name)
    with pytest.raises(UserError, match=f"{name} has no split 'dev'; its splits: ") as caught:
        ask(name, tmp_path, "dev")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"the annotation file .* is missing; put the official"):
        ask(name, tmp_path)
    MAKERS[name](tmp_path)
    for path in [*tmp_path.rglob("*.jpg"), *tmp_path.rglob("*.png")]:
        path.unlink()
    with pytest.raises(UserError, match=r"there is no image .*; put the official images there"):
        ask(name, tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_text("{")
    with pytest.raises(UserError, match=r"json:1: not valid JSON: .*; download the file again"):
        ask(name, tmp_path)
    assert chosen.source in str(_missing(name, tmp_path))


def _missing(name: str, folder: Path) -> UserError:
    shutil.rmtree(folder)
    with pytest.raises(UserError) as caught:
        ask(name, folder)
    return caught.value


def test_nothing_heavy_is_imported() -> None:
    modules = ", ".join(f"vila_core.eval.benchmarks.{name}" for name in NAMES)
    heavy = ["torch", "transformers", "pycocoevalcap", "nltk", "pyarrow", "PIL"]
    check = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
