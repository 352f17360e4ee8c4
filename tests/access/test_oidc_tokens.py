"""ID tokens that are forged, for others, or of another time: none of them logs anybody in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from joserfc.jwk import RSAKey

from tests.access.provider import CLIENT, Claims, Provider, config
from vila_ops.web.oidc import LoginRefused, Person
from vila_ops.web.oidc import Provider as Client
from vila_ops.web.roles import Role
from vila_ops.web.sessions import Sessions

SESSIONS = Sessions(lambda: b"k" * 32)


@pytest.fixture
def client(provider: Provider, secret: None) -> Client:
    return Client(config(provider))


def finish(client: Client, provider: Provider) -> Person:
    address, cookie = client.begin(SESSIONS, "/goal")
    query = parse_qs(provider.consent(address))
    return client.finish(SESSIONS, cookie, {name: values[0] for name, values in query.items()})


def refused(client: Client, provider: Provider) -> str:
    with pytest.raises(LoginRefused) as caught:
        finish(client, provider)
    return str(caught.value)


def test_a_good_one(client: Client, provider: Provider) -> None:
    assert finish(client, provider) == Person("ada@example.org", Role.promoter, "/goal")


def b64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def unsigned(provider: Provider) -> Callable[[Claims], str]:
    return lambda claims: f"{b64({'alg': 'none'})}.{b64(claims)}."


def by_public_key(provider: Provider, called: str = "HS256") -> Callable[[Claims], str]:
    """Take the key that everybody knows for a shared secret."""
    key = provider.keys["one"].as_pem(private=False)

    def forge(claims: Claims) -> str:
        body = f"{b64({'alg': called, 'kid': 'one'})}.{b64(claims)}"
        mac = hmac.new(key, body.encode(), hashlib.sha256).digest()
        return f"{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"

    return forge


def by_public_key_as_rsa(provider: Provider) -> Callable[[Claims], str]:
    return by_public_key(provider, "RS256")


def by_own_key(provider: Provider) -> Callable[[Claims], str]:
    key = RSAKey.generate_key(2048)
    return lambda claims: provider.sign(claims, key)


def by_key_in_header(provider: Provider) -> Callable[[Claims], str]:
    key = RSAKey.generate_key(2048)
    jwk = key.as_dict(private=False)
    return lambda claims: provider.sign(claims, key, jwk=jwk, kid="mine")


def changed(provider: Provider) -> Callable[[Claims], str]:
    def forge(claims: Claims) -> str:
        head, _, signature = provider.sign(claims).split(".")
        return f"{head}.{b64({**claims, 'groups': ['ops']})}.{signature}"

    return forge


@pytest.mark.parametrize(
    ("forgery", "said"),
    [
        (unsigned, "signed with none, not as agreed"),
        (by_public_key, "signed with HS256, not as agreed"),
        (by_public_key_as_rsa, "is not good: bad_signature"),
        (by_own_key, "is not good: bad_signature"),
        (by_key_in_header, "a key that the provider does not publish"),
        (changed, "is not good: bad_signature"),
        (lambda provider: lambda claims: "", "sent no ID token"),
        (lambda provider: lambda claims: "a.b.c", "sent no ID token"),
        (lambda provider: lambda claims: "é.é.é", "sent no ID token"),
        (lambda provider: lambda claims: provider.sign(claims)[:-10], "is not good"),
        (lambda provider: lambda claims: provider.sign(claims, alg="RS512"), "RS512, not as"),
    ],
)
def test_forged_tokens(client: Client, provider: Provider, forgery: Any, said: str) -> None:
    provider.forge = forgery(provider)
    assert said in refused(client, provider)


def drop(claims: Claims, name: str) -> Claims:
    return {key: value for key, value in claims.items() if key != name}


@pytest.mark.parametrize(
    ("twist", "said"),
    [
        (lambda c: {**c, "nonce": "another"}, "nonce"),
        (lambda c: drop(c, "nonce"), "nonce"),
        (lambda c: {**c, "exp": int(time.time()) - 61}, "expired"),
        (lambda c: drop(c, "exp"), "exp"),
        (lambda c: {**c, "exp": "soon"}, "exp"),
        (lambda c: {**c, "iat": int(time.time()) + 600}, "future"),
        (lambda c: {**c, "nbf": int(time.time()) + 600}, "not yet valid"),
        (lambda c: {**c, "aud": "another"}, "aud"),
        (lambda c: {**c, "aud": []}, "aud"),
        (lambda c: {**c, "aud": [CLIENT, "another"]}, "for another client"),
        (lambda c: {**c, "azp": "another"}, "for another client"),
        (lambda c: {**c, "iss": "https://evil.example"}, "iss"),
        (lambda c: drop(c, "sub"), "sub"),
        (lambda c: drop(c, "email"), "tells no 'email' that is verified"),
        (lambda c: {**c, "email_verified": False}, "tells no 'email' that is verified"),
        (lambda c: {**c, "email": "a\nb@example.org"}, "tells no 'email'"),
        (lambda c: {**c, "groups": ["others"]}, "is in no group that has a role here"),
        (lambda c: {**c, "groups": {"ops": 1}}, "is in no group that has a role here"),
        (lambda c: drop(c, "groups"), "is in no group that has a role here"),
    ],
)
def test_wrong_claims(
    client: Client, provider: Provider, twist: Callable[[Claims], Claims], said: str
) -> None:
    provider.twist = twist
    assert said in refused(client, provider)


def test_tokens_for_several_clients_that_say_it_is_for_us(
    client: Client, provider: Provider
) -> None:
    provider.twist = lambda claims: {**claims, "aud": [CLIENT, "another"], "azp": CLIENT}
    assert finish(client, provider) == Person("ada@example.org", Role.promoter, "/goal")
