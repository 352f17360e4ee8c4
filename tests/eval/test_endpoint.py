"""A served model is asked over real HTTP: in order, patiently, and without giving the key away."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.eval.test_generate import noise
from vila_core.errors import UserError, VilaError
from vila_core.eval.adapters.chat_client import ChatClient
from vila_core.eval.adapters.endpoint import EndpointAnswerer, EndpointJudge, chat_client
from vila_core.eval.answerer import Answer
from vila_core.eval.items import Case
from vila_core.eval.journal import Journal
from vila_core.eval.prompts import Prompt, chat_prompt

KEY = "sk-very-secret"
Reply = tuple[int, dict[str, str], bytes]


def said(text: Any, reason: str = "stop") -> Reply:
    message = {"choices": [{"message": {"content": text}, "finish_reason": reason}]}
    return 200, {}, json.dumps(message).encode()


def error(status: int, message: str = "no", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"error": {"message": message}}).encode()


class Server(ThreadingHTTPServer):
    """Answers by `reply(body, number of the request)`; keeps what was asked and with which key."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[dict[str, Any], int], Reply] = lambda body, n: said(last(body))
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.drip = 0  # bytes at a time, if not all

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that timed out is gone: no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append({"path": self.path, **body})
            server.keys.append(self.headers["Authorization"])
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            status, headers, data = server.reply(body, number)
        finally:
            with server.lock:
                server.now -= 1
        if status == 0:  # break off
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for start in range(0, len(data), server.drip or len(data)):
            self.wfile.write(data[start : start + (server.drip or len(data))])
            self.wfile.flush()
            time.sleep(0.05 if server.drip else 0.0)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def last(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def answerer(server: Server, **settings: Any) -> EndpointAnswerer:
    quick = {"concurrency": 4, "timeout_s": 5.0, "retries": 3, "first_wait_s": 0.01}
    return EndpointAnswerer(ChatClient(server.url, "tiny", key=KEY, **{**quick, **settings}))


def ask(
    asked: EndpointAnswerer,
    prompts: list[Prompt],
    into: dict[int, Answer] | None = None,
    **way: Any,
) -> dict[int, Answer]:
    found = {} if into is None else into
    way = {"max_new_tokens": 5, "stop": None, "blind": False, **way}
    for batch in asked.answers(prompts, **way):
        found |= dict(batch)
    return found


PROMPTS = [Prompt(f"question {n}", (), f"q:{n}") for n in range(9)]


def test_images_are_sent_in_order_and_conversations_as_turns(
    server: Server, tmp_path: Path
) -> None:
    images = noise(tmp_path)
    Image.open(images[1]).save(tmp_path / "b.jpg")
    Image.open(images[2]).save(tmp_path / "c.bmp")
    case = Case(("which of ", tmp_path / "b.jpg", " and ", tmp_path / "c.bmp", "\nis red ?"), "")
    prompt = chat_prompt(case, [Case((images[0], "\nwhat ?"), "noise")])
    asked = answerer(server)
    assert ask(asked, [asked.written(prompt)]) == {0: Answer("is red ?", finished=True)}
    (body,) = server.bodies
    assert body["path"] == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0.0, 5)
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"]
    first, answer, second = [m["content"] for m in body["messages"]]
    assert [part["type"] for part in first] == ["image_url", "text"]
    assert answer == "noise"
    assert [part.get("text") for part in second] == ["which of ", None, " and ", None, "is red ?"]
    urls = [p["image_url"]["url"] for p in [*first, *second] if "image_url" in p]
    kinds = [url.partition(";")[0] for url in urls]
    assert kinds == ["data:image/png", "data:image/jpeg", "data:image/png"]
    contents = [base64.b64decode(url.partition(",")[2]) for url in urls]
    assert contents[:2] == [images[0].read_bytes(), (tmp_path / "b.jpg").read_bytes()]
    assert Image.open(io.BytesIO(contents[2])).tobytes() == Image.open(images[2]).tobytes()
    ask(asked, [prompt], blind=True)
    grey = server.bodies[1]["messages"][0]["content"][0]["image_url"]["url"]
    shown = Image.open(io.BytesIO(base64.b64decode(grey.partition(",")[2])))
    assert (shown.size, shown.getcolors()) == ((32, 32), [(32 * 32, (127, 127, 127))])


def test_written_prompts_differ_where_conversations_do() -> None:
    asked = EndpointAnswerer(ChatClient("http://nowhere/v1", "tiny"))
    case, demo = Case(("red ?",), ""), Case(("blue ?",), "yes")
    texts = {
        asked.written(chat_prompt(case, demos)).text
        for demos in ([], [demo], [Case(("blue ?",), "no")])
    }
    assert len(texts) == 3
    assert asked.written(PROMPTS[0]) is PROMPTS[0]


