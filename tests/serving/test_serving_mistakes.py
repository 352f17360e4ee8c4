"""Whatever is sent, the answer is one clear error in OpenAI's shape, and the server goes on."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from servers import CHAT, Serving, encoded, noise, serving, user

from vila_ops.serving.limits import Limits
from vila_ops.web.tokens import Tokens, make_token

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Serving]:
    limits = Limits(images=3, image_bytes=200_000, pixels=2_000_000, body_bytes=2**20, body_s=1)
    with serving(tiny, limits=limits) as one:
        yield one
        assert one.text("Hello")  # it has outlived everything


def refused(answer: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    message = body["error"]["message"]
    for word in words:
        assert word in message
    assert len(message) < 500
    assert "Traceback" not in message
    return body["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"\xff\xfe\x00", "not"),
        (b'{"temperature": NaN}', "NaN is no JSON number"),
        (b'{"temperature": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"max_tokens": ' + b"9" * 5_000 + b"}", "not valid JSON"),
        (b'{"model": "tiny"}', "messages: field required"),
        (b'{"messages": []}', "model: field required"),
    ],
)
def test_what_is_no_request(server: Serving, body: bytes, words: str) -> None:
    refused(server.client.post(CHAT, content=body, headers=JSON), 400, words)


@pytest.mark.parametrize(
    ("parameters", "param", "words"),
    [
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": True}, "temperature", "valid number"),
        ({"temperature": 10**400}, None, None),
        ({"top_p": 1.5}, "top_p", "less than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"max_tokens": "8"}, "max_tokens", "valid integer"),
        ({"seed": "x"}, "seed", "valid integer"),
        ({"seed": 2**70}, "seed", None),
        ({"stop": ["a"] * 5}, "stop", "5 texts, of which 4 are allowed"),
        ({"stop": ""}, "stop", "1 to 256 characters"),
        ({"stop": [1]}, "stop", "a list of texts"),
        ({"stop": {"a": 1}}, "stop", "a list of texts"),
        ({"stream": "yes"}, "stream", "valid boolean"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"n": 2}, "n", "one answer per request"),
        ({"n": 1.5}, "n", "one answer per request"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"presence_penalty": 0.5}, "presence_penalty", "use 0, or leave it out"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", '{"type": "text"}'),
        ({"top_k": 5}, "top_k", "Unrecognized request argument supplied: top_k"),
        ({"<script>\x00\ud800": 5}, None, "Unrecognized"),
        ({"model": 5}, "model", "valid string"),
        ({"model": "x" * 600}, "model", None),
    ],
)
def test_parameters(
    server: Serving, parameters: dict[str, Any], param: str | None, words: str | None
) -> None:
    body = {"model": "tiny", "messages": [user("Hello")], **parameters}
    content = json.dumps(body)
    error = refused(server.client.post(CHAT, content=content, headers=JSON), 400, words or "")
    assert param is None or error["param"] == param


def test_parameters_that_ask_for_nothing_are_taken(server: Serving) -> None:
    plain = server.text("Hello")
    nothing = {
        "n": 1,
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "logit_bias": {},
        "logprobs": False,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "user": "ada",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "stop": None,
        "temperature": None,
        "top_p": None,
        "stream": None,
        "stream_options": None,
        "seed": None,
        "max_completion_tokens": None,
        "reasoning_effort": None,
    }
    assert server.text("Hello", **nothing) == plain


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([5], "messages[0]: an object"),
        (["hello"], "messages[0]: an object"),
        ([{}], "messages[0].role"),
        ([{"role": "wizard", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content: is required"),
        ([{"role": "user", "content": 5}], "a text or a list of parts"),
        ([{"role": "user", "content": []}], "the list of parts is empty"),
        ([user("a"), {"role": "assistant", "content": "b"}], "the last message is the user's"),
        ([{"role": "assistant", "content": "b"}, user("a")], "starts with the user"),
        ([user("a"), {"role": "system", "content": "b"}, user("a")], "before all others"),
        ([{"role": "system", "content": "b"}], "the last message is the user's"),
        ([{"role": "tool", "content": "b", "tool_call_id": "1"}], "calls no tools"),
        ([{**user("a"), "tool_calls": [1]}], "messages[0].tool_calls"),
        ([{**user("a"), "x" * 900: 1}], "is not supported"),
        ([user({"type": "text"})], "content[0].text: a text is needed"),
        ([user({"type": "input_audio"})], "content[0].type: text or image_url"),
        ([user({"type": "image_url"})], "content[0].image_url.url"),
        ([user({"type": "image_url", "image_url": "data:"})], "content[0].image_url.url"),
        ([user({"type": "image_url", "image_url": {"url": 1}})], "content[0].image_url.url"),
        ([user("a", 7)], "content[1].type"),
        ([user("half \ud800 of one")], "surrogate"),
        ([{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
          user("a")], "holds no images"),
        ([user("x")] * 10_000, "10000 messages, of which 2048 are allowed"),
        ([user("word " * 2_000)], "This model's maximum context length is 512 tokens"),
        ([user("w" * 500_000)], "This model's maximum context length is 512 tokens"),
        ([user("x")] * 2_000, "This model's maximum context length is 512 tokens"),
    ],
)  # fmt: skip
def test_messages(server: Serving, messages: list[Any], words: str) -> None:
    content = json.dumps({"model": "tiny", "messages": messages})
    refused(server.client.post(CHAT, content=content, headers=JSON), 400, words)


def test_an_answer_that_has_no_room(server: Serving) -> None:
    error = refused(server.chat("Hello", max_tokens=512), 400, "maximum context length is 512")
    assert error["code"] == "context_length_exceeded"
    assert server.chat("Hello", max_tokens=5).status_code == 200


def test_hostile_texts_are_texts(server: Serving) -> None:
    for text in (
        "\x00\x01\x02",
        "\u202e\u2066",
        "'; DROP TABLE runs;--",
        "{{7*7}}{% raw %}",
        "%s" * 9,
    ):
        assert server.chat(text).status_code == 200


def bomb() -> bytes:
    """A PNG of 50,000 x 50,000 pixels in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9_999))
    )


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


