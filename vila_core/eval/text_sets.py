"""MMLU, BBH and DROP: their official files as the rows that lm-evaluation-harness's tasks read."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.files import Files

Row = dict[str, Any]
Rows = Mapping[str, list[Row]]
"""The rows of a task by split: `test` or `validation`, and where demonstrations come from."""


@dataclass(frozen=True)
class TextSet:
    """A text benchmark. `version` is of what is read, asked and scored: any change bumps it."""

    name: str
    title: str
    version: str
    source: str
    files: str  # what lies where, in words
    folder: str  # of the task definitions, below lm-evaluation-harness's `tasks`
    prefix: str  # of its task names; the rest is a subject
    subjects: bool  # whether there are several tasks
    shots: int  # where the config says nothing
    most_shots: int | None  # demonstrations there are; None: the training split's
    split: str  # that is asked
    metrics: Mapping[str, str]  # our names by the harness's
    headline: str
    ranked: bool  # whether options are ranked by likelihood; else answers are generated
    read: Callable[[Files, str, bool], Rows]
    """Reads a subject's rows; the last argument says whether demonstrations are wanted."""

    def choose(self, known: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
        """Return the harness's task names to run. Raises UserError for an unknown subject."""
        if not self.subjects:
            if wanted:
                raise UserError(f"subjects: {self.name} has none; leave them out")
            return [self.prefix]
        there = {name.removeprefix(self.prefix): name for name in known}
        for subject in wanted or ():
            if subject not in there:
                close = difflib.get_close_matches(subject, there, n=1)
                fix = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(there)}."
                raise UserError(f"subjects: {self.name} has no '{subject}'; {fix}")
        return [there[subject] for subject in wanted or there]

    def check(self, shots: int) -> None:
        """Raise UserError for more demonstrations than there are."""
        if self.most_shots is not None and shots > self.most_shots:
            raise UserError(
                f"shots: {self.name} has {self.most_shots} demonstrations, {shots} are asked for"
            )


def _mmlu(files: Files, subject: str, demos: bool) -> Rows:
    splits = ("test", "dev") if demos else ("test",)
    return {split: list(_mmlu_split(files, subject, split)) for split in splits}


def _mmlu_split(files: Files, subject: str, split: str) -> Iterator[Row]:
    name = files.first(
        f"{split}/{subject}_{split}.csv",
        f"data/{split}/{subject}_{split}.csv",
        f"{subject}/{split}-00000-of-00001.parquet",
    )
    if name.endswith(".parquet"):
        for where, row in files.parquet(name):
            yield _mmlu_row(row.get("question"), row.get("choices"), row.get("answer"), where)
        return
    for number, cells in enumerate(csv.reader(io.StringIO(files.text(name), newline="")), 1):
        where = f"{files.where(name)}: row {number}"
        if len(cells) != 6:
            raise UserError(f"{where}: six cells are needed, found {len(cells)}")
        answer = "ABCD".find(cells[5].strip()) if cells[5].strip() else -1
        yield _mmlu_row(cells[0], cells[1:5], answer, where)


def _mmlu_row(question: Any, choices: Any, answer: Any, where: str) -> Row:
    sound = isinstance(question, str) and isinstance(choices, list) and len(choices) == 4
    if not sound or answer not in range(4):
        raise UserError(
            f"{where}: a question, four choices and the right one are needed; download the file "
            "again"
        )
    return {"question": question, "choices": [str(choice) for choice in choices], "answer": answer}


def _bbh(files: Files, subject: str, demos: bool) -> Rows:
    name = files.first(f"bbh/{subject}.json", f"{subject}.json")
    where = files.where(name)
    value = files.json(name)
    examples = value.get("examples") if isinstance(value, dict) else None
    if not isinstance(examples, list) or not examples:
        raise UserError(f"{where}: `examples` are missing; download the file again")
    for number, row in enumerate(examples, start=1):
        if not isinstance(row, dict) or not all(
            isinstance(row.get(key), str) for key in ("input", "target")
        ):
            raise UserError(f"{where}: example {number} lacks `input` or `target` as text")
    return {"test": [{"input": row["input"], "target": row["target"]} for row in examples]}