def test_several_requests_at_a_time_and_no_more(server: Server) -> None:
    def slowly(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.05)
        return said(last(body))

    server.reply = slowly
    found = ask(answerer(server, concurrency=3), PROMPTS)
    assert found == {n: Answer(f"question {n}", finished=True) for n in range(9)}
    assert server.most == 3
    assert set(server.keys) == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (said(None), Answer("", finished=True)),
        (said(""), Answer("", finished=True)),
        (said("and on and on", "length"), Answer("and on and on", finished=False)),
        (said("red.Q: blue", "length"), Answer("red", finished=True)),
        (said("\x00\x07ok"), Answer("\x00\x07ok", finished=True)),
        (said([{"type": "text", "text": "in"}, {"text": " parts"}]), Answer("in parts", True)),
        ((200, {}, b'{"choices":[{"message":{"content":"\\ud83d"}}]}'), Answer("?", True)),
    ],
)
def test_nothing_for_ever_and_control_characters(
    server: Server, tmp_path: Path, reply: Reply, answer: Answer
) -> None:
    server.reply = lambda body, n: reply
    asked = answerer(server)
    for _ in range(2):  # the second time from the journal
        with Journal(tmp_path / "a.jsonl", asked.describe()) as journal:
            way = {"max_new_tokens": 5, "stop": ".", "blind": False}
            (batch,) = journal.answers(asked, PROMPTS[:1], ["digest"], **way)
        assert batch == [(0, answer)]
    assert len(server.bodies) == 1
    assert server.bodies[0]["stop"] == ["."]


@pytest.mark.parametrize(
    "trouble",
    [
        error(429),
        error(500),
        error(503),
        error(529),
        (200, {}, b"<html>busy</html>"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b"[" * 100_000),
        (0, {}, b""),
    ],
)
def test_a_busy_server_is_asked_again(server: Server, trouble: Reply) -> None:
    server.reply = lambda body, n: trouble if n < 2 else said("at last")
    assert ask(answerer(server), PROMPTS[:1]) == {0: Answer("at last", finished=True)}
    assert len(server.bodies) == 3


@pytest.mark.parametrize("as_date", [False, True])
def test_the_time_that_the_server_names_is_waited(server: Server, as_date: bool) -> None:
    value = formatdate(time.time() + 2, usegmt=True) if as_date else "0.6"
    server.reply = lambda body, n: said("ok") if n else error(429, Retry_After=value)
    begin = time.monotonic()
    ask(answerer(server), PROMPTS[:1])
    assert 0.6 <= time.monotonic() - begin < 4


def test_it_gives_up_with_one_message_and_keeps_what_is_answered(
    server: Server, tmp_path: Path
) -> None:
    server.reply = lambda body, n: (
        error(503, f"overloaded, {KEY}") if "question 5" in last(body) else said(last(body))
    )
    asked = answerer(server, retries=2, concurrency=1)
    way = {"max_new_tokens": 5, "stop": None, "blind": False}
    digests = [prompt.digest() for prompt in PROMPTS]
    with Journal(tmp_path / "a.jsonl", asked.describe()) as journal:
        with pytest.raises(VilaError) as told:
            list(journal.answers(asked, PROMPTS, digests, **way))
        assert len(journal) == 5
    assert str(told.value) == (
        f"{server.url}: the model 'tiny' gave no answer, asked 3 times; the last time: 503: "
        "overloaded, [key]. Finished answers are kept: run the same again when it is back."
    )
    server.reply = lambda body, n: said(last(body))
    server.bodies.clear()
    with Journal(tmp_path / "a.jsonl", asked.describe()) as journal:
        found = {n for batch in journal.answers(asked, PROMPTS, digests, **way) for n, _ in batch}
    assert found == set(range(9))
    assert sorted(map(last, server.bodies)) == [f"question {n}" for n in range(5, 9)]


