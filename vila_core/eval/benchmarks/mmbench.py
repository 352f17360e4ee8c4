"""MMBench: multiple choice that counts only if it is right in every rotation of the options."""

from __future__ import annotations

from vila_core.eval.benchmark import Benchmark, FileSpec
from vila_core.eval.benchmarks import mmbench_format
from vila_core.eval.benchmarks.official import LETTER

_NAMES = {
    "dev": ("mmbench_dev_20230712.tsv", "mmbench_dev_en_20231003.tsv", "MMBench_DEV_EN.tsv"),
    "test": ("mmbench_test_20230712.tsv", "mmbench_test_en_20231003.tsv", "MMBench_TEST_EN.tsv"),
}

SCORING = (
    "VLMEvalKit's rules without a judge: the one option letter among the answer's words, if it "
    "stands in the last five, or the one option whose text the answer holds. A question is "
    "right only if all rotations of its options are."
)

DISAGREEMENTS = (
    "An answer whose option can't be told by VLMEvalKit's rules is wrong here; the server and "
    "VLMEvalKit with a judge ask a GPT model for it, lmms-eval does by default. The prompt is "
    "LLaVA's; VLMEvalKit writes 'Hint:', 'Question:', 'Options:' and 'Please select the correct "
    "answer from the options above.' `single_accuracy` is that of the questions as they stand "
    "first, without rotation. Version 1.1 of MMBench has other questions and does not compare. The "
    "server caches by file name: rename each upload."
)

BENCHMARK = Benchmark(
    name="mmbench",
    title="MMBench (English, v1.0)",
    version="1",
    source="https://github.com/open-compass/MMBench (downloads), VLMEvalKit (rules)",
    files=(
        FileSpec(_NAMES["dev"][0], "questions, options, images; or " + _NAMES["dev"][1], ("dev",)),
        FileSpec(_NAMES["test"][1], "the same without answers: the server scores", ("test",)),
    ),
    splits=("dev", "test"),
    train_split=None,
    read=mmbench_format.reader(_NAMES, LETTER),
    grade=mmbench_format.grade,
    metrics=mmbench_format.metrics,
    headline="accuracy",
    headline_unit="%, circular",
    prompt=(
        f"`<image>↵{{hint}}↵{{question}}↵A. …↵B. …↵{LETTER}`, without the hint's line where "
        "there is none; asked for each rotation of the options; plain: the same with `Answer:` as "
        "the last line"
    ),
    max_new_tokens=1024,
    submission=mmbench_format.submission("mmbench"),
    likelihood=True,
    scoring=SCORING,
    disagreements=DISAGREEMENTS,
)