def _drop(files: Files, subject: str, demos: bool) -> Rows:
    rows = {"validation": list(_drop_split(files, "dev", "validation"))}
    return rows | {"train": list(_drop_split(files, "train", "train"))} if demos else rows


def _drop_split(files: Files, official: str, split: str) -> Iterator[Row]:
    name = files.first(
        f"drop_dataset_{official}.json",
        f"drop_dataset/drop_dataset_{official}.json",
        f"data/{split}-00000-of-00001.parquet",
    )
    if name.endswith(".parquet"):
        for where, row in files.parquet(name):
            several = row.get("validated_answers") or {"number": [], "date": [], "spans": []}
            pairs = zip(several["number"], several["date"], several["spans"], strict=True)
            others = [{"number": n, "date": d, "spans": s} for n, d, s in pairs]
            yield _drop_row(row.get("passage"), {**row, "validated_answers": others}, where)
        return
    value = files.json(name, unique=True)
    if not isinstance(value, dict):
        raise UserError(f"{files.where(name)}: passages by id are needed; download it again")
    for passage_id, passage in value.items():
        where = f"{files.where(name)}: passage {passage_id}"
        pairs = passage.get("qa_pairs") if isinstance(passage, dict) else None
        if not isinstance(pairs, list):
            raise UserError(f"{where}: `qa_pairs` are missing; download the file again")
        for pair in pairs:
            yield _drop_row(passage.get("passage"), pair, where)


def _drop_row(passage: Any, pair: Any, where: str) -> Row:
    try:
        others = [_drop_answer(answer) for answer in pair.get("validated_answers") or ()]
        row = {
            "query_id": str(pair["query_id"]),
            "passage": passage,
            "question": pair["question"],
            "answer": _drop_answer(pair["answer"]),
            "validated_answers": {
                key: [answer[key] for answer in others] for key in ("number", "date", "spans")
            },
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{where}: a question lacks {error}; download the file again") from None
    if not isinstance(passage, str) or not isinstance(row["question"], str):
        raise UserError(f"{where}: passage and questions must be text; download the file again")
    return row


def _drop_answer(answer: Mapping[str, Any]) -> Row:
    date = answer.get("date") or {}
    return {
        "number": str(answer.get("number") or ""),
        "date": {key: str(date.get(key) or "") for key in ("day", "month", "year")},
        "spans": [str(span) for span in answer.get("spans") or ()],
    }


MMLU = TextSet(
    name="mmlu",
    title="MMLU, 57 subjects",
    version="1",
    source="https://people.eecs.berkeley.edu/~hendrycks/data.tar or cais/mmlu on the hub",
    files="test/<subject>_test.csv and dev/<subject>_dev.csv (as in data.tar), or the hub's "
    "<subject>/test-*.parquet and dev-*.parquet",
    folder="mmlu/default",
    prefix="mmlu_",
    subjects=True,
    shots=5,
    most_shots=5,
    split="test",
    metrics={"acc": "accuracy"},
    headline="accuracy",
    ranked=True,
    read=_mmlu,
)

BBH = TextSet(
    name="bbh",
    title="BIG-Bench Hard, 27 tasks, answers without a chain of thought",
    version="1",
    source="https://github.com/suzgunmirac/BIG-Bench-Hard",
    files="bbh/<task>.json",
    folder="bbh/fewshot",
    prefix="bbh_fewshot_",
    subjects=True,
    shots=3,
    most_shots=3,
    split="test",
    metrics={"exact_match": "exact_match"},
    headline="exact_match",
    ranked=False,
    read=_bbh,
)

DROP = TextSet(
    name="drop",
    title="DROP, development set",
    version="1",
    source="https://allenai.org/data/drop (drop_dataset.zip) or EleutherAI/drop on the hub",
    files="drop_dataset_dev.json, and drop_dataset_train.json for demonstrations; or the hub's "
    "data/validation-*.parquet and train-*.parquet",
    folder="drop",
    prefix="drop",
    subjects=False,
    shots=3,
    most_shots=None,
    split="dev",
    metrics={"f1": "f1", "em": "exact_match"},
    headline="f1",
    ranked=False,
    read=_drop,
)

TEXT_SETS = {each.name: each for each in (MMLU, BBH, DROP)}
"""The text benchmarks by name."""
