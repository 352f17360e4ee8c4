"""MMBench-CN: MMBench in Chinese."""

from __future__ import annotations

from vila_core.eval.benchmark import Benchmark, FileSpec
from vila_core.eval.benchmarks import mmbench_format
from vila_core.eval.benchmarks.mmbench import DISAGREEMENTS, SCORING

LETTER_CN = "请直接回答选项字母。"
"""LLaVA-1.5's instruction for multiple choice in Chinese (model_vqammbench_format.py)."""

_NAMES = {
    "dev": ("mmbench_dev_cn_20231003.tsv", "MMBench_DEV_CN.tsv"),
    "test": ("mmbench_test_cn_20231003.tsv", "MMBench_TEST_CN.tsv"),
}

BENCHMARK = Benchmark(
    name="mmbench_cn",
    title="MMBench-CN (v1.0)",
    version="1",
    source="https://github.com/open-compass/MMBench (downloads), VLMEvalKit (rules)",
    files=(
        FileSpec(_NAMES["dev"][0], "questions, options, images", ("dev",)),
        FileSpec(_NAMES["test"][0], "the same without answers: the server scores", ("test",)),
    ),
    splits=("dev", "test"),
    train_split=None,
    read=mmbench_format.reader(_NAMES, LETTER_CN),
    grade=mmbench_format.grade,
    metrics=mmbench_format.metrics,
    headline="accuracy",
    headline_unit="%, circular",
    prompt=(
        f"`<image>↵{{hint}}↵{{question}}↵A. …↵B. …↵{LETTER_CN}`, without the hint's line where "
        "there is none; asked for each rotation of the options; plain: the same with `Answer:` as "
        "the last line"
    ),
    max_new_tokens=1024,
    submission=mmbench_format.submission("mmbench_cn"),
    likelihood=True,
    scoring=SCORING,
    disagreements=DISAGREEMENTS,
)
