"""TextVQA: questions about text in images, with or without OCR tokens (Singh et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks import short_answer as short
from vila_core.eval.benchmarks.official import ImageFolder
from vila_core.eval.files import Files, ImageRef
from vila_core.eval.items import Case
from vila_core.eval.scorers.vqa import m4c_accuracy, normalise

_VERSION = "0.5.1"
_SPLITS = ("val", "test", "train")
_LLAVA = "llava_textvqa_val_v051_ocr.jsonl"
_OCR = "TextVQA_Rosetta_OCR_v0.2_{}.json"
_REFERENCE = "Reference OCR token: "


def read(files: Files, options: Options) -> list[Question]:
    """Return the questions of a split; those of `test` have no answers."""
    split = fields.split_of(options, "textvqa", _SPLITS)
    name = f"TextVQA_{_VERSION}_{split}.json"
    whole = files.where(name)
    content = fields.mapping(files.json(name), whole)
    version = str(content.get("dataset_version", _VERSION))
    if version != _VERSION:
        raise UserError(
            f"{whole}: dataset_version is '{version}', '{_VERSION}' is needed; download {name}"
        )
    tokens = _Tokens(files, split) if options.ocr else None
    images = ImageFolder(files, ("test_images" if split == "test" else "train_images", ""))
    extra = {"layout": options.layout, "split": split}
    questions: list[Question] = []
    for at, record in enumerate(fields.objects(content, "data", whole)):
        where = f"{whole}: data[{at}]"
        picture = fields.name(record, "image_id", where)
        text = fields.text(record, "question", where)
        references = () if split == "test" else tuple(fields.texts(record, "answers", where))
        if split != "test" and not references:
            raise UserError(f"{where}: the question has no answers; download {name} again")
        image = images.image(f"{picture}.jpg", where)
        ocr = tokens.of(picture, text, where) if tokens else None
        questions.append(
            Question(
                fields.name(record, "question_id", where),
                Case(_parts(image, text, ocr, options), short.most_common(references)),
                references,
                unit=picture,
                extra=extra,
                where=where,
            )
        )
    return unique(questions)


def _parts(
    image: ImageRef, question: str, ocr: str | None, options: Options
) -> tuple[str | ImageRef, ...]:
    if ocr is None:
        return short.ask(image, question, options)
    if options.layout == "plain":
        return image, f"OCR tokens: {ocr}. Question:{question.strip()} Short answer:"
    return image, f"\n{question}\n{_REFERENCE}{ocr}\n{short.SHORT_ANSWER}"


class _Tokens:
    """The reference OCR tokens: LLaVA's list of each question, else Rosetta's of each image."""

    def __init__(self, files: Files, split: str) -> None:
        self._asked: dict[tuple[str, str], str] = {}
        self._images: dict[str, str] = {}
        names = [_LLAVA] if split == "val" else []
        self._name = files.first(
            *names, _OCR.format(split), _OCR.format(split).replace("v0.2_", "")
        )
        if self._name == _LLAVA:
            self._read_llava(files)
        else:
            self._read_rosetta(files)

    def _read_llava(self, files: Files) -> None:
        for where, record in files.jsonl(_LLAVA):
            lines = fields.text(record, "text", where).split("\n")
            listed = [line for line in lines if line.startswith(_REFERENCE.rstrip())]
            key = (fields.name(record, "question_id", where), lines[0].lower())
            self._asked[key] = listed[0].removeprefix(_REFERENCE.rstrip()).strip() if listed else ""

    def _read_rosetta(self, files: Files) -> None:
        whole = files.where(self._name)
        content = fields.mapping(files.json(self._name), whole)
        for at, record in enumerate(fields.objects(content, "data", whole)):
            where = f"{whole}: data[{at}]"
            listed = fields.texts(record, "ocr_tokens", where)
            self._images[fields.name(record, "image_id", where)] = ", ".join(listed)

    def of(self, image: str, question: str, where: str) -> str:
        """Return the tokens for a question. Raises UserError where the file has none."""
        found = self._images.get(image)
        if found is None:
            found = self._asked.get((image, question.lower()))
        if found is None:
            raise UserError(
                f"{where}: {self._name} has no OCR tokens for image {image}; these files are of "
                "different versions; download both again, or ask without OCR tokens"
            )
        return found


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Score by M4C's soft accuracy, where the people's answers are public."""
    grades: list[Grade] = []
    for question, answer in zip(questions, answers, strict=True):
        text = short.said(question, answer)
        references = question.references
        score = m4c_accuracy(text, references) if references else None
        grades.append(Grade(normalise(text), score))
    return grades


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return the file for the server: the answers as they are normalised."""
    graded = grade(questions, answers)
    results = [
        {"question_id": int(question.key), "answer": each.parsed}
        for question, each in zip(questions, graded, strict=True)
    ]
    return {f"textvqa_{questions[0].extra['split']}_results.json": short.as_json(results)}


BENCHMARK = Benchmark(
    name="textvqa",
    title="TextVQA v0.5.1",
    version="1",
    source="textvqa.org; scorer M4C's evaluator, as in LLaVA's eval_textvqa.py; eval.ai for test",
    files=(
        FileSpec("TextVQA_0.5.1_{val,test,train}.json", "questions, and answers except for test"),
        FileSpec(_LLAVA, "OCR tokens of each question, the first choice", ("val",)),
        FileSpec("TextVQA_Rosetta_OCR_v0.2_{val,test,train}.json", "OCR tokens of each image"),
        FileSpec("train_images/….jpg", "images", ("val", "train")),
        FileSpec("test_images/….jpg", "images", ("test",)),
    ),
    splits=_SPLITS,
    train_split="train",
    read=read,
    grade=grade,
    metrics=short.accuracies,
    headline="accuracy",
    headline_unit="%",
    prompt=(
        "With OCR tokens (the default): `<image>↵{question}↵Reference OCR token: {tokens, by comma}"
        f"↵{short.SHORT_ANSWER}`; without: {short.CHAT_PROMPT}. Plain: `<image>OCR tokens: "
        "{tokens}. Question:{question} Short answer:`, or without the tokens and their sentence"
    ),
    max_new_tokens=128,
    submission=submission,
    scoring=(
        "Answer and people's answers are normalised (EvalAIAnswerProcessor); for each of the ten "
        "people min(1, matches among the other nine / 3), and the mean of these. The test split is "
        "scored by the server only."
    ),
    disagreements=(
        "The paper's Table 5 (64.4) is with OCR tokens, Table 1 (about 40) looks like without. "
        "lmms-eval leaves them out unless told otherwise, and writes the question with a capital. "
        "Rosetta's list of an image can differ from the one in LLaVA's file."
    ),
)
