"""Benchmarks of a served model, and with a served judge: a refusal loses no finished answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.eval.benchmarks.test_every_benchmark import ask, make
from tests.eval.test_endpoint import Reply, Server, error, last, said
from tests.eval.tiny import write_tiny_vila
from vila_core.errors import UserError

NOWHERE = Path("no/such/model")


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture(scope="module")
def vila(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vila(tmp_path_factory.mktemp("models") / "vila")


def endpoint(server: Server) -> dict[str, Any]:
    return {"url": server.url, "model": "tiny", "concurrency": 1, "timeout_s": 5.0, "retries": 0}


def refuse_after(server: Server, count: int, reply: str) -> None:
    def refusing(body: dict[str, Any], number: int) -> Reply:
        return error(401, "no such key") if number >= count else said(reply)

    server.reply = refusing


def lines(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def one_message(told: pytest.ExceptionInfo[UserError]) -> None:
    message = str(told.value)
    assert message.count("no such key") == 1
    assert "refuses with 401" in message
    assert "OPENAI_API_KEY" in message  # the fix
    assert len(message.splitlines()) == 1


def test_a_served_model_that_refuses_in_the_middle_is_asked_the_rest_later(
    server: Server, tmp_path: Path
) -> None:
    make("pope")(tmp_path / "files")
    refuse_after(server, 5, "yes")
    out, settings = tmp_path / "out", {"endpoint": endpoint(server)}
    with pytest.raises(UserError) as told:
        ask("pope", tmp_path / "files", NOWHERE, out, **settings)
    one_message(told)
    assert lines(out / "answers.jsonl") == 5
    assert not (out / "results").exists()
    asked = [body["messages"] for body in server.bodies[:5]]
    server.bodies.clear()
    server.reply = lambda body, number: said("Yes, there is.")
    found = ask("pope", tmp_path / "files", NOWHERE, out, **settings)
    again = [body["messages"] for body in server.bodies]
    assert all(messages not in asked for messages in again)
    answers = {record["prompt_digest"]: record["answer"] for record in found["records"]}
    assert len(asked) + len(again) == len(answers) > 7  # questions of two splits are asked once
    assert sorted(answers.values()) == ["Yes, there is."] * len(again) + ["yes"] * 5
    assert found["summary"]["metrics"]["pope/yes_ratio@0"] == 1.0
    assert found["summary"]["model"]["kind"] == "endpoint"
    pictures = [part["type"] for part in again[0][-1]["content"]]
    assert pictures == ["image_url", "text"]


@pytest.mark.parametrize(("name", "reply"), [("mm_vet", "0.5"), ("llava_bench", "8 6")])
def test_a_judge_that_refuses_in_the_middle_is_asked_the_rest_later(
    name: str, reply: str, vila: Path, server: Server, tmp_path: Path
) -> None:
    make(name)(tmp_path / "files")
    refuse_after(server, 1, reply)
    out, settings = tmp_path / "out", {"judge": endpoint(server)}
    with pytest.raises(UserError) as told:
        ask(name, tmp_path / "files", vila, out, **settings)
    one_message(told)
    answered = (out / "answers.jsonl").read_bytes()
    assert lines(out / "judge.jsonl") == 1
    judged = last(server.bodies[0])
    server.bodies.clear()
    server.reply = lambda body, number: said(reply)
    found = ask(name, tmp_path / "files", vila, out, **settings)
    assert (out / "answers.jsonl").read_bytes() == answered  # the model was not asked again
    assert judged not in [last(body) for body in server.bodies]
    judge, count = found["summary"]["judge"], len(found["records"])
    assert (judge["judgements"], judge["failed"], judge["judge"]["name"]) == (count, 0, "tiny")
    assert len(server.bodies) == count - 1 > 0
    assert all(record["score"] is not None for record in found["records"])
    assert lines(found["folder"] / "submission" / "reviews.jsonl") == count


def test_a_served_model_may_be_judged_by_another(server: Server, tmp_path: Path) -> None:
    make("mm_vet")(tmp_path / "files")
    judge = {**endpoint(server), "model": "judge"}
    server.reply = lambda body, number: said("1.0" if body["model"] == "judge" else "a horse")
    settings = {"endpoint": endpoint(server), "judge": judge}
    found = ask("mm_vet", tmp_path / "files", NOWHERE, tmp_path / "out", **settings)
    assert {record["answer"] for record in found["records"]} == {"a horse"}
    assert {record["score"] for record in found["records"]} == {1.0}
    assert {body["model"] for body in server.bodies} == {"tiny", "judge"}
