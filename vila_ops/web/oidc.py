"""Logging in at an OpenID provider: authorization code with PKCE, and an ID token that is checked.

What a login needs to remember stands in a signed cookie of the browser that began it: the state,
and where to go then. Nonce and PKCE verifier are signatures of the state, so that whoever has the
cookie still can't tell them, and any process with the same session key can end the login.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from vila_core.errors import UserError, VilaError
from vila_ops.web.oidc_config import NotAllowed, OidcConfig, person
from vila_ops.web.roles import Role
from vila_ops.web.sessions import Sessions

if TYPE_CHECKING:
    import httpx
    from joserfc.jwk import Key

LOGIN_SECONDS = 600
"""To come back from the provider."""
TIMEOUT_SECONDS = 5.0
LEEWAY_SECONDS = 60
"""Of clocks that differ."""
_KNOWN_SECONDS = 3600.0
_KEYS_AGAIN_SECONDS = 30.0
"""Unknown keys make us ask for new ones, but not more often: anybody can name an unknown key."""
_MOST_BYTES = 2**20
_MOST_USED = 10_000
_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}

log = logging.getLogger("vila.dashboard")


class ProviderDown(VilaError):
    """The provider does not answer, or not as OpenID says."""


class LoginRefused(Exception):
    """This login proves nothing; the text is for the one who tries, and tells no secret."""


@dataclass(frozen=True)
class Person:
    """Who the provider says it is."""

    name: str
    role: Role
    goal: str


class Provider:
    """One OpenID provider. Its addresses and keys are asked for when needed, and remembered."""

    def __init__(self, config: OidcConfig) -> None:
        """Ask nobody yet."""
        self.config = config
        self.key = (
            hashlib.sha256(config.session_key.read().encode()).digest()
            if config.session_key
            else None
        )
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._metadata_at = self._keys_at = -float("inf")
        self._keys: list[Key] = []
        self._used: OrderedDict[str, float] = OrderedDict()
        self._http: httpx.Client | None = None

    def begin(self, sessions: Sessions, goal: str) -> tuple[str, str]:
        """Return the provider's address to send a browser to, and the cookie that it must keep.

        Raises ProviderDown.
        """
        state = secrets.token_urlsafe(24)
        cookie = sessions.seal(
            "oidc login", {"state": state, "goal": goal, "until": time.time() + LOGIN_SECONDS}
        )
        challenge = hashlib.sha256(_verifier(sessions, state).encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": self.config.callback,
            "scope": " ".join(self.config.scopes),
            "state": state,
            "nonce": _nonce(sessions, state),
            "code_challenge": base64.urlsafe_b64encode(challenge).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        return _with_query(self._address("authorization_endpoint"), asked), cookie

    def finish(self, sessions: Sessions, cookie: str, answer: Mapping[str, str]) -> Person:
        """Return who logged in, from the query that the provider sent the browser back with.

        Raises LoginRefused and ProviderDown.
        """
        held = sessions.open("oidc login", cookie) or {}
        state = str(held.get("state", ""))
        if not state or not hmac.compare_digest(state.encode(), answer.get("state", "").encode()):
            raise LoginRefused("this login was begun in another browser, or long ago: begin again")
        if float(held.get("until", 0)) < time.time():
            raise LoginRefused("this login took longer than 10 minutes: begin again")
        self._use_up(state)
        if answer.get("iss", self.config.issuer) != self.config.issuer:
            raise LoginRefused("another provider answered than the one that was asked")
        if "error" in answer:
            raise LoginRefused(f"the provider says: {_shown(answer['error'])}")
        if not answer.get("code"):
            raise LoginRefused("the provider sent no code: begin again")
        tokens = self._exchange(answer["code"], _verifier(sessions, state))
        claims = self._claims(str(tokens.get("id_token", "")), _nonce(sessions, state))
        if self.config.userinfo:
            claims = {**self._userinfo(str(tokens.get("access_token", "")), claims), **claims}
        try:
            name, role = person(self.config, claims)
        except NotAllowed as error:
            raise LoginRefused(str(error)) from None
        return Person(name, role, str(held.get("goal", "/")))

    def logout_url(self) -> str:
        """Return where to log out at the provider, empty if it offers that to nobody."""
        if self.config.logout != "provider":
            return ""
        try:
            address = self._address("end_session_endpoint")
        except ProviderDown:
            return ""
        return _with_query(
            address,
            {
                "client_id": self.config.client_id,
                "post_logout_redirect_uri": f"{self.config.url}/login",
            },
        )

    def warm(self) -> None:
        """Ask for the provider's addresses, so that what is wrong with them is logged early."""
        try:
            self._address("authorization_endpoint")
        except ProviderDown as error:
            log.warning("nobody can log in at %s now: %s", self.config.shown, error)

    def _use_up(self, state: str) -> None:
        with self._lock:
            if state in self._used:
                raise LoginRefused("this login was ended already: begin again")
            self._used[state] = time.time()
            while len(self._used) > _MOST_USED:
                self._used.popitem(last=False)

    def _exchange(self, code: str, verifier: str) -> dict[str, Any]:
        """Return what the provider gives for a code, which it does once."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.config.callback,
            "code_verifier": verifier,
        }
        headers = {}
        if self.config.client_secret is None:
            form["client_id"] = self.config.client_id
        else:
            try:
                secret = self.config.client_secret.read()
            except UserError as error:
                raise ProviderDown(f"client_secret: {error}") from None
            methods = self._discovered().get("token_endpoint_auth_methods_supported")
            if isinstance(methods, list) and "client_secret_basic" not in methods:
                form |= {"client_id": self.config.client_id, "client_secret": secret}
            else:
                pair = f"{quote(self.config.client_id, safe='')}:{quote(secret, safe='')}"
                headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        status, value = self._ask("POST", self._address("token_endpoint"), headers, form)
        if status != 200:
            reason = _shown(value.get("error")) or f"status {status}"
            if reason in ("invalid_client", "unauthorized_client"):
                raise ProviderDown(f"the provider does not take our client_id and secret: {reason}")
            raise LoginRefused(f"the provider takes this code not, or not again: {reason}")
        return value

    def _userinfo(self, token: str, claims: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        status, value = self._ask("GET", self._address("userinfo_endpoint"), headers)
        if status != 200:
            raise ProviderDown(f"userinfo_endpoint answers with status {status}")
        if value.get("sub") != claims["sub"]:
            raise LoginRefused("the provider tells of somebody else than who logged in")
        return value

    def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        """Return the claims of an ID token: signed by the provider, for us, now, for this login."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        header = _header(token)
        algorithm = header.get("alg")
        if algorithm not in self.config.algorithms:
            raise LoginRefused(f"the ID token is signed with {_shown(algorithm)}, not as agreed")
        key = self._key(header.get("kid"), str(algorithm))
        rules = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self.config.issuer},
            sub={"essential": True},
            aud={"essential": True, "value": self.config.client_id},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            claims = jwt.decode(token, key, algorithms=[str(algorithm)]).claims
            rules.validate(claims)
        except (JoseError, ValueError) as error:
            raise LoginRefused(f"the ID token is not good: {_shown(str(error))}") from None
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else self.config.client_id) != self.config.client_id:
            raise LoginRefused("the ID token was made for another client")
        return claims

    def _key(self, kid: object, algorithm: str) -> Key:
        kind = _KINDS[algorithm[:2]]
        for again in (False, True):
            known = [key for key in self._known_keys(again) if key.key_type == kind]
            fits = [key for key in known if kid is None or key.kid == kid]
            if len(fits) == 1:
                return fits[0]
        raise LoginRefused("the ID token is signed with a key that the provider does not publish")

    def _known_keys(self, again: bool) -> list[Key]:
        """Return the provider's public keys; ask anew when they are old, or one was not there."""
        from joserfc.errors import JoseError
        from joserfc.jwk import JWKRegistry

        with self._lock:
            age = time.monotonic() - self._keys_at
            if age < (_KEYS_AGAIN_SECONDS if again else _KNOWN_SECONDS):
                return self._keys
        try:
            status, value = self._ask("GET", self._address("jwks_uri"))
            if status != 200 or not isinstance(value.get("keys"), list):
                raise ProviderDown(f"jwks_uri answers with status {status}, and no keys")
        except ProviderDown:
            if self._keys:
                return self._keys
            raise
        found = []
        for one in value["keys"]:
            # Never a shared secret: a public key must not be taken for one.
            if isinstance(one, dict) and one.get("kty") in ("RSA", "EC", "OKP"):
                if one.get("use", "sig") != "sig":
                    continue
                try:
                    found.append(JWKRegistry.import_key(one))
                except (JoseError, ValueError, KeyError, TypeError):  # of a kind unknown here
                    continue
        with self._lock:
            self._keys, self._keys_at = found, time.monotonic()
        return found

    def _address(self, name: str) -> str:
        address = self._discovered().get(name)
        if not isinstance(address, str):
            raise ProviderDown(f"its discovery document has no {name}")
        parts = urlsplit(address)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise ProviderDown(f"its {name} is no https:// address: {_shown(address)}")
        return address

    def _discovered(self) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() - self._metadata_at < _KNOWN_SECONDS:
                return self._metadata
        url = f"{self.config.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            status, value = self._ask("GET", url)
            if status != 200:
                raise ProviderDown(f"{url} answers with status {status}")
            if value.get("issuer") != self.config.issuer:
                text = f"{url} is of the issuer {_shown(value.get('issuer'))}"
                raise ProviderDown(f"{text}; fix: write issuer: as it stands there")
        except ProviderDown:
            if self._metadata:
                return self._metadata
            raise
        with self._lock:
            self._metadata, self._metadata_at = value, time.monotonic()
        return value

    def _ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of an answer; redirects are not followed, sizes are bounded."""
        import httpx

        with self._lock:
            if self._http is None:
                self._http = httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False)
            client = self._http
        place = urlsplit(url).netloc
        body = b""
        try:
            more = {"Accept": "application/json", **(headers or {})}
            with client.stream(method, url, headers=more, data=form) as answer:
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise ProviderDown(f"{place} answers with more than 1 MiB")
                status = answer.status_code
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ProviderDown(f"{place} does not answer: {reason}") from None
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            if status == 200:
                raise ProviderDown(f"{place} answers with something that is no JSON object")
            value = {}
        return status, value


def _verifier(sessions: Sessions, state: str) -> str:
    return sessions.sign(f"oidc verifier {state}")


def _nonce(sessions: Sessions, state: str) -> str:
    return sessions.sign(f"oidc nonce {state}")


def _header(token: str) -> dict[str, Any]:
    try:
        part = token.split(".")[0]
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise LoginRefused("the provider sent no ID token")
    return value


def _with_query(address: str, values: Mapping[str, str]) -> str:
    return f"{address}{'&' if '?' in address else '?'}{urlencode(values)}"


def _shown(value: object) -> str:
    """Return foreign text for a message: short, printable."""
    text = str(value or "")[:120]
    return "".join(letter if letter.isprintable() else "?" for letter in text)
