"""Captions: Karpathy's splits, which papers report on, and how captions are scored.

The file `dataset_<name>.json` holds every image of a data set with its split and its captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.benchmark import Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks import short_answer as short
from vila_core.eval.benchmarks.official import ImageFolder
from vila_core.eval.files import Files
from vila_core.eval.items import Case
from vila_core.eval.scorers.captions import bleu4, bleu_of, cider, rouge_l

CAPTION = "Provide a one-sentence caption for the provided image."
"""LLaVA-1.5's instruction for captions (its training on TextCaps), also lmms-eval's."""

CHAT_PROMPT = f"`<image>↵{CAPTION}`"
PLAIN_PROMPT = "`<image>Output:`, and after a blank the caption (OpenFlamingo)"
SCORING = (
    "CIDEr (CIDEr-D) over the captions' tokens; each image's share is its own CIDEr with the "
    "document frequencies of all references that were asked. `rouge_l` and `bleu4` beside it. "
    "Double quotes and what a model writes after the next `Output` do not count. Which tokeniser "
    "made the tokens (PTBTokenizer where Java is there, else ours) is in every record."
)
MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Captioned:
    """An image of the file, with its captions and its place there."""

    key: str
    folder: str
    name: str
    captions: tuple[str, ...]
    where: str


def read_karpathy(files: Files, name: str, split: str) -> list[Captioned]:
    """Return the images of a split; `restval` counts as `train`, as is usual.

    Raises UserError for a file of another form, or without images of the split.
    """
    whole = files.where(name)
    content = fields.mapping(files.json(name), whole)
    wanted = {"train", "restval"} if split == "train" else {split}
    found: list[Captioned] = []
    for at, record in enumerate(fields.objects(content, "images", whole)):
        where = f"{whole}: images[{at}]"
        if fields.text(record, "split", where) not in wanted:
            continue
        sentences = fields.objects(record, "sentences", where)
        captions = tuple(fields.text(each, "raw", where) for each in sentences)
        picture = fields.text(record, "filename", where)
        key = str(record.get("cocoid", picture.partition(".")[0]))
        found.append(Captioned(key, str(record.get("filepath", "")), picture, captions, where))
    if not found:
        raise UserError(f"{whole}: holds no images of the split '{split}'; download it again")
    for each in found:
        if not each.captions:
            raise UserError(f"{each.where}: the image has no captions; download {name} again")
    return found


def as_questions(
    files: Files, captioned: Sequence[Captioned], folders: Sequence[str], options: Options
) -> list[Question]:
    """Return one question per image; `folders` are where images may lie, beside their own."""
    extra = {"layout": options.layout, "split": options.split}
    places: dict[str, ImageFolder] = {}
    questions: list[Question] = []
    for each in captioned:
        if each.folder not in places:
            places[each.folder] = ImageFolder(files, (*filter(None, [each.folder]), *folders, ""))
        image = places[each.folder].image(each.name, each.where)
        parts = (image, "Output:" if options.layout == "plain" else f"\n{CAPTION}")
        case = Case(parts, each.captions[0].strip())
        questions.append(Question(each.key, case, each.captions, extra=extra, where=each.where))
    return unique(questions)


def said(question: Question, answer: str) -> str:
    """Return what of an answer is the caption, on one line."""
    if question.extra.get("layout") == "plain":
        answer = answer.split("Output", 1)[0]
    return " ".join(answer.replace('"', "").split())


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Score all captions at once; `score` is an image's CIDEr (at most 10)."""
    captions = [said(question, answer) for question, answer in zip(questions, answers, strict=True)]
    references = [question.references for question in questions]
    scored, rouge = cider(captions, references), rouge_l(captions, references)
    bleu = bleu4(captions, references)
    grades: list[Grade] = []
    for at, caption in enumerate(captions):
        detail: dict[str, Any] = {
            "rouge_l": rouge.per_sample[at],
            "bleu_counts": bleu.counts[at],
            "tokeniser": scored.tokeniser,
        }
        grades.append(Grade(caption, scored.per_sample[at], detail))
    return grades


def metrics(_questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return `cider` (papers print 100 times it), `bleu4` and `rouge_l` (0 to 1)."""
    return {
        "cider": short.mean(each.score for each in grades if each.score is not None),
        "bleu4": bleu_of([each.detail["bleu_counts"] for each in grades]),
        "rouge_l": short.mean(each.detail["rouge_l"] for each in grades),
    }


def results(questions: Sequence[Question], answers: Sequence[str]) -> list[dict[str, Any]]:
    """Return captions as COCO's evaluation reads them; ids that are numbers stay numbers."""
    return [
        {
            "image_id": int(question.key) if question.key.isdecimal() else question.key,
            "caption": said(question, answer),
        }
        for question, answer in zip(questions, answers, strict=True)
    ]
