"""Answers that are written together, joining and leaving, equal those of one at a time."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.eval.test_generate import ask, noise, prompts, seeing_generator
from vila_core.eval.generate import Generator
from vila_core.eval.prompts import Prompt
from vila_ops.serving.engine import Engine, Job
from vila_ops.serving.events import Event, Failed, Finished, Piece
from vila_ops.serving.features import Picture
from vila_ops.serving.figures import Figures
from vila_ops.serving.limits import Limits
from vila_ops.serving.problem import ApiError, unavailable
from vila_ops.serving.sampling import Sampling

END = 2


@pytest.fixture(scope="module")
def generator() -> Generator:
    made = seeing_generator()
    load = made.load_image
    assert load is not None

    def closed(path: Any) -> torch.Tensor:
        with open(path, "rb") as file:
            return load(file)  # type: ignore[arg-type]

    made.load_image = closed
    return made


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return noise(tmp_path_factory.mktemp("images"))


@pytest.fixture
def engines(generator: Generator) -> Iterator[list[Engine]]:
    made: list[Engine] = []
    yield made
    for engine in made:
        if not engine.alive:
            with contextlib.suppress(RuntimeError):  # it has run
                engine.start()
        engine.abort(unavailable("the test is over"))
        assert engine.join(20)


def start(engines: list[Engine], generator: Generator, **limits: Any) -> Engine:
    model = generator.model
    engine = Engine(
        model,
        generator.tokenizer,
        frozenset({END}),
        model.tower_features,
        Limits(**limits),
        Figures(),
    )
    engines.append(engine)
    return engine


class Reader:
    """Hears one answer."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.text = ""
        self.pieces = 0

    def end(self, seconds: float = 60) -> Finished | Failed:
        until = time.monotonic() + seconds
        while True:
            event = self.events.get(timeout=max(0.01, until - time.monotonic()))
            if isinstance(event, Piece):
                self.text += event.text
                self.pieces += 1
                continue
            if isinstance(event, Finished):
                self.text += event.text
            return event


def picture(generator: Generator, path: Path) -> Picture:
    assert generator.load_image is not None
    data = path.read_bytes()
    return Picture(hashlib.sha256(data).hexdigest(), generator.load_image(path))


def job(generator: Generator, prompt: Prompt, **how: Any) -> tuple[Job, Reader]:
    reader = Reader()
    ids = generator.tokenizer(generator.expand(prompt.text))["input_ids"]
    shown = [picture(generator, path) for path in prompt.images]  # type: ignore[arg-type]
    settings = {"limit": 6, "sampling": Sampling(), "stops": ["."], "asker": "a", **how}
    return Job(ids=ids, pictures=shown, hear=reader.events.put, **settings), reader


def test_together_as_one_by_one(
    engines: list[Engine], generator: Generator, images: list[Path]
) -> None:
    asked = prompts(40, images)
    limits = [1 + (7 * n) % 13 for n in range(40)]
    alone = [
        ask(generator, [prompt], size=1, max_new_tokens=limit)[0]
        for prompt, limit in zip(asked, limits, strict=True)
    ]
    engine = start(engines, generator, batch=6, prefill_tokens=40)
    engine.start()
    pauses = random.Random(0)
    readers = []
    for prompt, limit in zip(asked, limits, strict=True):
        one, reader = job(generator, prompt, limit=limit)
        engine.submit(one)
        readers.append(reader)
        time.sleep(pauses.choice([0, 0, 0.002, 0.01]))
    for reader, answer, limit in zip(readers, alone, limits, strict=True):
        event = reader.end()
        assert isinstance(event, Finished)
        assert reader.text == answer.text
        assert (event.reason == "stop") == answer.finished
        assert event.reason == "stop" or event.tokens == limit
    assert len({answer.text for answer in alone}) > 20
    lines = "".join(engine._figures.lines())
    assert 'vila_serve_batch_size_bucket{le="1"} ' in lines
    rows = [line for line in lines.splitlines() if line.startswith("vila_serve_batch_size_")]
    steps, total = (float(rows[n].split()[1]) for n in (-1, -2))
    assert total > 2 * steps  # they were together, more than two at a time


def test_sampled_answers_depend_on_nobody_else(
    engines: list[Engine], generator: Generator, images: list[Path]
) -> None:
    asked = prompts(12, images)

    def answers(batch: int, order: list[int]) -> list[str]:
        engine = start(engines, generator, batch=batch)
        made = {}
        for n in order:
            sampling = Sampling(temperature=1.2, top_p=0.9, seed=n)
            one, made[n] = job(generator, asked[n], limit=12, sampling=sampling)
            engine.submit(one)
        engine.start()
        ends = [made[n].end() for n in range(12)]
        assert all(isinstance(end, Finished) for end in ends)
        return [made[n].text for n in range(12)]

    together = answers(12, list(range(12)))
    assert together == answers(1, list(range(12))) == answers(5, list(range(11, -1, -1)))
    assert len(set(together)) == 12


def test_a_stream_comes_in_pieces(engines: list[Engine], generator: Generator) -> None:
    engine = start(engines, generator)
    engine._ends = frozenset()  # whatever the model says, it goes on
    one, reader = job(generator, prompts(3)[2], limit=20, stops=[])
    engine.submit(one)
    engine.start()
    end = reader.end()
    assert isinstance(end, Finished)
    assert (end.tokens, end.reason) == (20, "length")
    assert reader.pieces > 10


