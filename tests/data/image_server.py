"""An HTTP(S) server of images that misbehaves when told to, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.local_http import Handler, served

Act = Callable[[Handler], None]


@dataclass
class Site:
    """What it answers, by path: acts in turn, the last one for ever. Other paths are 404."""

    acts: dict[str, list[Act]] = field(default_factory=dict)
    asked: list[tuple[float, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    base: str = ""  # "http://127.0.0.1:40001"
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, path: str, *acts: Act) -> str:
        """Set what a path answers; returns its address."""
        self.acts[path] = list(acts)
        return self.base + path

    def times(self, path: str) -> list[float]:
        """When a path was asked for."""
        return [at for at, asked in self.asked if asked == path]

    def handle(self, handler: Handler) -> None:
        with self._lock:
            self.asked.append((time.monotonic(), handler.path))
            self.headers.append(dict(handler.headers))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            acts = self.acts.get(handler.path, [send(status=404)])
            act = acts.pop(0) if len(acts) > 1 else acts[0]
        try:
            act(handler)
        finally:
            with self._lock:
                self._now -= 1


def send(
    body: bytes = b"",
    *,
    status: int = 200,
    length: int | None = None,
    after: float = 0.0,
    **headers: str,
) -> Act:
    """Answer once. `length` is what Content-Length claims; names of headers have _ for -."""

    def act(handler: Handler) -> None:
        time.sleep(after)
        handler.send_response(status)
        for name, value in headers.items():
            for one in value.split("\n"):
                handler.send_header(name.replace("_", "-"), one)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        if length is not None and length > len(body):
            handler.close_connection = True

    return act


def drip(start: bytes, piece: bytes, pause: float, seconds: float = 20.0) -> Act:
    """Send `start` raw, then pieces with pauses until nobody listens."""

    def act(handler: Handler) -> None:
        handler.close_connection = True
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            handler.wfile.write(start)
            while time.monotonic() < end:
                handler.wfile.write(piece)
                time.sleep(pause)

    return act


@contextlib.contextmanager
def running(context: ssl.SSLContext | None = None) -> Iterator[Site]:
    """Serve on 127.0.0.1 until the end of the block, with TLS if there is a context."""
    site = Site()

    class OneHandler(Handler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                site.handle(self)

    with served(OneHandler, context, quiet=True) as site.base:
        yield site


def certificates(folder: Path, host: str = "127.0.0.1") -> tuple[Path, ssl.SSLContext]:
    """Make an authority and a server's certificate for `host`; return bundle and context."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def signed(subject: str, owner: ec.EllipticCurvePrivateKey, is_ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("test authority"))
            .public_key(owner.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            try:
                alternative = x509.IPAddress(ipaddress.ip_address(host))
            except ValueError:
                alternative = x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), False)
        return builder.sign(authority_key, hashes.SHA256())

    folder.mkdir(parents=True, exist_ok=True)
    encoding = serialization.Encoding.PEM
    bundle, chain = folder / "ca.pem", folder / "server.pem"
    bundle.write_bytes(signed("test authority", authority_key, True).public_bytes(encoding))
    private = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(private + signed("server", key, False).public_bytes(encoding))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return bundle, context
