"""What is read of the official files of the choice benchmarks, and how it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from tests.eval.benchmarks import samples_choice as samples
from vila_core.eval.benchmark import Benchmark, Options, Question, benchmark
from vila_core.eval.files import Files, read_image
from vila_core.eval.prompts import chat_prompt, plain_prompt, render

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def read(
    name: str,
    place: Path | str,
    split: str | None = None,
    layout: Literal["chat", "plain"] = "chat",
) -> tuple[Benchmark, list[Question]]:
    bench = benchmark(name)
    options = Options(split or bench.splits[0], layout=layout)
    return bench, bench.read(Files(place, bench.source), options)


def asked(question: Question) -> str:
    return chat_prompt(question.case, (), question.where).turns[-1].user


def shown(question: Question) -> list[bytes]:
    return [read_image(image) for image in render(question.case)[1]]


@pytest.mark.parametrize("name", samples.MAKERS)
def test_a_folder_and_a_store_give_the_same_questions(name: str, tmp_path: Path) -> None:
    samples.MAKERS[name](tmp_path)
    bench, questions = read(name, tmp_path)
    _, stored = read(name, tmp_path.as_uri())
    assert [q.key for q in questions] == [q.key for q in stored]
    assert [asked(q) for q in questions] == [asked(q) for q in stored]
    assert [shown(q) for q in questions] == [shown(q) for q in stored]
    assert all(shown(q) for q in questions)
    assert (bench.name, bench.judged) == (name, bench.rubric is not None)


@pytest.mark.parametrize("name", samples.MAKERS)
def test_only_annotation_files_are_digested(name: str, tmp_path: Path) -> None:
    samples.MAKERS[name](tmp_path)
    bench = benchmark(name)
    files = Files(tmp_path)
    bench.read(files, Options(bench.splits[0]))
    assert files.digests
    assert not [each for each in files.digests if each.endswith((".png", ".jpg"))]


def test_pope_asks_three_times_about_each_image(tmp_path: Path) -> None:
    samples.make_pope(tmp_path)
    _, questions = read("pope", tmp_path)
    assert [q.key for q in questions[:5]] == [*(f"random/{n}" for n in range(1, 5)), "popular/1"]
    assert asked(questions[1]) == f"<image>\nIs there a kite in the image?\n{SHORT}"
    assert {q.unit for q in questions} == {
        "COCO_val2014_000000310196.jpg",
        "COCO_val2014_000000210789.jpg",
    }
    _, popular = read("pope", tmp_path, "popular")
    assert [q.type for q in popular] == ["popular"] * 4


def test_mme_replaces_its_own_suffix_and_pairs_questions(tmp_path: Path) -> None:
    samples.make_mme(tmp_path)
    _, questions = read("mme", tmp_path)
    assert len(questions) == 14 * 2 * 2
    assert questions[0].key == "existence/0001.png/1"
    assert asked(questions[0]) == f"<image>\nIs this existence red?\n{SHORT}"
    assert questions[0].unit == questions[1].unit != questions[2].unit
    assert next(q for q in questions if q.type == "scene").key == "scene/0001.jpg/1"


def test_mmbench_keeps_a_question_with_its_rotations(tmp_path: Path) -> None:
    samples.make_mmbench(tmp_path)
    _, questions = read("mmbench", tmp_path)
    assert [q.key for q in questions] == ["241", "1000241", "2000241", "3000241", "252", "1000252"]
    assert [q.references[0] for q in questions] == ["A", "D", "C", "B", "B", "A"]
    assert len({id(render(q.case)[1][0]) for q in questions}) == 2  # copies share their image
    assert asked(questions[0]) == (
        f"<image>\nWhich color is it?\nA. red\nB. green\nC. blue\nD. black\n{LETTER}"
    )
    assert asked(questions[4]) == (
        f"<image>\nThe sky is shown.\nIs it day?\nA. yes\nB. no\n{LETTER}"
    )


def test_mmbench_finds_an_image_that_another_row_has(tmp_path: Path) -> None:
    samples.make_mmbench(tmp_path)
    path = tmp_path / "mmbench_dev_20230712.tsv"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    for row in rows[3:]:
        row[9] = str(int(row[0]) % 1_000_000)
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    _, questions = read("mmbench", tmp_path)
    assert shown(questions[1]) == [samples.picture("red")]
    assert shown(questions[5]) == [samples.picture("green")]


def test_mmbench_cn_asks_for_the_letter_in_chinese(tmp_path: Path) -> None:
    samples.make_mmbench_cn(tmp_path)
    _, questions = read("mmbench_cn", tmp_path)
    assert asked(questions[0]).endswith("\nD. black\n请直接回答选项字母。")


def test_seed_shows_the_middle_frame_of_a_video(tmp_path: Path) -> None:
    samples.make_seed(tmp_path)
    _, questions = read("seed", tmp_path)
    assert [q.key for q in questions] == ["101669", "101670", "v1738"]
    assert [q.type for q in questions] == ["instances_counting"] * 2 + ["action_recognition"]
    assert shown(questions[2]) == [(tmp_path / "SEED-Bench-video-image/10_v1738.png").read_bytes()]
    assert asked(questions[0]) == (
        "<image>\nHow many towels are in 1454426_2591111986?\nA. One\nB. Two\nC. Three\nD. Four\n"
        + LETTER
    )
    _, images = read("seed", tmp_path, "image")
    assert [q.key for q in images] == ["101669", "101670"]


def test_mmmu_shows_images_in_the_order_in_which_the_text_names_them(tmp_path: Path) -> None:
    samples.make_mmmu(tmp_path)
    _, questions = read("mmmu", tmp_path)
    assert len(questions) == 60
    choice, opened = questions[:2]
    assert (choice.key, choice.type) == ("validation_Accounting_1", "Accounting")
    assert shown(choice) == [samples.picture("blue"), samples.picture("red")]
    assert asked(choice) == (
        "<image>\n<image>\nCompare  to the drawing. Which is it?\n\n"
        f'(A) \n(B) neither\n(C) the "left" one\n\n\n{LETTER}'
    )
    assert asked(opened) == f"<image>\nHow long is it? \n\n{SHORT}"
    assert opened.references == ("1.5", "one and a half")


def test_mmmu_as_json_lines_is_the_same(tmp_path: Path) -> None:
    samples.make_mmmu(tmp_path, ("validation",))
    _, parquet = read("mmmu", tmp_path)
    for path in sorted(tmp_path.glob("*/*.parquet")):
        subject = path.parent.name
        rows = samples.mmmu_rows(subject, "validation")
        for row in rows:
            for name, cell in row.items():
                if isinstance(cell, dict):
                    (path.parent / cell["path"]).write_bytes(cell["bytes"])
                    row[name] = cell["path"]
        samples.write_lines(path.parent / "validation.jsonl", rows)
        path.unlink()
    _, lines = read("mmmu", tmp_path)
    assert [asked(q) for q in lines] == [asked(q) for q in parquet]
    assert [shown(q) for q in lines] == [shown(q) for q in parquet]


def test_nlvr2_shows_left_before_right_and_finds_training_folders(tmp_path: Path) -> None:
    samples.make_nlvr2(tmp_path)
    _, questions = read("nlvr2", tmp_path)
    assert shown(questions[1]) == [samples.picture("red"), samples.picture("blue")]
    assert asked(questions[1]) == (
        "<image>\n<image>\nBoth images are red.\nIs this statement about the two images, the left "
        f"one first, true or false?\n{SHORT}"
    )
    _, train = read("nlvr2", tmp_path, "train")
    assert shown(train[0]) == [samples.picture("green"), samples.picture("yellow")]


def test_blink_shows_one_to_four_images_in_order(tmp_path: Path) -> None:
    samples.make_blink(tmp_path)
    _, questions = read("blink", tmp_path)
    assert len(questions) == 28
    assert shown(questions[0]) == [samples.picture(color) for color in ("red", "green", "blue")]
    assert asked(questions[0]) == (
        "<image>\n<image>\n<image>\nWhich one is like the first?\nSelect from the following "
        f"choices.\n(A) the second image\n(B) the third image\n{LETTER}"
    )
    assert len(shown(questions[1])) == 1


@pytest.mark.parametrize(
    ("name", "split"), [("mmbench", "test"), ("mmmu", "test"), ("blink", "test")]
)
def test_hidden_answers_give_no_score_but_a_submission(
    name: str, split: str, tmp_path: Path
) -> None:
    if name == "mmbench":
        samples.make_mmbench(tmp_path, "mmbench_test_en_20231003.tsv", "test")
    elif name == "mmmu":
        samples.make_mmmu(tmp_path, ("test",))
    else:
        samples.make_blink(tmp_path, "test")
    bench, questions = read(name, tmp_path, "test")
    answers = ["B"] * len(questions)
    grades = bench.grade(questions, answers)
    assert {grade.score for grade in grades} == {None}
    assert bench.metrics(questions, grades) == {}
    assert bench.submission is not None
    assert all(bench.submission(questions, answers).values())


def test_mmmu_takes_an_interval_for_one_answer_and_a_list_for_several(tmp_path: Path) -> None:
    samples.make_mmmu(tmp_path)
    (tmp_path / "answer_dict_val.json").unlink()
    rows = samples.mmmu_rows("Art", "validation")
    rows[0]["answer"], rows[1]["answer"] = "['A', 'C']", "[0, 1]"
    samples.write_parquet(tmp_path / "Art" / "validation-00000-of-00001.parquet", rows)
    bench, questions = read("mmmu", tmp_path)
    choice, opened = (q for q in questions if q.type == "Art")
    assert choice.references == ("A", "C")
    assert opened.references == ("[0, 1]",)
    graded = bench.grade([choice, choice, opened], ["C", "B", "The interval is [0, 1]"])
    assert [grade.score for grade in graded] == [1.0, 0.0, 1.0]


PLAIN = {
    "pope": "<image>Question:Is there a dog in the image? Short answer:",
    "mme": "<image>Question:Is this existence red? Short answer:",
    "mmbench": "<image>\nWhich color is it?\nA. red\nB. green\nC. blue\nD. black\nAnswer:",
    "mmbench_cn": "<image>\nWhich color is it?\nA. red\nB. green\nC. blue\nD. black\nAnswer:",
    "seed": (
        "<image>\nHow many towels are in 1454426_2591111986?\nA. One\nB. Two\nC. Three\nD. Four\n"
        "Answer:"
    ),
    "mmmu": (
        "<image>\n<image>\nCompare  to the drawing. Which is it?\n\n"
        '(A) \n(B) neither\n(C) the "left" one\n\n\nAnswer:'
    ),
    "nlvr2": (
        "<image><image>Question:Both images are red.\nIs this statement about the two images, the "
        "left one first, true or false? Short answer:"
    ),
    "blink": (
        "<image>\n<image>\n<image>\nWhich one is like the first?\nSelect from the following "
        "choices.\n(A) the second image\n(B) the third image\nAnswer:"
    ),
    "llava_bench": "<image>Question:Question 0? Answer:",
    "mm_vet": "<image>Question:What is x in the equation? Answer:",
}


@pytest.mark.parametrize("name", samples.MAKERS)
def test_the_plain_layout_goes_on_as_a_document_does(name: str, tmp_path: Path) -> None:
    samples.MAKERS[name](tmp_path)
    bench, questions = read(name, tmp_path, layout="plain")
    prompt = plain_prompt(questions[0].case, (), bench.plain_stop)
    assert prompt.text == PLAIN[name]
    _, chat = read(name, tmp_path)
    assert [shown(q) for q in questions] == [shown(q) for q in chat]


def test_plain_answers_end_where_the_model_writes_the_next_example(tmp_path: Path) -> None:
    samples.make_pope(tmp_path)
    bench, questions = read("pope", tmp_path, layout="plain")
    answers = [" yes Question:Is it not"] * len(questions)
    assert {grade.parsed for grade in bench.grade(questions, answers)} == {"yes"}
