"""An OpenID provider on this machine: discovery, keys, codes, tokens; as good or bad as told."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

from vila_ops.web.oidc_config import OidcConfig

CLIENT = "vila-client"
SECRET = "a secret / with : odd & letters"
URL = "https://vila.example.org"

Claims = dict[str, Any]


def config(provider: Provider, **more: Any) -> OidcConfig:
    """How the dashboard uses it; the fixture `secret` sets what it reads."""
    values = {
        "issuer": provider.issuer,
        "client_id": CLIENT,
        "client_secret": {"env": "OIDC_CLIENT"},
        "session_key": {"env": "OIDC_SIGN"},
        "url": URL,
        "label": "the lab",
        "roles": {"map": {"vila-promoters": "promoter", "ml": "viewer", "ops": "admin"}},
    }
    return OidcConfig.model_validate(values | more)


PERSON: Claims = {
    "sub": "248289761001",
    "email": "ada@example.org",
    "email_verified": True,
    "preferred_username": "ada",
    "groups": ["ml", "vila-promoters"],
}


@functools.cache
def _key(name: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": name})


class Provider:
    """Give browsers a code by `consent`; programs ask the rest over HTTP."""

    def __init__(self) -> None:
        self.keys = {"one": _key("one")}
        self.signing: str = "one"
        self.person: Claims = dict(PERSON)
        self.userinfo: Claims = dict(PERSON)
        self.twist: Callable[[Claims], Claims] = lambda claims: claims
        self.forge: Callable[[Claims], str] | None = None
        self.metadata: dict[str, Any] = {}
        self.methods = ["client_secret_basic"]
        self.public_client = False
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append(self.path)
                self._send(*owner.get(self.path, self.headers))

            def do_POST(self) -> None:
                owner.asked.append(self.path)
                length = int(self.headers["content-length"])
                form = {k: v[0] for k, v in parse_qs(self.rfile.read(length).decode()).items()}
                self._send(*owner.token(form, self.headers.get("authorization", "")))

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self._server.server_port}/realms/lab"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def rotate(self, name: str) -> None:
        """Sign with a new key, and publish that alone."""
        self.keys = {name: _key(name)}
        self.signing = name

    def consent(self, address: str, **more: str) -> str:
        """Let somebody log in who was sent to `address`; return the query they come back with."""
        parts = urlsplit(address)
        assert address.startswith(f"{self.issuer}/authorize?")
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert asked["redirect_uri"] == f"{URL}/login/callback"
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        return urlencode({"code": code, "state": asked["state"], **more})

    def get(self, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if path in self.answers:
            return self.answers[path]
        if path.endswith("/.well-known/openid-configuration"):
            base = self.issuer
            held = {
                "issuer": base,
                "authorization_endpoint": f"{base}/authorize",
                "token_endpoint": f"{base}/token",
                "userinfo_endpoint": f"{base}/userinfo",
                "jwks_uri": f"{base}/keys",
                "end_session_endpoint": f"{base}/logout?from=vila",
                "token_endpoint_auth_methods_supported": self.methods,
            }
            return 200, json.dumps({**held, **self.metadata}).encode()
        if path.endswith("/keys"):
            shown = [{**key.as_dict(private=False), "use": "sig"} for key in self.keys.values()]
            odd = [
                {"kty": "RSA"},
                {"kty": "oct", "k": "c2VjcmV0", "kid": "one"},
                "x",
                {"kty": "??"},
            ]
            return 200, json.dumps({"keys": [*odd, *shown]}).encode()
        if path.endswith("/userinfo"):
            good = headers.get("authorization") == "Bearer an-access-token"
            return (200, json.dumps(self.userinfo).encode()) if good else (401, b"{}")
        return 404, b"{}"

    def token(self, form: Mapping[str, str], authorization: str) -> tuple[int, bytes]:
        if "/realms/lab/token" in self.answers:
            return self.answers["/realms/lab/token"]
        if not self._known(form, authorization):
            return 401, b'{"error": "invalid_client"}'
        asked = self._codes.pop(form.get("code", ""), None)
        verifier = form.get("code_verifier", "")
        challenge = hashlib.sha256(verifier.encode()).digest()
        if (
            asked is None
            or form.get("grant_type") != "authorization_code"
            or form.get("redirect_uri") != asked["redirect_uri"]
            or asked["code_challenge"] != base64.urlsafe_b64encode(challenge).decode().rstrip("=")
        ):
            return 400, b'{"error": "invalid_grant"}'
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": asked["client_id"],
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            **self.person,
        }
        claims = self.twist(claims)
        token = self.forge(claims) if self.forge else self.sign(claims)
        held = {"access_token": "an-access-token", "token_type": "Bearer", "id_token": token}
        return 200, json.dumps(held).encode()

    def sign(self, claims: Claims, key: RSAKey | None = None, **header: Any) -> str:
        key = key or self.keys[self.signing]
        head = {"alg": "RS256", "kid": self.signing, **header}
        return jwt.encode(head, claims, key, algorithms=[head["alg"]])

    def _known(self, form: Mapping[str, str], authorization: str) -> bool:
        if self.public_client:
            return form.get("client_id") == CLIENT and not authorization
        if "client_secret_basic" in self.methods:
            scheme, _, pair = authorization.partition(" ")
            held = base64.b64decode(pair).decode().split(":") if scheme == "Basic" else []
            return [unquote(one) for one in held] == [CLIENT, SECRET]
        return (form.get("client_id"), form.get("client_secret")) == (CLIENT, SECRET)
