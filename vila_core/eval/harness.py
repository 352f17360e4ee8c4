"""Any answerer as a model of lm-evaluation-harness, and its tasks on local files.

Importing this imports lm_eval (seconds): only where text benchmarks run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

# Before the import: datasets and huggingface_hub read them once. Nothing is to be fetched.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import lm_eval.evaluator
from datasets import Dataset, DatasetDict, disable_progress_bars
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from vila_core.eval.answerer import Answer, Answerer
from vila_core.eval.journal import Journal
from vila_core.eval.prompts import Prompt
from vila_core.eval.text_sets import Rows

LONGEST = 256
"""New tokens of a generated answer, where the task doesn't say: lm-evaluation-harness's default."""

Value = TypeVar("Value")


class HarnessModel(LM):
    """An answerer, asked by lm-evaluation-harness; answers are kept in a journal as they come.

    Texts are given as they are: no chat template. Whether greedy decoding would say a continuation
    is not computed (always False): MMLU, BBH and DROP don't use it. `told` gets the number of
    answers after each batch. Raises UserError for a text that is longer than the model's positions.
    """

    def __init__(
        self, answerer: Answerer, journal: Journal, told: Callable[[int], None] = lambda done: None
    ) -> None:
        super().__init__()
        self._answerer = answerer
        self._journal = journal
        self._told = told
        self._done = 0
        self.finished: dict[str, bool] = {}
        """Whether the generated answer to each context came to its end, or was cut short."""

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return (log-likelihood in nats, False) of each request's (context, continuation).

        Continuations of one context are scored together, so that it is computed once.
        """
        places: dict[str, list[int]] = {}
        for n, request in enumerate(requests):
            places.setdefault(request.args[0], []).append(n)
        contexts = list(places)
        choices = [[requests[n].args[1] for n in places[context]] for context in contexts]
        nats: dict[int, float] = {}
        for n, scores in self._counted(self._scored(contexts, choices)):
            nats.update(zip(places[contexts[n]], scores, strict=True))
        return [(nats[n], False) for n in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Return the log-likelihood in nats of each whole text, from the start token on."""
        texts = [request.args[0] for request in requests]
        scored = self._counted(self._scored([""] * len(texts), [[text] for text in texts]))
        nats = {n: scores[0] for n, scores in scored}
        return [nats[n] for n in range(len(texts))]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the greedy answer to each request's (context, options), cut at its stop texts.

        Answers have no blanks at their ends. Raises ValueError for options that ask for sampling.
        """
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for n, request in enumerate(requests):
            options = request.args[1]
            if options.get("do_sample") or options.get("num_beams", 1) > 1:
                raise ValueError(f"only greedy decoding is supported, not {options}")
            until = options.get("until") or []
            until = (until,) if isinstance(until, str) else tuple(until)
            longest = options.get("max_gen_toks", LONGEST)
            groups.setdefault((until, longest), []).append(n)
        texts: dict[int, str] = {}
        for (until, longest), places in groups.items():
            contexts = [requests[n].args[0] for n in places]
            for n, answer in self._counted(self._answered(contexts, until, longest)):
                text = cut(answer.text, until)
                texts[places[n]] = text
                self.finished[contexts[n]] = answer.finished or text != answer.text
        return [texts[n] for n in range(len(requests))]

    def _scored(
        self, contexts: Sequence[str], choices: Sequence[Sequence[str]]
    ) -> Iterable[list[tuple[int, list[float]]]]:
        prompts = _prompts(contexts)
        digests = [prompt.digest() for prompt in prompts]
        return self._journal.likelihoods(self._answerer, prompts, choices, digests, blind=False)

    def _answered(
        self, contexts: Sequence[str], until: Sequence[str], longest: int
    ) -> Iterable[list[tuple[int, Answer]]]:
        prompts = _prompts(contexts)
        digests = [prompt.digest() for prompt in prompts]
        # An answerer knows one stop text; the others are cut off afterwards. An empty line is what
        # ends an answer in practice.
        stop = "\n\n" if "\n\n" in until else next(iter(until), None)
        return self._journal.answers(
            self._answerer, prompts, digests, max_new_tokens=longest, stop=stop, blind=False
        )

    def _counted(self, batches: Iterable[list[tuple[int, Value]]]) -> Iterator[tuple[int, Value]]:
        for batch in batches:
            yield from batch
            self._done += len(batch)
            self._told(self._done)


def cut(text: str, until: Iterable[str]) -> str:
    """Return the text before the first of any stop texts, ends stripped."""
    for stop in until:
        if stop:
            text = text.partition(stop)[0]
    return text.strip()


def load_tasks(
    folder: str, rows: Mapping[str, Rows], shots: int, seed: int, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return lm-evaluation-harness's own tasks of one folder, on the rows given for each by name.

    `folder` lies below its `tasks`, for example "mmlu/default". `changes` override the tasks'
    settings; `seed` draws demonstrations where a task draws any.
    """
    index = _manager(folder).task_index
    loaded: dict[str, Any] = {}
    for name, splits in rows.items():
        path = index[name].yaml_path
        assert path is not None  # the index comes from files
        settings = {**load_yaml(path), **changes, "custom_dataset": _Splits(splits)}
        for key in ("tag", "group"):
            settings.pop(key, None)
        task = ConfigurableTask(config=settings)
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=seed)
        loaded[name] = task
    return loaded


def known_tasks(folder: str) -> list[str]:
    """Return the names of lm-evaluation-harness's tasks in one folder."""
    return _manager(folder).all_subtasks


def evaluate(
    model: LM, tasks: Mapping[str, Any], limit: int | None
) -> dict[str, list[dict[str, Any]]]:
    """Return the samples of each task, with their texts, answers and scores, in order.

    `limit` is the number of questions per task.
    """
    results: Any = lm_eval.evaluator.evaluate(
        lm=model,
        task_dict={"tasks": dict(tasks), "groups": {}, "group_map": {}},
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = results["samples"]
    return {name: sorted(found, key=lambda s: s["doc_id"]) for name, found in samples.items()}


class _Splits:
    """Rows as the harness asks for a task's data; in memory, so that no cache is written."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __call__(self, **settings: Any) -> DatasetDict:
        return DatasetDict({name: Dataset.from_list(rows) for name, rows in self._rows.items()})


def _prompts(contexts: Sequence[str]) -> list[Prompt]:
    return [Prompt(context, (), f"text {n + 1}") for n, context in enumerate(contexts)]


def _manager(folder: str) -> TaskManager:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    disable_progress_bars()
    place = Path(lm_eval.__file__).parent / "tasks" / folder
    return TaskManager(include_path=place, include_defaults=False)
