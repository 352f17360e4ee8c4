"""Headers, robots.txt and addresses: who may be asked for what."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila_core.data.download.address import parse
from vila_core.data.download.connection import is_public
from vila_core.data.download.consent import opted_out
from vila_core.data.download.reasons import Failure
from vila_core.data.download.robots import MAX_BYTES
from vila_core.data.download.robots import parse as parse_robots


@pytest.mark.parametrize(
    ("robots", "tdm", "found"),
    [
        ([], [], ""),
        (["all"], ["0"], ""),
        (["noai"], [], "noai"),
        (["NoAI"], [], "noai"),
        (["nofollow, noimageai"], [], "noimageai"),
        (["noindex"], [], "noindex"),
        (["nofollow", "noimageindex"], [], "noimageindex"),
        (["none"], [], "none"),
        (["googlebot: noai"], [], ""),
        (["googlebot: nofollow, noai"], [], ""),
        (["googlebot: noai, vila-download: noindex"], [], "noindex"),
        (["vila-download: noai"], [], "noai"),
        (["VILA-Download : noai"], [], "noai"),
        (["img2dataset: noai"], [], "noai"),
        (["*: noai"], [], "noai"),
        (["googlebot: noai", "noai"], [], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], [], "noai"),
        (["max-image-preview: large"], [], ""),
        ([], ["1"], "tdm-reservation: 1"),
        ([], ["0", " 1 "], "tdm-reservation: 1"),
        ([""], [""], ""),
    ],
)
def test_headers_that_opt_out(robots: list[str], tdm: list[str], found: str) -> None:
    assert opted_out(robots, tdm).removeprefix("X-Robots-Tag: ") == found


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("user-agent:*\ndisallow:/a # why", "/a.jpg", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("User-agent: *\nAllow: /a/b\nDisallow: /a", "/a/b/c", True),
        ("User-agent: *\nDisallow: /a\nAllow: /a", "/a", True),
        ("User-agent: *\nDisallow: /*.jpg$", "/x/y.jpg", False),
        ("User-agent: *\nDisallow: /*.jpg$", "/x/y.jpg?size=2", True),
        ("User-agent: *\nDisallow: /*.jpg", "/x/y.jpg?size=2", False),
        ("User-agent: *\nDisallow: /a*b*c", "/a-b-c-d", False),
        ("User-agent: *\nDisallow: /a*b$", "/ab", False),
        ("User-agent: *\nDisallow: /ab*b$", "/ab", True),
        ("User-agent: *\nDisallow: /*$", "/x", False),
        ("User-agent: *\nDisallow: /x$", "/xy", True),
        ("User-agent: *\nDisallow: /?q=", "/?q=1", False),
        ("User-agent: *\nDisallow: /%7Eme", "/~me", False),
        ("User-agent: *\nDisallow: /grün", "/gr%C3%BCn", False),
        ("User-agent: googlebot\nDisallow: /", "/a", True),
        ("User-agent: vila-download\nDisallow: /\n\nUser-agent: *\nAllow: /", "/a", False),
        ("User-agent: Vila-Download/2.0\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow: /\n\nUser-agent: vila-download\nDisallow: /b", "/a", True),
        ("User-agent: img2dataset\nDisallow: /", "/a", False),
        ("User-agent: a\nUser-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow: /b\nUser-agent: *\nDisallow: /a", "/a", False),
        ("\ufeffUser-agent: *\r\nDisallow: /a", "/a", False),
        ("Disallow: /", "/a", True),
        ("Sitemap: x\nUser-agent: *\nSitemap: y\nDisallow: /", "/a", False),
        ("<html>User-agent: *", "/a", True),
    ],
)
def test_robots_txt(text: str, path: str, allowed: bool) -> None:
    assert parse_robots(text.encode()).allow(path) == allowed


def test_a_robots_txt_made_to_stop_us_does_not() -> None:
    begun = time.monotonic()
    stars = f"User-agent: *\nDisallow: /{'a*' * 2000}b\n".encode()
    assert parse_robots(stars).allow("/" + "a" * 5000)
    many = b"User-agent: *\n" + b"Disallow: /x\n" * 100_000
    assert not parse_robots(many).allow("/x")
    assert parse_robots(b" " * MAX_BYTES + many).allow("/x")  # cut off where crawlers may stop
    assert time.monotonic() - begun < 3


def test_crawl_delays_of_our_groups_count() -> None:
    text = b"User-agent: *\nCrawl-delay: 2.5\n\nUser-agent: other\nCrawl-delay: 9\n"
    assert parse_robots(text).delay_s == 2.5
    assert parse_robots(b"User-agent: *\nCrawl-delay: nan\nCrawl-delay: x").delay_s == 0


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "255.255.255.255", "224.0.1.1", "192.0.2.1", "198.18.0.1", "240.0.0.1"),
        *("::1", "::", "fe80::1", "fc00::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1"),
        *("64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::1", "::ffff:a9fe:a9fe"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        ("http://example.org", "http://example.org:80", "/"),
        (" HTTPS://Example.ORG/a b?x=ü#y ", "https://example.org:443", "/a%20b?x=%C3%BC"),
        ("http://example.org:8080?q", "http://example.org:8080", "/?q"),
        ("http://bücher.example/a%20b", "http://xn--bcher-kva.example:80", "/a%20b"),
        ("http://[2606:4700::1111]/x", "http://[2606:4700::1111]:80", "/x"),
    ],
)
def test_addresses_are_asked_in_ascii(text: str, origin: str, target: str) -> None:
    address = parse(text)
    assert (address.origin, address.target) == (origin, target)


@given(st.one_of(st.text(), st.from_regex(r"https?://\S*", fullmatch=True)))
def test_any_text_is_an_address_or_none(text: str) -> None:
    found: list[Failure] = []
    try:
        address = parse(text)
    except Failure as failure:
        found.append(failure)
    else:
        assert address.target.isascii()
        assert not set(address.origin + address.target) & set(" \r\n\t\0")
    assert all(one.reason == "bad address" and one.message.isprintable() for one in found)


@given(st.binary(max_size=300), st.text(max_size=50))
def test_any_bytes_are_a_robots_txt(data: bytes, path: str) -> None:
    parse_robots(b"User-agent: *\nDisallow: /" + data).allow(f"/{path.encode('utf-8', 'ignore')}")
