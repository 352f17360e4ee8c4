"""Where news of the registry go: webhooks, W&B, the Hugging Face Hub. A file names the targets.

The file never holds a secret: it names an environment variable, or a file of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from components.registry import HistoryEntry
from components.runtime.secrets import mask_text
from vila_core.config import Frozen, read_yaml, validate
from vila_core.errors import UserError
from vila_core.layouts import FolderLayout

VARIABLE = "VILA_REGISTRY_CONFIG"
_TARGET = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_SECRETS = ("secret", "api_key", "token")
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"

Kind = Literal["promote", "rollback", "approve", "reject", "withdraw"]


class Secret(Frozen):
    """Where a secret is: in an environment variable or in a file, one of them."""

    env: str | None = Field(default=None, pattern=_VARIABLE, description="name of a variable")
    file: Path | None = Field(default=None, description="a file that holds nothing else")

    @model_validator(mode="after")
    def _one_of_them(self) -> Secret:
        if (self.env is None) == (self.file is None):
            raise ValueError("name one of env (a variable) and file")
        return self

    def read(self, what: str) -> str:
        """Return the secret. Raises UserError, which names the place and never the value."""
        if self.env is not None:
            value, place = os.environ.get(self.env, ""), f"the variable {self.env}"
        else:
            assert self.file is not None
            place = str(self.file)
            try:
                value = self.file.expanduser().read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{what}: {place} can't be read: {error}") from None
        if not value.strip():
            raise UserError(f"{what}: {place} is not set or empty; it has to hold the secret")
        return value.strip()


class Target(Frozen):
    """What all targets have: which entries of which models they take."""

    quick: ClassVar[bool] = False
    """Whether a delivery takes a moment: these are tried right after a promotion."""

    models: tuple[str, ...] = Field(default=(), description="none: all models")
    aliases: tuple[str, ...] = Field(default=(), description="none: all aliases")
    kinds: tuple[Kind, ...] = ("promote", "rollback")

    def takes(self, model: str, entry: HistoryEntry) -> bool:
        """Return whether an entry of a model's history is for this target."""
        return (
            entry.kind in self.kinds
            and (not self.models or model in self.models)
            and (not self.aliases or entry.alias is None or entry.alias in self.aliases)
        )


class Webhook(Target):
    """A receiver of signed news: see `webhooks`."""

    quick: ClassVar[bool] = True

    url: str
    secret: Secret
    timeout_s: float = Field(default=10.0, gt=0, le=120)
    allow_http: bool = Field(default=False, description="take http:// too: anybody may read it")
    allow_private: bool = Field(
        default=False, description="take addresses that the internet does not route"
    )
    ca_file: Path | None = Field(default=None, description="certificates to trust instead")

    @model_validator(mode="after")
    def _usable(self) -> Webhook:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url: give https://HOST/PATH")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url: leave the user and password out; the signature is the proof")
        if parts.scheme == "http" and not self.allow_http:
            raise ValueError("url: is not https; fix: use https, or set allow_http: true")
        return self


class _Mirror(Target):
    kinds: tuple[Kind, ...] = ("promote", "rollback")

    @field_validator("kinds")
    @classmethod
    def _moves(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if wrong := set(kinds) - {"promote", "rollback"}:
            raise ValueError(f"a mirror follows aliases; {min(wrong)} moves none")
        return kinds


class Wandb(_Mirror):
    """A registry of W&B: each version an artifact, linked to a collection with the alias."""

    project: str = Field(default="vila-registry", description="where artifacts are logged")
    entity: str | None = None
    registry: str = Field(default="model", pattern=r"^[A-Za-z0-9_. -]+$")
    collection: str = Field(default="{model}", description="{model} stands for the model's name")
    api_key: Secret = Secret(env="WANDB_API_KEY")
    base_url: str | None = Field(default=None, description="of a server of one's own")
    timeout_s: float = Field(default=600.0, gt=0)


class HuggingFace(_Mirror):
    """A repository on the Hugging Face Hub: each version a tag, each alias a tag that moves."""

    repo: str = Field(description="OWNER/NAME; {model} stands for the model's name")
    token: Secret = Secret(env="HF_TOKEN")
    private: bool = Field(default=True, description="of a repository that is made")
    timeout_s: float = Field(default=3600.0, gt=0)
    layout: FolderLayout = "ours"
    endpoint: str | None = Field(default=None, description="of a Hub of one's own")

    @field_validator("repo")
    @classmethod
    def _owned(cls, repo: str) -> str:
        if not re.fullmatch(r"[\w.-]+/([\w.-]|\{model\})+", repo):
            raise ValueError("give OWNER/NAME, for example my-team/{model}")
        return repo


class MirrorSettings(Frozen):
    """All targets by name. A name is for good: how far a target has come is kept under it."""

    webhooks: dict[str, Webhook] = Field(default_factory=dict)
    wandb: dict[str, Wandb] = Field(default_factory=dict)
    huggingface: dict[str, HuggingFace] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names(self) -> MirrorSettings:
        names = [*self.webhooks, *self.wandb, *self.huggingface]
        for name in names:
            if not _TARGET.fullmatch(name):
                raise ValueError(f"'{name}' can't name a target: use lower case, digits and '-'")
            if names.count(name) > 1:
                raise ValueError(f"'{name}' names two targets")
        return self

    def targets(self) -> Iterator[tuple[str, Webhook | Wandb | HuggingFace]]:
        """Yield all targets with their names."""
        yield from self.webhooks.items()
        yield from self.wandb.items()
        yield from self.huggingface.items()


def read_settings(path: Path | None = None) -> MirrorSettings:
    """Read the file, or the one that VILA_REGISTRY_CONFIG names; without either there is no target.

    Raises UserError for a file that can't be read or says something unknown.
    """
    name = os.environ.get(VARIABLE)
    if path is None and not name:
        return MirrorSettings()
    file = path or Path(name or "").expanduser()
    values = read_yaml(file)
    try:
        return validate(MirrorSettings, values, where=str(file))
    except UserError as error:  # it shows what was given: a secret in the wrong place too
        raise UserError(mask_text(str(error), tuple(_secrets(values)))) from None


def _secrets(value: Any, key: str = "") -> Iterator[str]:
    """Yield what somebody may have written where the name of a secret's place belongs."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            inside = key if key in _SECRETS else str(name)
            yield from _secrets(item, inside)
    elif isinstance(value, list):
        for item in value:
            yield from _secrets(item, key)
    elif isinstance(value, str) and len(value) > 3:
        if key in _SECRETS:
            yield value
        elif key == "url" and "@" in value:
            yield value.partition("://")[2].rpartition("@")[0] or value
