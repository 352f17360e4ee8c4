"""How a corpus is named in the config of `prepare`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from vila_core.config import Frozen
from vila_core.data.presets import resolve
from vila_core.data.raw import beside, bring, is_remote
from vila_core.data.readers import reader_of
from vila_core.data.reencode import Reencode
from vila_core.data.templates import NAMES
from vila_core.errors import UserError
from vila_core.miniature.config import CORPORA
from vila_core.types import Reporter

if TYPE_CHECKING:
    from vila_core.data.work import CorpusSource

_NAME = r"^[a-z0-9][a-z0-9_-]*$"


class CorpusConfig(Frozen):
    """One corpus to read."""

    name: str = Field(pattern=_NAME, description="first part of its sample keys, for life")
    format: str = Field(
        description="how it is published: mmc4, coyo, llava, …, or your own as my_corpus.py:READER"
    )
    path: str = Field(description="the file, or a folder of files; also s3://bucket/prefix")
    images: str | None = Field(
        default=None, description="image folder; default: `images` beside the file"
    )
    template: str | None = Field(
        None, description="how samples are written out; default: by format"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the format's own options")
    rules: dict[str, Any] = Field(
        default_factory=dict, description="what samples have to meet, and a preset: class Rules"
    )
    licence: str | None = Field(
        default=None, description="kept with every sample that doesn't bring its own"
    )
    reencode: Reencode | None = Field(
        default=None, description="write images at training resolution; default: as they are"
    )
    max_set_aside: float | None = Field(
        None, ge=0, le=1, description="instead of the stage's share"
    )

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        try:
            reader_of(value)
        except UserError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("template")
    @classmethod
    def _known_template(cls, value: str | None) -> str | None:
        if value is not None and value not in NAMES:
            raise ValueError(f"known templates are {', '.join(NAMES)}")
        return value

    @model_validator(mode="after")
    def _options_of_the_format(self) -> CorpusConfig:
        reader = reader_of(self.format)
        resolve(self.format, self.options, self.rules)
        if not (self.template or reader.template):
            raise ValueError(f"format '{self.format}' has samples of any kind: set `template`")
        return self


class ReaderConfig(Frozen):
    """How a corpus of the miniature world is read back."""

    options: dict[str, Any] = Field(default_factory=dict, description="the format's own options")
    rules: dict[str, Any] = Field(
        default_factory=dict, description="what samples have to meet, and a preset: class Rules"
    )

    def check(self, corpus: str) -> None:
        """Raise ValueError for a corpus that the world doesn't have, or what doesn't fit it."""
        if corpus not in CORPORA:
            raise ValueError(f"readers.{corpus}: the miniature world has {', '.join(CORPORA)}")
        try:
            resolve(corpus, self.options, self.rules)
        except ValueError as error:
            raise ValueError(f"readers.{corpus}: {error}") from None


class Limits(Frozen):
    """The largest samples to keep; larger ones are set aside, never cut."""

    max_tokens: int | None = Field(
        default=None, ge=1, description="tokens per sample, images included"
    )
    max_images: int | None = Field(default=None, ge=0, description="images per sample")
    tokens_per_image: int = Field(
        default=0, ge=0, description="what an image counts for max_tokens"
    )


def brought(corpora: Sequence[CorpusConfig], folder: Path, report: Reporter) -> list[CorpusConfig]:
    """Return the corpora with those that lie in a store copied below `folder`."""
    return [
        corpus.model_copy(update=_here(corpus, folder / corpus.name, report)) for corpus in corpora
    ]


def brought_folder(place: str, folder: Path, report: Reporter) -> str:
    """Return `place`, copied to `folder` if it lies in a store."""
    return str(bring(place, folder, _telling(place, report))) if is_remote(place) else place


def _here(corpus: CorpusConfig, folder: Path, report: Reporter) -> dict[str, str]:
    here: dict[str, str] = {}
    images = corpus.images
    if is_remote(corpus.path):
        here["path"] = brought_folder(corpus.path, folder / "corpus", report)
        images = images or beside(corpus.path, "images")
    if images:
        here["images"] = brought_folder(images, folder / "images", report)
    return here


def _telling(place: str, report: Reporter) -> Callable[[int, int], None]:
    report.info(f"copying {place} to this machine")
    return lambda done, of: report.progress(done, of, "files")


def source_of(corpus: CorpusConfig, max_set_aside: float) -> CorpusSource:
    """Return what the engine must know of a corpus. Raises UserError for what isn't installed."""
    from vila_core.data.languages import check_languages
    from vila_core.data.work import CorpusSource

    reader = reader_of(corpus.format)
    options, rules = resolve(corpus.format, corpus.options, corpus.rules)
    if rules.languages:
        check_languages(rules.languages)
    share = max_set_aside if corpus.max_set_aside is None else corpus.max_set_aside
    return CorpusSource(
        corpus.name,
        corpus.format,
        Path(corpus.path).expanduser(),
        Path(corpus.images).expanduser() if corpus.images else None,
        template=corpus.template or reader.template,
        options=options,
        max_set_aside=share,
        licence=corpus.licence,
        reencode=corpus.reencode,
        rules=rules,
    )
