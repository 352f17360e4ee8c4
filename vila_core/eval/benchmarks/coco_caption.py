"""COCO captions, on Karpathy's test split of 5,000 images (Chen et al. 2015)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Options, Question
from vila_core.eval.benchmarks import fields, karpathy
from vila_core.eval.benchmarks import short_answer as short
from vila_core.eval.files import Files

_FILE = "dataset_coco.json"
_OFFICIAL = ("val2014", "train2014")
_SPLITS = ("test", "val", "train", *_OFFICIAL)


def read(files: Files, options: Options) -> list[Question]:
    """Return one question per image of one of Karpathy's splits, or of COCO's own."""
    split = fields.split_of(options, "coco_caption", _SPLITS)
    if split in _OFFICIAL:
        name = files.first(f"captions_{split}.json", f"annotations/captions_{split}.json")
        captioned = _official(files, name, split)
    else:
        captioned = karpathy.read_karpathy(files, _FILE, split)
    return karpathy.as_questions(files, captioned, ("images",), options)


def _official(files: Files, name: str, split: str) -> list[karpathy.Captioned]:
    """Return the images of COCO's caption annotations, with their captions in the file's order."""
    whole = files.where(name)
    content = fields.mapping(files.json(name), whole)
    captions: defaultdict[str, list[str]] = defaultdict(list)
    for at, record in enumerate(fields.objects(content, "annotations", whole)):
        where = f"{whole}: annotations[{at}]"
        captions[fields.name(record, "image_id", where)].append(
            fields.text(record, "caption", where)
        )
    found: list[karpathy.Captioned] = []
    for at, record in enumerate(fields.objects(content, "images", whole)):
        where = f"{whole}: images[{at}]"
        key = fields.name(record, "id", where)
        if key not in captions:
            raise UserError(f"{where}: image {key} has no captions; download {name} again")
        picture = fields.text(record, "file_name", where)
        found.append(karpathy.Captioned(key, split, picture, tuple(captions[key]), where))
    return found


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return the results file of COCO's caption evaluation."""
    name = f"captions_{questions[0].extra['split']}_results.json"
    return {name: short.as_json(karpathy.results(questions, answers))}


BENCHMARK = Benchmark(
    name="coco_caption",
    title="COCO captions",
    version="1",
    source=(
        "cocodataset.org (2014); splits cs.stanford.edu/people/karpathy/deepimagesent; scorer "
        "github.com/tylin/coco-caption"
    ),
    files=(
        FileSpec(_FILE, "images, splits and captions", ("test", "val", "train")),
        FileSpec("captions_{val,train}2014.json", "images and captions", _OFFICIAL),
        FileSpec("{val2014,train2014}/COCO_….jpg", "images"),
    ),
    splits=_SPLITS,
    train_split="train",
    read=read,
    grade=karpathy.grade,
    metrics=karpathy.metrics,
    headline="cider",
    headline_unit="CIDEr x 100",
    prompt=f"{karpathy.CHAT_PROMPT}; plain: {karpathy.PLAIN_PROMPT}",
    max_new_tokens=karpathy.MAX_NEW_TOKENS,
    submission=submission,
    blind=False,
    scoring=karpathy.SCORING,
    disagreements=(
        "The paper names neither split nor prompt. CIDEr depends on the set: one over few images "
        "can't be compared with one over 5,000. VLMEvalKit scores untokenised text; of lmms-eval's "
        "tasks only coco_karpathy_test uses this split. OpenFlamingo writes at most 20 tokens with "
        "3 beams. A demonstration shows an image's first caption."
    ),
)
