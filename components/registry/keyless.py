"""Signatures without a key of one's own: Sigstore's, by an identity such as a CI workflow.

VILA_TRUSTED_IDENTITIES   a YAML file: a list of {identity: …, issuer: …}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila_core.errors import UserError, VilaError, require

if TYPE_CHECKING:
    from sigstore.verify import Verifier


def trusted_identities() -> tuple[tuple[str, str], ...]:
    """Return the identities that are trusted, each with its issuer; none without the variable.

    Raises UserError for a file that is no such list.
    """
    given = os.environ.get("VILA_TRUSTED_IDENTITIES")
    if not given:
        return ()
    import yaml

    try:
        value = yaml.safe_load(Path(given).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"VILA_TRUSTED_IDENTITIES={given}: can't be read: {error}") from None
    found = []
    for number, item in enumerate(value if isinstance(value, list) else [value]):
        pair = (item.get("identity"), item.get("issuer")) if isinstance(item, dict) else ()
        if len(pair) != 2 or not all(isinstance(one, str) and one for one in pair):
            raise UserError(
                f"{given}: entry {number} is not {{identity: …, issuer: …}}; both are needed, "
                "as texts."
            )
        found.append((str(pair[0]), str(pair[1])))
    return tuple(found)


def sign_keyless(payload: bytes) -> dict[str, Any]:
    """Return a bundle over an in-toto statement, by the identity of the surroundings.

    Asks Sigstore's public services. Raises UserError where there is no OIDC token, VilaError where
    the services refuse or can't be reached.
    """
    require("sigstore", extra="sigstore", why="sign without a key")
    import requests
    from sigstore.dsse import Statement
    from sigstore.errors import Error
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential
    from sigstore.sign import SigningContext

    try:
        token = detect_credential()
    except IdentityError as error:
        raise UserError(f"VILA_SIGN_KEYLESS: no OIDC token can be had here: {error}") from None
    if token is None:
        raise UserError(
            "VILA_SIGN_KEYLESS=1, but there is no OIDC token here.\n"
            "  fix: run in a CI job that may ask for one (GitHub: permissions: id-token: write), "
            "or unset it and use a key: vila registry key create"
        )
    try:
        context = SigningContext.from_trust_config(ClientTrustConfig.production())
        with context.signer(IdentityToken(token)) as signer:
            return json.loads(signer.sign_dsse(Statement(payload)).to_json())
    except (Error, requests.RequestException) as error:
        raise VilaError(f"Sigstore did not sign: {error}") from None


def examine_keyless(
    bundle: Mapping[str, Any], payload: bytes, identities: Sequence[tuple[str, str]]
) -> tuple[str, str, str]:
    """Return state, identity and words of a bundle with a certificate.

    Nothing is asked for over the network: the roots that come with the package are believed, or
    those in VILA_SIGSTORE_ROOT. Raises NotInstalled where identities are trusted and the package is
    missing.
    """
    from components.registry.signing import BAD, UNKNOWN, VALID

    if not identities:
        return UNKNOWN, "", "is signed by an identity of Sigstore, and none is trusted"
    require("sigstore", extra="sigstore", why="check Sigstore's signatures")
    from sigstore.errors import Error
    from sigstore.models import Bundle
    from sigstore.verify import policy

    try:
        parsed = Bundle.from_json(json.dumps(bundle))
    except Error as error:
        return BAD, "", f"its signature is not a bundle of Sigstore ({error})"
    for identity, issuer in identities:
        try:
            policy.Identity(identity=identity, issuer=issuer).verify(parsed.signing_certificate)
        except Error:
            continue
        try:
            _, signed = _verifier().verify_dsse(
                parsed, policy.Identity(identity=identity, issuer=issuer)
            )
        except Error as error:
            return BAD, identity, f"its signature by {identity} is not good: {error}"
        if signed != payload:
            return BAD, identity, f"its signature by {identity} is over something else"
        return VALID, identity, f"is signed by {identity} (from {issuer})"
    return UNKNOWN, "", "is signed by an identity of Sigstore that is not trusted"


def state_of_root() -> tuple[str | int, ...]:
    """Return what tells whether the roots that are believed are still the same file."""
    given = os.environ.get("VILA_SIGSTORE_ROOT")
    try:
        stat = Path(given).expanduser().stat() if given else None
    except OSError:
        stat = None
    return (given or "", *((stat.st_mtime_ns, stat.st_size) if stat else ()))


def _verifier() -> Verifier:
    from sigstore.errors import Error
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    given = os.environ.get("VILA_SIGSTORE_ROOT")
    if not given:
        return Verifier.production(offline=True)
    try:
        return Verifier(trusted_root=TrustedRoot.from_file(str(Path(given).expanduser())))
    except (OSError, ValueError, Error) as error:
        raise UserError(f"VILA_SIGSTORE_ROOT={given}: is no trusted root: {error}") from None
