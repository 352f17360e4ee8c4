"""Flickr30k captions, on Karpathy's test split of 1,000 images (Young et al. 2014)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Options, Question
from vila_core.eval.benchmarks import fields, karpathy
from vila_core.eval.benchmarks import short_answer as short
from vila_core.eval.files import Files

_FILE = "dataset_flickr30k.json"
_TOKEN, _CSV = "results_20130124.token", "results.csv"
_SPLITS = ("test", "val", "train")
_FOLDERS = ("flickr30k-images", "flickr30k_images", "images")


def read(files: Files, options: Options) -> list[Question]:
    """Return one question per image of a split.

    Captions and splits come from Karpathy's file, or captions from the data set's own list and
    splits from the lists of images that Flickr30k Entities publishes (the same images).
    """
    split = fields.split_of(options, "flickr30k", _SPLITS)
    name = files.first(_FILE, _TOKEN, _CSV)
    if name == _FILE:
        captioned = karpathy.read_karpathy(files, _FILE, split)
    else:
        captioned = _listed(files, name, f"{split}.txt")
    return karpathy.as_questions(files, captioned, _FOLDERS, options)


def _listed(files: Files, name: str, split_file: str) -> list[karpathy.Captioned]:
    captions: defaultdict[str, list[str]] = defaultdict(list)
    for picture, caption in _lines(files, name):
        captions[picture].append(caption)
    found: list[karpathy.Captioned] = []
    for number, line in enumerate(files.text(split_file).splitlines(), start=1):
        if not (key := line.strip().removesuffix(".jpg")):
            continue
        where = f"{files.where(split_file)}:{number}"
        picture = f"{key}.jpg"
        if picture not in captions:
            raise UserError(
                f"{where}: image {key} has no captions in {name}; these files are of different "
                "versions; download both again"
            )
        found.append(karpathy.Captioned(key, "", picture, tuple(captions[picture]), where))
    return found


def _lines(files: Files, name: str) -> Iterator[tuple[str, str]]:
    """Yield (image, caption): `image#n<tab>caption`, or `image| n| caption` below a header."""
    for number, line in enumerate(files.text(name).split("\n"), start=1):
        if not line.strip() or (name == _CSV and number == 1):
            continue
        if name == _TOKEN:
            picture, tab, caption = line.partition("\t")
            picture = picture.partition("#")[0]
        else:
            picture, tab, rest = line.partition("|")
            # A line of the published file lacks its second bar, so the number may end at a blank.
            caption = rest.strip().lstrip("0123456789").lstrip("| \t")
        if not tab or not caption.strip():
            raise UserError(f"{files.where(name)}:{number}: holds no caption; download it again")
        yield picture.strip(), caption.strip()


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return the captions in the form of COCO's caption evaluation."""
    name = f"flickr30k_{questions[0].extra['split']}_results.json"
    return {name: short.as_json(karpathy.results(questions, answers))}


BENCHMARK = Benchmark(
    name="flickr30k",
    title="Flickr30k captions",
    version="1",
    source=(
        "shannon.cs.illinois.edu/DenotationGraph; splits "
        "cs.stanford.edu/people/karpathy/deepimagesent; scorer github.com/tylin/coco-caption"
    ),
    files=(
        FileSpec(_FILE, "images, splits and captions"),
        FileSpec(f"{_TOKEN} or {_CSV}", f"captions, in place of {_FILE}"),
        FileSpec("{test,val,train}.txt", "the images of a split (Flickr30k Entities), with these"),
        FileSpec("flickr30k-images/….jpg", "images"),
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
        "As for COCO. Whether lmms-eval's flickr30k_test is Karpathy's split was not checked."
    ),
)
