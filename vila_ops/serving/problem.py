"""Errors as OpenAI's API tells them: a status, and one JSON object that names the parameter."""

from __future__ import annotations

from typing import Any

UNAVAILABLE_S = 5


class ApiError(Exception):
    """A request that gets no answer.

    `param` names the part of the request that is at fault, `code` is the word that programs look
    for, `retry_after_s` when asking again may help.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """What the answer's head says beside the status."""
        found = {}
        if self.retry_after_s is not None:
            found["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        return found

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


def wrong(param: str, message: str, code: str | None = None) -> ApiError:
    """Return the error for a parameter that can't be used."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def unavailable(message: str) -> ApiError:
    """Return the error of a server that can't answer now."""
    return ApiError(503, message, code="service_unavailable", retry_after_s=UNAVAILABLE_S)
