"""What a download is told. Nothing here turns off TLS or the owners' say."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from vila_core import __version__
from vila_core.config import Frozen
from vila_core.data.reencode import Reencode

PRODUCT = "vila-download"
"""The name that robots.txt and headers may address."""


class DownloadConfig(Frozen):
    """A download: which corpus, how fast, how careful.

    What is not in `not_in_key` decides what the shards hold, and stays as it was begun.
    """

    not_in_key: ClassVar[tuple[str, ...]] = (
        "contact",
        "threads",
        "per_host",
        "host_pause_s",
        "timeout_s",
        "deadline_s",
        "retries",
        "backoff_s",
        "max_wait_s",
        "ca_bundle",
        "allow_private",
    )

    format: Literal["coyo", "mmc4"] = Field(description="how the corpus is published")
    path: str = Field(description="its file, or folder of files")
    options: dict[str, Any] = Field(
        default_factory=dict, description="the format's own: which rows of COYO, by their scores"
    )
    url: str = Field(default="url", description="COYO's column of the address")
    shard_rows: int = Field(default=10_000, ge=1, le=1_000_000, description="COYO rows per shard")
    reencode: Reencode | None = Field(default=None, description="store images at training size")
    max_bytes: int = Field(
        default=20 * 2**20, ge=1024, le=128 * 2**20, description="larger files are cut off"
    )

    contact: str | None = Field(
        default=None, max_length=200, description="address or page in the user agent"
    )
    threads: int = Field(
        default=64, ge=1, le=1024, description="requests at a time, over all hosts"
    )
    per_host: int = Field(default=4, ge=1, le=64, description="requests at a time to one host")
    host_pause_s: float = Field(
        default=0.0, ge=0, le=3600, description="seconds between two requests to one host"
    )
    timeout_s: float = Field(
        default=10.0, gt=0, le=600, description="seconds a server may be silent"
    )
    deadline_s: float = Field(default=60.0, gt=0, le=3600, description="seconds for one answer")
    retries: int = Field(default=2, ge=0, le=10, description="tries after the first one")
    backoff_s: float = Field(
        default=1.0, gt=0, le=60, description="seconds before the second try; doubles with each"
    )
    max_wait_s: float = Field(
        default=120.0, ge=0, le=3600, description="longest Retry-After that is waited for"
    )
    ca_bundle: str | None = Field(
        default=None, description="file of certificates to trust instead of the system's"
    )
    allow_private: tuple[str, ...] = Field(
        default=(), description="networks that aren't public and may be asked: 10.1.0.0/16"
    )

    @field_validator("allow_private")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            ipaddress.ip_network(one)  # its ValueError says what is wrong
        return value

    @field_validator("contact")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[!-'*-~][ !-'*-~]*", value):
            raise ValueError(
                "an e-mail address or a page's URL is needed, in ASCII without brackets"
            )
        return value

    @field_validator("ca_bundle")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None and not Path(value).expanduser().is_file():
            raise ValueError("there is no such file")
        return value

    @model_validator(mode="after")
    def _fits(self) -> DownloadConfig:
        if self.deadline_s < self.timeout_s:
            raise ValueError("deadline_s must be at least timeout_s")
        if self.format == "mmc4" and self.options:
            raise ValueError("options: MMC4 has none here; its rules are those of prepare")
        return self

    def user_agent(self) -> str:
        """Return how requests name themselves."""
        contact = f"; {self.contact}" if self.contact else ""
        return f"{PRODUCT}/{__version__} (images for training{contact})"

    def identity(self) -> Mapping[str, Any]:
        """Return what decides the shards' content, as JSON values. The corpus's place is not it."""
        return {name: value for name, value in self.cache_key().items() if name != "path"}
