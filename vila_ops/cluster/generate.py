"""Secrets that `vila cluster apply` makes: random values for the keys that an annotation names.

For a cluster whose store is in itself, where nobody has to know the values. They are made once and
stay in the cluster; a Secret of the same name has the same values in every namespace.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import string
from collections.abc import Callable, Mapping

from vila_core.errors import UserError
from vila_ops.cluster.patch import Manifest

GENERATE = "vila.dev/generate"
"""The annotation: names of keys, with spaces between; `tokens` is made from `token` before it."""

Existing = Callable[[str, str], Mapping[str, str] | None]
"""(namespace, name) to the data of a Secret on the cluster, base64 as Kubernetes gives it."""

_LETTERS = string.ascii_letters + string.digits


def generated(manifests: list[Manifest], existing: Existing) -> list[Manifest]:
    """Return the objects with the values of generated Secrets put in; others are left as they are.

    Values that the cluster has already are kept. Raises UserError where two namespaces have
    different ones.
    """
    values: dict[str, dict[str, str]] = {}
    wanted = [manifest for manifest in manifests if keys_of(manifest)]
    for manifest in wanted:
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        known = values.setdefault(name, {})
        for key, text in (existing(namespace, name) or {}).items():
            value = base64.b64decode(text).decode()
            if known.setdefault(key, value) != value:
                places = sorted(item["metadata"]["namespace"] for item in wanted if _is(item, name))
                raise UserError(
                    f"Secret {name}: {key} differs between the namespaces {', '.join(places)}; "
                    "fix: delete the wrong one, and apply again."
                )
    for manifest in wanted:
        known = values[manifest["metadata"]["name"]]
        for key in keys_of(manifest):
            known.setdefault(key, _dashboard_tokens(known) if key == "tokens" else _random(key))
        manifest["stringData"] = {key: known[key] for key in keys_of(manifest)}
    return manifests


def keys_of(manifest: Manifest) -> list[str]:
    """Return the keys of a Secret whose values are generated; empty for any other object."""
    if manifest["kind"] != "Secret":
        return []
    return manifest["metadata"].get("annotations", {}).get(GENERATE, "").split()


def _is(manifest: Manifest, name: str) -> bool:
    return manifest["metadata"]["name"] == name


def _dashboard_tokens(known: Mapping[str, str]) -> str:
    """Return the dashboard's file of hashed tokens for the one in `token`."""
    digest = hashlib.sha256(known["token"].encode()).hexdigest()
    return f"session-key:{secrets.token_hex(32)}\nadmin:admin:sha256:{digest}\n"


def _random(key: str) -> str:
    """Return a random value as long as S3 servers take it: 20 characters for a name, else 40."""
    length = 20 if key.endswith(("_USER", "_KEY_ID")) else 40
    return "".join(secrets.choice(_LETTERS) for _ in range(length))
