"""MinIO's own administration: users and policies, which S3 itself has no words for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vila_core.errors import StoreError
from vila_ops.cluster import s3

if TYPE_CHECKING:
    from urllib3 import PoolManager

_NO_SUCH = ("XMinioAdminNoSuchUser", "XMinioAdminNoSuchPolicy")
_ATTACHED = "XMinioAdminPolicyChangeAlreadyApplied"


class Admin:
    """MinIO's administration API with root keys. Each method returns whether it changed anything.

    All raise StoreError for a refusal, and for a server that is no MinIO.
    """

    def __init__(self, place: s3.Place, root: s3.Keys, pool: PoolManager) -> None:
        from minio import MinioAdmin
        from minio.credentials.providers import StaticProvider

        parts = urlsplit(place.endpoint)
        self._api: Any = MinioAdmin(
            endpoint=parts.netloc,
            credentials=StaticProvider(root.access, root.secret),
            region=place.region,
            secure=parts.scheme == "https",
            http_client=pool,
        )

    def policy(self, name: str, policy: dict[str, Any]) -> bool:
        """Make a policy, or bring it to this text."""
        text = self._call("policy", self._api.policy_info, name)
        if text is not None and _same(json.loads(text), policy):
            return False
        self._call("policy", self._api.policy_add, name, policy=policy)
        return True

    def user(self, access: str, secret: str, *, works: Callable[[], bool]) -> bool:
        """Make a user, or give it this secret; `works` says whether it has it already."""
        if self._call("user", self._api.user_info, access) is not None and works():
            return False
        self._call("user", self._api.user_add, access, secret)
        return True

    def attach(self, policy: str, *, user: str) -> bool:
        """Give a user a policy beside those that it has."""
        text = self._call("user", self._api.user_info, user)
        known = json.loads(text or "{}").get("policyName") or ""
        if policy in known.split(","):
            return False
        return self._call("user", self._api.attach_policy, [policy], user=user) is not None

    def _call(self, what: str, call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Return the answer; None for what is not there, or was done before."""
        from minio.error import MinioAdminException

        try:
            return call(*arguments, **more)
        except MinioAdminException as error:
            code, message = _code(error)
            if code in (*_NO_SUCH, _ATTACHED):
                return None
            if not code:
                raise StoreError(
                    f"{what}: the server has no administration of MinIO ({error._code}); "
                    "unset MINIO_ROOT_USER, and make users with the server's own tools"
                ) from None
            raise StoreError(f"{what}: MinIO refuses: {code}: {message}") from None


def _code(error: Any) -> tuple[str, str]:
    """Return the code and message of a refusal; empty where what answers is no MinIO."""
    try:
        body = json.loads(error._body)
        return str(body.get("Code") or ""), str(body.get("Message") or "")
    except (ValueError, AttributeError):
        return "", ""


def _same(found: Any, policy: dict[str, Any]) -> bool:
    """Return whether two policies say the same; a server may sort their lists."""
    text = found.get("Policy", found) if isinstance(found, dict) else found
    return _sorted(text) == _sorted(policy)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted((_sorted(each) for each in value), key=lambda each: json.dumps(each))
    return value
