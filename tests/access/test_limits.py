"""Too many requests are refused, by client and by viewer, and what is kept of them is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from tests.web.dashboards import refresh
from vila_core.errors import UserError
from vila_core.store import Store
from vila_ops.web import limits
from vila_ops.web.app import create_app
from vila_ops.web.limits import Buckets, Limit, client_of, proxies_of, same_client
from vila_ops.web.tokens import Tokens, make_token


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_and_fills() -> None:
    clock = Clock()
    buckets = Buckets(Limit(3, 0.5), now=clock)
    assert [buckets.take("a") for _ in range(3)] == [None] * 3
    first, second = buckets.take("a"), buckets.take("a")
    assert first is not None
    assert second is not None
    assert (first.seconds, first.first, second.first) == (2.0, True, False)
    assert buckets.take("b") is None, "another's"
    clock.now += 2
    assert buckets.take("a") is None
    again = buckets.take("a")
    assert again is not None
    assert again.first
    clock.now += 1e9
    assert [buckets.take("a") is None for _ in range(4)] == [True, True, True, False]


def test_what_is_kept_is_bounded() -> None:
    buckets = Buckets(Limit(1, 0.001), most=100)
    assert buckets.take("mine") is None
    for number in range(10_000):
        buckets.take(str(number))
        assert buckets.take("mine") is not None, "who asks on and on is not forgotten"
    assert len(buckets) == 100


def request(peer: str | None, *forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded]
    client = None if peer is None else (peer, 1234)
    return Request({"type": "http", "headers": headers, "client": client})


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", (), "192.0.2.1"),
        ("192.0.2.1", ("203.0.113.9",), "192.0.2.1"),  # no proxy of ours: anybody's text
        ("10.0.0.2", ("203.0.113.9",), "203.0.113.9"),
        ("10.0.0.2", ("198.51.100.7, 203.0.113.9",), "203.0.113.9"),  # what came before is forged
        ("10.0.0.2", ("203.0.113.9, 10.0.0.3",), "203.0.113.9"),  # two proxies
        ("10.0.0.2", ("198.51.100.7", "203.0.113.9"), "203.0.113.9"),
        ("::ffff:10.0.0.2", ("203.0.113.9",), "203.0.113.9"),
        ("10.0.0.2", ("2001:db8::1",), "2001:db8::1"),
        ("10.0.0.2", ("nonsense",), "10.0.0.2"),
        ("10.0.0.2", ("203.0.113.9, nonsense",), "10.0.0.2"),
        ("10.0.0.2", ("",), "10.0.0.2"),
        ("10.0.0.2", (), "10.0.0.2"),
        (None, (), "unknown"),
    ],
)
def test_who_the_client_is(peer: str | None, forwarded: tuple[str, ...], client: str) -> None:
    assert client_of(request(peer, *forwarded), proxies_of(["10.0.0.0/8"])) == client
    assert client_of(request(peer, *forwarded), ()) == (peer or "unknown")


def test_addresses_that_one_machine_has() -> None:
    assert same_client("2001:db8::1") == same_client("2001:db8::ffff:1")
    assert same_client("2001:db8::1") != same_client("2001:db8:0:1::1")
    assert same_client("192.0.2.1") != same_client("192.0.2.2")
    assert same_client("unknown") == "unknown"


@pytest.mark.parametrize("text", ["", "nonsense", "10.0.0.0/33"])
def test_proxies_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=r"--proxy .*is no address or network"):
        proxies_of([text])


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    return {name: make_token(tmp_path / "tokens", name)[0] for name in ("ada", "bob")}


@pytest.fixture
def client(store: Store, tmp_path: Path, tokens: dict[str, str]) -> TestClient:
    app = create_app(store, Tokens(tmp_path / "tokens"), proxies=proxies_of(["10.0.0.0/8"]))
    app.state.watch.start = lambda: None
    refresh(app)
    return TestClient(app, follow_redirects=False, client=("10.0.0.2", 1))


def from_address(number: int) -> dict[str, str]:
    return {"x-forwarded-for": f"203.0.113.{number}"}


def test_guessing_tokens_ends_soon(client: TestClient, tokens: dict[str, str]) -> None:
    wrong = {"authorization": "Bearer vila_wrong", **from_address(1)}
    codes = [client.get("/metrics", headers=wrong).status_code for _ in range(15)]
    assert codes == [401] * 10 + [429] * 5
    answer = client.get("/api/v1/audit", headers=wrong)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    assert "try again in" in answer.json()["detail"]
    good = {"authorization": f"Bearer {tokens['ada']}", **from_address(1)}
    assert client.get("/metrics", headers=good).status_code == 200, "a right one works on"
    answer = client.post("/login", data={"token": "x"}, headers=from_address(1))
    assert answer.status_code == 429
    assert client.post("/login", data={"token": "x"}, headers=from_address(2)).status_code == 403


def test_writes_are_few_and_reads_many(client: TestClient, tokens: dict[str, str]) -> None:
    app = client.app
    app.state.access.reads = Buckets(Limit(20, 0.001))  # type: ignore[attr-defined]
    good = {"authorization": f"Bearer {tokens['ada']}"}
    codes = [client.post("/x", headers=good | from_address(n)).status_code for n in range(35)]
    assert codes == [404] * 30 + [429] * 5, "by viewer, from wherever"
    codes = [client.get("/livez", headers=from_address(1)).status_code for _ in range(30)]
    assert codes == [200] * 30, "probes are not counted"
    codes = [client.get("/login", headers=from_address(1)).status_code for _ in range(22)]
    assert codes == [200] * 20 + [429] * 2, "by client"
    bob = {"authorization": f"Bearer {tokens['bob']}"}
    assert client.get("/metrics", headers=bob | from_address(1)).status_code == 429
    assert client.get("/metrics", headers=bob | from_address(2)).status_code == 200


def test_a_page_with_all_that_it_loads_is_far_below(client: TestClient) -> None:
    assert limits.READS.burst >= 100
    assert limits.READS.per_second >= 10
