"""The JSON behind the pages, for programs too: `/api/v1`, described by its `openapi.json`."""

from vila_ops.web.api.problem import ERRORS, Problem

__all__ = ["ERRORS", "Problem"]