BAD_IMAGES = {
    "empty": (b"", "holds no bytes"),
    "text": (b"hello", "not an image"),
    "html": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "half a png": (encoded(noise())[:900], "truncated"),
    "half a jpeg": (encoded(noise(), "JPEG")[:600], "truncated"),
    "bomb": (bomb(), "too large"),
    "large": (encoded(Image.new("RGB", (2_000, 1_001))), "too large"),
    "animated gif": (animated("GIF"), "animated"),
    "animated png": (animated("PNG"), "animated"),
    "animated webp": (animated("WEBP"), "animated"),
    "tiff": (encoded(noise(), "TIFF"), "tif is not taken"),
    "bmp": (encoded(noise(), "BMP"), "bmp is not taken"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images_that_are_none(server: Serving, name: str) -> None:
    data, words = BAD_IMAGES[name]
    error = refused(server.chat("Look:", encoded(noise()), data), 400, "image 2 of 2: ", words)
    assert error["code"] == "invalid_image"


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("", 400, "a data URL"),
        ("file:///etc/passwd", 400, "a data URL"),
        ("/etc/passwd", 400, "a data URL"),
        ("ftp://example.org/a.png", 400, "a data URL"),
        ("data:image/png,abc", 400, "a data URL"),
        ("data:text/html;base64,aGVsbG8=", 400, "a data URL"),
        ("data:image/png;base64,a", 400, "base64 is damaged"),
        ("data:image/png;base64,\u00e9\u00e9\u00e9\u00e9", 400, "base64 is damaged"),
        ("data:image/png;base64," + "A" * 300_000, 413, "more than 200,000 bytes"),
        ("http://127.0.0.1/a.png", 400, "addresses are not fetched by this server"),
        ("HTTPS://example.org/a.png", 400, "addresses are not fetched by this server"),
    ],
)
def test_urls(server: Serving, url: str, status: int, words: str) -> None:
    content = {"type": "image_url", "image_url": {"url": url}}
    refused(server.chat("Look:", content), status, "image 1 of 1: ", words)


def test_more_images_than_allowed(server: Serving) -> None:
    one = encoded(noise((8, 8)))
    assert server.chat("Look:", one, one, one).status_code == 200
    refused(server.chat("Look:", one, one, one, one), 400, "4 images, of which 3 are allowed")


