"""What a request may ask for, and how much is under way at once."""

from __future__ import annotations

from pydantic import Field

from vila_core.config import Frozen

MIB = 2**20


class Limits(Frozen):
    """Bounds of one server."""

    batch: int = Field(default=16, ge=1, le=1024, description="answers written at once")
    batch_tokens: int = Field(
        default=32_768, ge=16, description="tokens of all of them, padding and answers included"
    )
    prefill_tokens: int = Field(
        default=4_096, ge=1, description="prompt tokens read between two steps of the others"
    )
    queue: int = Field(default=64, ge=1, le=100_000, description="requests that may wait")
    answer: int = Field(
        default=1_024, ge=1, description="tokens of an answer where the request names no limit"
    )
    images: int = Field(default=16, ge=0, le=1_000, description="images of one request")
    image_bytes: int = Field(default=20 * MIB, ge=64, description="bytes of one encoded image")
    pixels: int = Field(default=50_000_000, ge=64, description="width times height of one image")
    body_bytes: int = Field(default=64 * MIB, ge=1_024, description="bytes of one request")
    bodies_bytes: int = Field(
        default=256 * MIB, ge=1_024, description="bytes of all requests that are being read"
    )
    body_s: float = Field(default=60.0, gt=0, description="seconds for sending a request")
    messages: int = Field(default=2_048, ge=1, description="messages of one conversation")
