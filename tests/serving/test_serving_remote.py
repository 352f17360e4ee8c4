"""Images by address: only of hosts that were named, and with the downloader's care."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from servers import encoded, noise, serving

from tests.local_http import Handler, served
from vila_core.errors import UserError
from vila_ops.serving.limits import Limits
from vila_ops.serving.problem import ApiError
from vila_ops.serving.remote import Remote

IMAGE = encoded(noise())
LIMITS = Limits(image_bytes=50_000)


class Host(Handler):
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("User-Agent")))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = b"x" * 60_000 if self.path == "/large" else IMAGE
        self.send_response(404 if self.path == "/none" else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with served(Host) as url:
        yield url


def failure(remote: Remote, url: str) -> str:
    with pytest.raises(ApiError) as caught:
        remote(url, "image 1 of 1")
    assert (caught.value.status, caught.value.code) == (400, "invalid_image")
    return caught.value.message


def test_an_allowed_host_is_asked(host: str, tiny: Path) -> None:
    remote = Remote(["127.0.0.1"], ["127.0.0.0/8"], LIMITS)
    assert remote(f"{host}/a.png", "image 1 of 1") == IMAGE
    assert Host.asked[-1][1] is not None
    assert Host.asked[-1][1].startswith("vila-serve/")
    with serving(tiny, fetch=remote) as server:
        url = {"type": "image_url", "image_url": {"url": f"{host}/a.png"}}
        assert server.text("Look:", url) == server.text("Look:", IMAGE)
        other = {"type": "image_url", "image_url": {"url": "http://localhost/a.png"}}
        answer = server.chat("Look:", other)
        assert answer.status_code == 400
        assert "allowed: 127.0.0.1" in answer.json()["error"]["message"]


def test_a_name_does_not_lead_into_the_own_network(host: str) -> None:
    asked = len(Host.asked)
    remote = Remote(["127.0.0.1", "localhost"], [], LIMITS)
    assert "private address" in failure(remote, f"{host}/a.png")
    assert "private address" in failure(remote, f"{host.replace('127.0.0.1', 'localhost')}/a.png")
    assert len(Host.asked) == asked


def test_what_goes_wrong_there_is_told(host: str) -> None:
    remote = Remote(["127.0.0.1"], ["127.0.0.0/8"], LIMITS)
    assert remote(f"{host}/to/{host}/a.png", "image 1 of 1") == IMAGE
    assert "'localhost' are not fetched" in failure(remote, f"{host}/to/http://localhost/a.png")
    assert "bad address" in failure(remote, f"{host}/to/file:///etc/passwd")
    assert "redirects more than 3" in failure(remote, f"{host}{'/to/' * 5}{host}/a.png")
    assert "file too large" in failure(remote, f"{host}/large")
    assert "HTTP 404" in failure(remote, f"{host}/none")
    assert "user name" in failure(remote, "http://a:b@127.0.0.1/a.png")


def test_hosts_below_another(host: str) -> None:
    remote = Remote(["*.images.example"], [], LIMITS)
    for url in ("http://images.example/a", "http://evilimages.example/a", "http://x.example/a"):
        assert "are not fetched" in failure(remote, url)
    assert "no such host" in failure(remote, "http://a.images.example/a") or "unreachable" in (
        failure(remote, "http://a.images.example/a")
    )


@pytest.mark.parametrize("name", ["http://a.example", "a.example/x", "*", "a b", "*.*.example"])
def test_hosts_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="--allow-image-urls"):
        Remote([name], [], LIMITS)


def test_a_network_that_is_none() -> None:
    with pytest.raises(UserError, match="--allow-image-network 10"):
        Remote(["a.example"], ["10"], LIMITS)