KINDS = {
    "cmyk": encoded(noise().convert("CMYK"), "JPEG"),
    "grey": encoded(noise().convert("L")),
    "grey with alpha": encoded(noise().convert("LA")),
    "palette": encoded(noise().convert("P")),
    "bits": encoded(noise().convert("1")),
    "rgba": encoded(noise().convert("RGBA")),
    "16 bits": encoded(Image.new("I;16", (20, 20), 40_000)),
    "webp": encoded(noise(), "WEBP"),
    "gif": encoded(noise(), "GIF"),
    "dot": encoded(noise((1, 1))),
    "strip": encoded(noise((1_900, 3))),
    "two in a jpeg": encoded(noise(), "MPO", save_all=True, append_images=[noise()]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind(server: Serving, kind: str) -> None:
    assert server.chat("Look:", KINDS[kind]).status_code == 200


def test_huge_bodies(server: Serving) -> None:
    refused(server.client.post(CHAT, content=b" " * (2**20 + 1), headers=JSON), 413, "larger than")

    def drip() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    # The server need not read it to the end.
    with contextlib.suppress(httpx.TransportError):
        refused(server.client.post(CHAT, content=drip(), headers=JSON), 413, "larger than")


def test_a_request_that_never_ends(server: Serving) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        begun = time.monotonic()
        assert b"408" in slow.recv(65_536).split(b"\r\n")[0]
        assert time.monotonic() - begun < 10


def test_other_kinds_of_requests(server: Serving) -> None:
    get = server.client
    body = {"model": "tiny", "messages": [user("a")], "max_tokens": 2}
    form = {"Content-Type": "text/plain"}
    refused(get.post(CHAT, content=json.dumps(body), headers=form), 415, "application/json")
    packed = {**JSON, "Content-Encoding": "gzip"}
    refused(get.post(CHAT, content=b"x", headers=packed), 415, "compressed")
    refused(get.get(CHAT), 405)
    refused(get.post("/v1/completions", json=body), 404, "/v1/chat/completions")
    refused(get.get("/../../etc/passwd"), 404)
    # A page elsewhere that got its name to point here.
    for host in ("evil.example", "[::1", "127.0.0.1.evil.example", "localhost@evil.example"):
        refused(get.post(CHAT, json=body, headers={"Host": host}), 421, "--tokens")


WORDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.sampled_from(
            ["messages", "model", "stop", "seed", "stream", "temperature", "n", "tools"]
        ),
        WORDS,
        max_size=3,
    ),
    st.sampled_from(["body", "message", "part", "image"]),
    WORDS,
)
def test_anything_at_all(server: Serving, more: dict[str, Any], place: str, value: Any) -> None:
    body: dict[str, Any] = {"model": "tiny", "messages": [user("a")], "max_tokens": 2}
    if place == "body":
        body |= more
    elif place == "message":
        body["messages"] = [value, {"role": "user", "content": value}]
    elif place == "part":
        body["messages"] = [{"role": "user", "content": [value, {"type": "text", "text": value}]}]
    else:
        data = base64.b64encode(repr(value).encode()).decode()
        url = value if isinstance(value, str) else f"data:image/png;base64,{data}"
        body["messages"] = [user("a", {"type": "image_url", "image_url": {"url": url}})]
    answer = server.client.post(CHAT, content=json.dumps(body), headers=JSON)
    if answer.status_code != 200:
        refused(answer, answer.status_code if answer.status_code in (400, 404) else 400)


def test_only_bearers_of_a_token(tiny: Path, tmp_path: Path) -> None:
    token, _ = make_token(tmp_path / "tokens", "ada")
    with serving(tiny, tokens=Tokens(tmp_path / "tokens")) as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {token}"},
            {"Authorization": "Bearer \xff".encode("latin-1")},
            {"Cookie": f"vila_session={token}"},
        ):
            for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/metrics")):
                answer = server.client.request(method, path, headers=headers)
                error = refused(answer, 401, "Bearer TOKEN")
                assert error["type"] == "authentication_error"
                assert answer.headers["www-authenticate"] == "Bearer"
        assert server.client.get("/healthz").status_code == 200
        server.client.headers.update({"Authorization": f"Bearer {token}", "Host": "models.example"})
        assert server.text("Hello")