def test_answers_under_way_are_not_lost_to_a_failure(server: Server) -> None:
    def reply(body: dict[str, Any], number: int) -> Reply:
        if "question 0" in last(body):
            deadline = time.monotonic() + 10
            while (
                len(server.bodies) < 4 and time.monotonic() < deadline
            ):  # the others are under way
                time.sleep(0.01)
            return error(400, "too long")
        time.sleep(0.3)
        return said(last(body))

    server.reply = reply
    found: dict[int, Answer] = {}
    with pytest.raises(UserError, match="refuses with 400: too long"):
        ask(answerer(server), PROMPTS, found)
    assert set(found) == {1, 2, 3}
    assert len(server.bodies) == 4


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (401, "put a valid key into the environment variable OPENAI_API_KEY"),
        (403, "the key in OPENAI_API_KEY may not use this model"),
        (404, "check the endpoint's url .* and its model"),
        (302, "it redirects elsewhere, which is not followed"),
        (422, "check the endpoint's url and model"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_do(server: Server, status: int, fix: str) -> None:
    server.reply = lambda body, n: error(status, f"bad key {KEY}\n\x1b[2J", Location="http://x/")
    with pytest.raises(UserError, match=fix) as told:
        ask(answerer(server), PROMPTS[:1])
    assert f"the model 'tiny' refuses with {status}: bad key [key] [2J; fix: " in str(told.value)
    assert KEY not in str(told.value)
    assert len(server.bodies) == 1


def test_a_used_up_quota_is_no_rate_limit(server: Server) -> None:
    data = b'{"error": {"message": "quota", "code": "insufficient_quota"}}'
    server.reply = lambda body, n: (429, {}, data)
    with pytest.raises(UserError, match="the account's quota is used up"):
        ask(answerer(server), PROMPTS[:1])
    assert len(server.bodies) == 1


def test_newer_models_name_the_limit_otherwise(server: Server) -> None:
    def reply(body: dict[str, Any], number: int) -> Reply:
        if "max_tokens" in body:
            return error(400, "Use 'max_completion_tokens' instead.")
        return said(str(body["max_completion_tokens"]))

    server.reply = reply
    found = ask(answerer(server, retries=1, concurrency=1), PROMPTS[:3])
    assert [found[n].text for n in range(3)] == ["5", "5", "5"]
    assert len(server.bodies) == 4


def test_an_answer_that_never_ends_times_out(server: Server) -> None:
    release = threading.Event()

    def hang(body: dict[str, Any], number: int) -> Reply:
        release.wait(5)
        return said("late")

    server.reply = hang
    begin = time.monotonic()
    with pytest.raises(VilaError, match=r"gave no answer, asked once; the last time: .*timed out"):
        ask(answerer(server, timeout_s=0.3, retries=0), PROMPTS[:1])
    release.set()
    assert time.monotonic() - begin < 3


def test_an_answer_that_drips_times_out(server: Server) -> None:
    server.drip = 2
    begin = time.monotonic()
    with pytest.raises(VilaError, match=r"the answer took longer than 0\.3 seconds"):
        ask(answerer(server, timeout_s=0.3, retries=0), PROMPTS[:1])
    assert time.monotonic() - begin < 1.5
    server.drip = 50
    assert ask(answerer(server), PROMPTS[:1]) == {0: Answer("question 0", finished=True)}


def test_nobody_listens() -> None:
    client = ChatClient("http://127.0.0.1:9/v1", "tiny", retries=1, first_wait_s=0.01)
    with pytest.raises(VilaError, match=r"127\.0\.0\.1:9/v1: the model 'tiny' gave no answer"):
        ask(EndpointAnswerer(client), PROMPTS[:1])


def test_the_key_comes_from_the_environment_and_shows_nowhere(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    client = chat_client(server.url, "tiny", key_env="SOME_KEY", timeout_s=5.0)
    ask(EndpointAnswerer(client), PROMPTS[:1])
    assert server.keys == [f"Bearer {KEY}"]
    assert KEY not in repr(client) + repr(EndpointAnswerer(client).describe())
    monkeypatch.setenv("SOME_KEY", "ab\ncd")
    with pytest.raises(UserError, match="SOME_KEY: holds characters that no key has"):
        chat_client(server.url, "tiny", key_env="SOME_KEY")
    monkeypatch.delenv("SOME_KEY")
    ask(EndpointAnswerer(chat_client(server.url, "tiny", key_env="SOME_KEY")), PROMPTS[:1])
    assert server.keys[1:] == [None]


def test_a_judge_gets_its_system_message(server: Server) -> None:
    server.reply = lambda body, n: said("8 9")
    client = ChatClient(server.url, "judge", timeout_s=5.0)
    judge = EndpointJudge(client)
    assert judge.judge("rate", system="be fair", temperature=0.2, max_new_tokens=99) == "8 9"
    assert server.bodies[0]["messages"] == [
        {"role": "system", "content": "be fair"},
        {"role": "user", "content": "rate"},
    ]
    assert (server.bodies[0]["temperature"], server.bodies[0]["max_tokens"]) == (0.2, 99)
    assert judge.describe() == {"kind": "endpoint", "name": "judge", "url": server.url}


def test_what_cannot_be_asked_is_named(server: Server, tmp_path: Path) -> None:
    asked = answerer(server)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.png: not an image.*; replace it or drop the items"):
        ask(asked, [Prompt("<image>", (tmp_path / "a.png",))])
    with pytest.raises(UserError, match="q:1: the prompt has 1 <image> places for 0 images"):
        ask(asked, [Prompt("<image>", (), "q:1")])
    with pytest.raises(UserError, match="a chat endpoint gives no likelihoods"):
        asked.likelihoods(PROMPTS, [["a"]] * 9)
    assert server.bodies == []