def test_a_full_queue_refuses_and_names_a_time(engines: list[Engine], generator: Generator) -> None:
    engine = start(engines, generator, queue=2)
    for _ in range(2):
        engine.submit(job(generator, prompts(1)[0])[0])
    with pytest.raises(ApiError, match="2 requests wait already") as caught:
        engine.submit(job(generator, prompts(1)[0])[0])
    assert caught.value.status == 429
    assert 1 <= int(caught.value.headers["Retry-After"]) <= 60


def test_who_left_is_not_written_for(engines: list[Engine], generator: Generator) -> None:
    engine = start(engines, generator, batch=1)
    first, reading = job(generator, prompts(1)[0], limit=400, stops=[], asker="a")
    second, left = job(generator, prompts(2)[1], asker="b")
    third, waiting = job(generator, prompts(3)[2], asker="c")
    for one in (first, second, third):
        engine.submit(one)
    engine.start()
    assert isinstance(reading.events.get(timeout=20), Piece)
    engine.cancel(second)  # in the queue
    engine.cancel(first)  # at work
    assert isinstance(waiting.end(), Finished)
    assert left.events.empty()
    assert "vila_serve_cancelled_total 2\n" in "".join(engine._figures.lines())


def test_only_the_prompt_that_fails_suffers(
    engines: list[Engine], generator: Generator, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(engines, generator)
    asked = prompts(5)
    alone = [ask(generator, [prompt], size=1)[0].text for prompt in asked]
    made = [job(generator, prompt) for prompt in asked]
    made[2][0].ids = [*made[2][0].ids, 10**6]  # no such word
    for one, _ in made:
        engine.submit(one)
    engine.start()
    for n, (_, reader) in enumerate(made):
        end = reader.end()
        if n == 2:
            assert isinstance(end, Failed)
            assert (end.error.status, end.error.code) == (500, "model_error")
        else:
            assert reader.text == alone[n]
    assert "could not be read" in caplog.text


def test_after_a_step_that_fails_the_next_are_answered(
    engines: list[Engine], generator: Generator, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(engines, generator)
    one, reader = job(generator, prompts(1)[0], limit=20, stops=[], sampling=Sampling(1.0, 1.0, 1))
    one.sampling.draw = lambda: 1 / 0  # type: ignore[method-assign]
    engine.submit(one)
    engine.start()
    end = reader.end()
    assert isinstance(end, Failed)
    assert end.error.message == "the model failed: ZeroDivisionError"
    sound, well = job(generator, prompts(1)[0])
    engine.submit(sound)
    assert isinstance(well.end(), Finished)
    assert "1 answers failed" in caplog.text


def test_what_is_no_number_fails_alone(engines: list[Engine], generator: Generator) -> None:
    engine = start(engines, generator)
    grey = torch.full((3, 32, 32), float("nan"))
    broken, hurt = job(generator, Prompt("q color <image>", ()))
    broken.pictures = [Picture("broken", grey)]
    sound, well = job(generator, prompts(1)[0])
    engine.submit(broken)
    engine.submit(sound)
    engine.start()
    end = hurt.end()
    assert isinstance(end, Failed)
    assert "not a number" in end.error.message
    assert isinstance(well.end(), Finished)


def test_the_batch_keeps_to_its_tokens(engines: list[Engine], generator: Generator) -> None:
    engine = start(engines, generator, batch_tokens=100)
    made = [job(generator, prompt, limit=20, stops=[]) for prompt in prompts(9)]
    widest = 0
    for one, _ in made:
        engine.submit(one)
    engine.start()
    for one, reader in made:
        assert isinstance(reader.end(), Finished)
        widest = max(widest, one.size)
    lines = "".join(engine._figures.lines()).splitlines()
    rows = [line for line in lines if "batch_size_bucket" in line]
    most = next(int(row.split('"')[1]) for row in rows if row.endswith(rows[-1].split()[-1]))
    assert widest * 2 <= 100  # two fit, whichever they are
    assert most == 4  # and never more than four of the smallest: (2 + 20 tokens) * 4 < 100


def test_draining_ends_with_the_last_answer(engines: list[Engine], generator: Generator) -> None:
    engine = start(engines, generator)
    one, reader = job(generator, prompts(1)[0], limit=50, stops=[])
    engine.submit(one)
    engine.start()
    engine.drain()
    with pytest.raises(ApiError, match="shutting down"):
        engine.submit(job(generator, prompts(1)[0])[0])
    assert isinstance(reader.end(), Finished)
    assert engine.join(20)


def test_aborting_tells_every_reader(engines: list[Engine], generator: Generator) -> None:
    engine = start(engines, generator, batch=1)
    made = [job(generator, prompts(1)[0], limit=450, stops=[]) for _ in range(3)]
    for one, _ in made:
        engine.submit(one)
    engine.start()
    assert isinstance(made[0][1].events.get(timeout=20), Piece)
    engine.abort(unavailable("it is over"))
    for _, reader in made:
        end = reader.end()
        assert isinstance(end, Failed)
        assert end.error.status == 503
    assert engine.join(20)


def test_an_image_that_is_known_is_not_seen_again(generator: Generator, images: list[Path]) -> None:
    from vila_ops.serving.features import Features

    seen = []

    def see(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return generator.model.tower_features(pixels)

    one, two = (picture(generator, path) for path in images[:2])
    features = Features(see, torch.device("cpu"))
    first = features.of([one, two, one])
    assert first is not None
    assert first.shape[0] == 3
    assert torch.equal(first[0], first[2])
    again = features.of([two, one])
    assert again is not None
    assert torch.equal(again[0], first[1])
    assert seen == [2]
    assert features.of([]) is None
    small = Features(see, torch.device("cpu"), most_bytes=first[0].nbytes)
    small.of([one])
    small.of([two])
    small.of([two])
    small.of([one])
    assert seen == [2, 1, 1, 1]
