"""Images from a server that does everything wrong that servers do."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.image_server import Act, Site, certificates, drip, running, send
from tests.data.make import noise, picture, png_header
from vila_core.config import validate
from vila_core.data.download import hosts
from vila_core.data.download.run import Report, download
from vila_core.data.download.settings import DownloadConfig
from vila_core.errors import UserError

JPEG = noise(1)
FAST: dict[str, Any] = {
    "format": "coyo",
    "allow_private": ["127.0.0.1/32"],
    "timeout_s": 0.5,
    "deadline_s": 1.0,
    "backoff_s": 0.05,
    "max_bytes": 50_000,
    "threads": 16,
}


@pytest.fixture
def site() -> Iterator[Site]:
    with running() as one:
        yield one


def config(folder: Path, urls: list[str | None], **values: Any) -> DownloadConfig:
    (folder / "corpus").mkdir(exist_ok=True)
    texts = [f"text {number}" for number in range(len(urls))]
    table = pa.table({"id": range(len(urls)), "url": pa.array(urls, pa.string()), "text": texts})
    pq.write_table(table, folder / "corpus" / "part-00000.parquet")
    section = {**FAST, "path": str(folder / "corpus"), **values}
    return validate(DownloadConfig, section, where="test")


def fetch(
    folder: Path, urls: list[str | None], **values: Any
) -> tuple[Report, list[dict[str, Any]]]:
    report = download(config(folder, urls, **values), folder / "out")
    return report, pq.ParquetFile(folder / "out" / "00000.parquet").read().to_pylist()


def told(folder: Path, url: str, **values: Any) -> str | None:
    """Fetch one address; return its message, None for an image."""
    report, (row,) = fetch(folder, [url], **values)
    assert report.addresses == 1 == report.images + sum(report.reasons.values())
    assert (row["status"] == "success") == (row["error_message"] is None)
    return row["error_message"]


BOMB = gzip.compress(bytes(30_000_000))
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("acts", "message", "asked"),
    [
        ([send(status=404)], "refused: HTTP 404", 1),
        ([send(status=403)], "refused: HTTP 403", 1),
        ([send(status=500), send(JPEG)], None, 2),
        ([send(status=500)], "server error: HTTP 500", 3),
        ([send(status=503), send(status=503), send(JPEG)], None, 3),
        ([send(status=204)], "refused: HTTP 204", 1),
        ([send(JPEG, length=len(JPEG) + 9)], "truncated: the connection ended early", 3),
        ([send(JPEG[:900], length=900)], "damaged image: ", 1),
        (
            [drip(CHUNKED + b"5\r\nabcde\r\n", b"", 0, seconds=0)],
            "truncated: the connection ended early",
            3,
        ),
        ([send(b"<!DOCTYPE html><p>gone</p>")], "not an image: 26 bytes", 1),
        ([send(b"")], "not an image: 0 bytes, starting no bytes at all", 1),
        ([send(picture(size=(4, 100)))], "too small: 4 x 100", 1),
        ([send(png_header(60_000, 60_000))], "too large: ", 1),
        ([send(bytes(10), length=60_000)], "file too large: 60,000 bytes announced", 1),
        ([send(BOMB, Content_Encoding="gzip")], "file too large: more than 50,000", 1),
        ([send(gzip.compress(JPEG), Content_Encoding="gzip")], None, 1),
        ([send(gzip.compress(JPEG)[:-9], Content_Encoding="gzip")], "truncated: ", 3),
        ([send(JPEG, Content_Encoding="gzip")], "bad encoding: the compressed", 1),
        ([send(JPEG, Content_Encoding="br")], "bad encoding: 'br'", 1),
        ([send(JPEG, X_Robots_Tag="noai")], "opted out: X-Robots-Tag: noai", 1),
        ([send(JPEG, tdm_reservation="1")], "opted out: tdm-reservation: 1", 1),
        ([send(JPEG, tdm_reservation="0", X_Robots_Tag="nofollow")], None, 1),
        ([drip(b"nonsense\r\n\r\n", b"", 0, seconds=0)], "unreachable: no sound HTTP: ", 3),
    ],
)
def test_an_answer_becomes_an_image_or_a_reason(
    site: Site, tmp_path: Path, acts: list[Act], message: str | None, asked: int
) -> None:
    url = site.put("/a.jpg", *acts)
    found = told(tmp_path, url)
    if message is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(message)
    assert len(site.times("/a.jpg")) == asked


def test_slow_and_endless_answers_end_in_time(site: Site, tmp_path: Path) -> None:
    ok = b"HTTP/1.1 200 OK\r\n"
    acts = {
        "sound": (send(JPEG), None),
        "silent": (send(JPEG, after=1.0), "timeout: silent for 0.5 s"),
        "slow body": (drip(ok + b"\r\n", b"x", 0.1), "timeout: not done after 1 s"),
        "slow headers": (drip(ok, b"a: b\r\n", 0.1), "timeout: not done after 1 s"),
        "slow chunks": (drip(CHUNKED, b"1\r\nx\r\n", 0.1), "timeout: not done after 1 s"),
        "endless": (drip(ok + b"\r\n", bytes(4096), 0.0), "file too large: more than 50,000 bytes"),
    }
    urls: list[str | None] = [site.put(f"/{name[-4:]}", act) for name, (act, _) in acts.items()]
    begun = time.monotonic()
    _, rows = fetch(tmp_path, urls, retries=0, per_host=8)
    assert time.monotonic() - begun < 4
    found = dict(zip(acts, (row["error_message"] for row in rows), strict=True))
    assert found == {name: message for name, (_, message) in acts.items()}


def test_a_busy_host_is_left_alone_for_as_long_as_it_says(site: Site, tmp_path: Path) -> None:
    url = site.put("/a.jpg", send(status=429, Retry_After="1"), send(JPEG))
    other = site.put("/b.jpg", send(JPEG, after=0.05))
    report, _ = fetch(tmp_path, [url, other, other, other], per_host=1)
    assert report.images == 4
    first, second = site.times("/a.jpg")
    assert second - first >= 1
    assert all(at - first >= 1 for at in site.times("/b.jpg"))


def test_a_host_that_says_hours_is_not_waited_for(site: Site, tmp_path: Path) -> None:
    url = site.put("/a.jpg", send(status=503, Retry_After="7200"))
    assert told(tmp_path, url) == "busy: HTTP 503, for 7,200 s"
    assert len(site.times("/a.jpg")) == 1


def test_redirects_are_followed_a_few_times_and_never_inwards(site: Site, tmp_path: Path) -> None:
    site.put("/image.jpg", send(JPEG))
    urls: list[str | None] = [
        site.put("/good", send(status=302, Location="/image.jpg")),
        site.put("/loop", send(status=301, Location="/loop")),
        site.put("/inner", send(status=302, Location="http://127.0.0.2:1/x")),
        site.put("/cloud", send(status=307, Location="http://169.254.169.254/latest/meta-data")),
        site.put("/mapped", send(status=307, Location="http://[::ffff:10.0.0.1]/x")),
        site.put("/number", send(status=308, Location="http://2130706434/")),
        site.put("/file", send(status=302, Location="file:///etc/passwd")),
        site.put("/ftp", send(status=302, Location="ftp://example.org/a.jpg")),
        site.put("/user", send(status=302, Location="http://a:b@example.org/")),
        site.put("/opted", send(status=302, Location="/image.jpg", X_Robots_Tag="noimageai")),
    ]
    _, rows = fetch(tmp_path, urls)
    assert [row["error_message"] for row in rows] == [
        None,
        "redirects: more than 5",
        "private address: 127.0.0.2",
        "private address: 169.254.169.254",
        "private address: ::ffff:10.0.0.1",
        "private address: 2130706434",
        "bad address: http or https is needed: 'file:///etc/passwd'",
        "bad address: http or https is needed: 'ftp://example.org/a.jpg'",
        "bad address: it holds a user name: http://…@example.org",
        "opted out: X-Robots-Tag: noimageai",
    ]
    assert len(site.times("/loop")) == 6


def test_private_networks_are_refused_unless_allowed(site: Site, tmp_path: Path) -> None:
    url = site.put("/a.jpg", send(JPEG))
    assert told(tmp_path, url, allow_private=[]) == "private address: 127.0.0.1"
    assert not site.asked


def test_addresses_that_are_none_are_counted(site: Site, tmp_path: Path) -> None:
    good = site.put("/gr%C3%BCn%20a.jpg?x=1", send(JPEG))
    urls: list[str | None] = [
        None,
        "",
        "no address",
        "http://",
        "http://a b/",
        "http://host:99999/",
        "http://[::1/",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        site.base + "/grün a.jpg?x=1#part",
    ]
    report, rows = fetch(tmp_path, urls)
    assert dict(report.reasons) == {"bad address": 9}
    assert report.images == 1
    assert rows[-1]["url"] != good
    assert report.may_heal == 0


def test_robots_txt_is_asked_once_and_obeyed(site: Site, tmp_path: Path) -> None:
    text = "User-agent: *\nDisallow: /private/\nAllow: /private/shown/\nCrawl-delay: 0.1\n"
    site.put("/robots.txt", send(text.encode()))
    paths = ["/private/a.jpg", "/private/shown/a.jpg", "/b.jpg", "/moved"]
    urls: list[str | None] = [site.put(path, send(JPEG)) for path in paths]
    site.put("/moved", send(status=302, Location="/private/a.jpg"))
    report, rows = fetch(tmp_path, urls, per_host=4)
    assert [row["reason"] for row in rows] == ["robots.txt", None, None, "robots.txt"]
    assert len(site.times("/robots.txt")) == 1
    assert not site.times("/private/a.jpg")
    assert report.may_heal == 0
    asked = sorted(at for at, path in site.asked if path != "/robots.txt")
    assert asked[-1] - asked[-2] >= 0.1


def test_a_robots_txt_that_cannot_be_had_is_a_no(site: Site, tmp_path: Path) -> None:
    site.put("/robots.txt", send(status=500))
    url = site.put("/a.jpg", send(JPEG))
    assert told(tmp_path, url) == "robots.txt unreachable: server error: HTTP 500"
    assert not site.times("/a.jpg")
    assert len(site.times("/robots.txt")) == 3


def test_requests_name_themselves_and_carry_no_cookie(site: Site, tmp_path: Path) -> None:
    urls: list[str | None] = [
        site.put(f"/{n}", send(JPEG, Set_Cookie="a=b; Path=/")) for n in range(5)
    ]
    report, _ = fetch(tmp_path, urls, contact="data@example.org", per_host=1)
    assert report.images == 5
    for headers in site.headers:
        assert headers["User-Agent"].startswith("vila-download/")
        assert "data@example.org" in headers["User-Agent"]
        assert "Cookie" not in headers


def test_no_more_requests_at_a_time_than_allowed(site: Site, tmp_path: Path) -> None:
    urls: list[str | None] = [site.put(f"/{n}", send(JPEG, after=0.02)) for n in range(20)]
    fetch(tmp_path, urls, per_host=3)
    assert 1 < site.most_at_once <= 3


def test_a_dead_host_is_given_up_after_some_tries(tmp_path: Path) -> None:
    with running() as gone:
        urls: list[str | None] = [f"{gone.base}/{n}.jpg" for n in range(200)]
    report, rows = fetch(tmp_path, urls, retries=0, per_host=1)
    assert dict(report.reasons) == {"unreachable": 200}
    assert report.may_heal == 200
    assert {row["error_message"] for row in rows} == {"unreachable: 127.0.0.1: Connection refused"}


def test_certificates_are_verified_with_the_bundle_alone(tmp_path: Path) -> None:
    bundle, context = certificates(tmp_path / "good")
    with running(context) as site:
        url = site.put("/a.jpg", send(JPEG))
        plain = told(tmp_path, url)
        assert plain is not None
        assert plain.startswith("certificate: ")
        assert "self-signed certificate" in plain or "unable to get local issuer" in plain
        assert not site.asked
        (tmp_path / "trusting").mkdir()
        assert told(tmp_path / "trusting", url, ca_bundle=str(bundle)) is None


def test_a_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    bundle, context = certificates(tmp_path / "other", host="example.org")
    with running(context) as site:
        url = site.put("/a.jpg", send(JPEG))
        message = told(tmp_path, url, ca_bundle=str(bundle))
    assert message is not None
    assert "IP address mismatch" in message
    assert not site.asked


def test_a_bundle_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(UserError, match="no certificates in PEM form"):
        told(tmp_path, "http://127.0.0.1:1/", ca_bundle=str(tmp_path / "ca.pem"))


def test_hosts_take_turns_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "GIVEN_UP_AFTER", 2)
    waiting: hosts.Hosts[int] = hosts.Hosts(per_host=1, pause_s=0.0)
    waiting.add([("a", 1), ("a", 2), ("a", 3), ("b", 4)])
    assert waiting.take() == ("a", 1)
    assert waiting.take() == ("b", 4)
    assert not waiting.release("a", failed=True)
    assert waiting.take() == ("a", 2)
    assert waiting.release("a", failed=True) == [3]
    assert not waiting.release("b")
    waiting.add_later("c", 5, 0.1)
    begun = time.monotonic()
    assert waiting.take() == ("c", 5)
    assert time.monotonic() - begun >= 0.1
    assert set(waiting._hosts) == {"c"}  # idle ones are forgotten
    threading.Timer(0.05, waiting.close).start()
    assert waiting.take() is None
