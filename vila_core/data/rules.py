"""Rules for samples of any format: which to keep, by their images, their text and their scores.

Every rule is off unless it is set. What one rejects is set aside with the rule's name, the value
that it met and the limit. Rules of one format alone (images of a document, rows by score) are its
reader's options; `presets.py` has named values for both.
"""

from __future__ import annotations

from typing import TypeAlias, TypeGuard

from pydantic import Field, model_validator

from vila_core.config import Frozen
from vila_core.data.readers.files import Filtered
from vila_core.data.sample import Sample, Text
from vila_core.data.scripts import script_shares, scripts

RUN_WORDS = 5
"""Words in a run, for `max_repeated`."""
Number: TypeAlias = float | int


class Rules(Frozen):
    """What every sample of a corpus has to meet. Text is all of a sample's text, whoever's turn."""

    preset: str | None = Field(default=None, description="named values; those set here win")
    min_side: int | None = Field(
        default=None, ge=1, description="pixels of every image's shorter side"
    )
    max_aspect: float | None = Field(
        default=None, ge=1, description="longer by shorter side of every image"
    )
    min_bytes: int | None = Field(default=None, ge=1, description="bytes of every image file")
    min_words: int | None = Field(default=None, ge=1, description="words, as blanks part them")
    max_words: int | None = Field(default=None, ge=1, description="words, as blanks part them")
    min_chars: int | None = Field(default=None, ge=1, description="characters")
    max_chars: int | None = Field(default=None, ge=1, description="characters")
    languages: tuple[str, ...] = Field(
        default=(), description="languages that text may be in, for example [en, de]"
    )
    min_script: dict[str, float] = Field(
        default={},
        description="least share of a script among the letters, for example {LATIN: 0.8}",
    )
    max_repeated: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="largest share of runs of five words that stood in the sample before",
    )
    min_score: dict[str, float] = Field(
        default={}, description="least value of numbers in the sample's meta; they must be there"
    )
    max_score: dict[str, float] = Field(
        default={},
        description="greatest value of numbers in the sample's meta; they must be there",
    )
    max_samples_per_image: int | None = Field(
        default=None, ge=1, description="samples that may show one and the same image file"
    )
    max_samples_per_text: int | None = Field(
        default=None, ge=1, description="samples that may have one and the same text"
    )

    @model_validator(mode="after")
    def _fits(self) -> Rules:
        for unit in ("words", "chars"):
            least, most = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{unit} {least} is over max_{unit} {most}")
        for script, share in self.min_script.items():
            if not 0 < share <= 1:
                raise ValueError(f"min_script.{script}: a share is over 0 and at most 1")
            if script not in scripts():
                raise ValueError(f"min_script.{script}: known are {', '.join(sorted(scripts()))}")
        return self

    def check(self, sample: Sample) -> None:
        """Raise Filtered for the first rule that `sample`, as it was read, does not meet.

        Rules over several samples are the business of `Repeats`. Raises UserError when a rule needs
        a package that isn't installed, and BadImage for an image without a sound header.
        """
        self._check_scores(sample)
        self._check_images(sample)
        self._check_text(sample)

    def _check_images(self, sample: Sample) -> None:
        from vila_core.images import size

        for number, data in enumerate(sample.images, start=1):
            name = f"image {number}: " if len(sample.images) > 1 else ""
            _at_least("min_bytes", len(data), self.min_bytes, f"{name}{{}} bytes")
            if self.min_side is None and self.max_aspect is None:
                continue
            width, height = size(data)
            short, long = sorted((width, height))
            _at_least("min_side", short, self.min_side, f"{name}{{}} pixels")
            shown = f"{name}{width} x {height} pixels"
            _at_most("max_aspect", long / short, self.max_aspect, shown)

    def _check_text(self, sample: Sample) -> None:
        text = text_of(sample)
        if self.min_words is not None or self.max_words is not None:
            words = len(text.split())
            _at_least("min_words", words, self.min_words, "{} words")
            _at_most("max_words", words, self.max_words, "{} words")
        _at_least("min_chars", len(text), self.min_chars, "{} characters")
        _at_most("max_chars", len(text), self.max_chars, "{} characters")
        if self.max_repeated is not None:
            _at_most("max_repeated", repeated(text), self.max_repeated, "{:.4f}")
        if self.min_script:
            shares = script_shares(text)
            for script, least in self.min_script.items():
                _at_least(f"min_script {script}", shares.get(script, 0.0), least, "{:.4f}")
        if self.languages:
            from vila_core.data.languages import language_of

            if (language := language_of(text)) not in self.languages:
                raise Filtered("languages", f"{language}, not {' or '.join(self.languages)}")

    def _check_scores(self, sample: Sample) -> None:
        for name, limit in self.min_score.items():
            value = sample.meta.get(name)
            # Not `value < limit`: what isn't there, or not a number, does not pass either.
            if not (_is_number(value) and value >= limit):
                raise Filtered(f"min_score {name}", f"{value!r}, at least {limit}")
        for name, limit in self.max_score.items():
            value = sample.meta.get(name)
            if not (_is_number(value) and value <= limit):
                raise Filtered(f"max_score {name}", f"{value!r}, at most {limit}")


def text_of(sample: Sample) -> str:
    """Return all of a sample's text, its parts on lines of their own."""
    return "\n".join(part.text for part in sample.parts if isinstance(part, Text))


def repeated(text: str) -> float:
    """Return which share of the runs of `RUN_WORDS` words stood in the text before: below 1."""
    words = text.split()
    runs = len(words) - RUN_WORDS + 1
    if runs < 2:
        return 0.0
    distinct = {tuple(words[start : start + RUN_WORDS]) for start in range(runs)}
    return 1 - len(distinct) / runs


def _is_number(value: object) -> TypeGuard[Number]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at_least(rule: str, value: Number, limit: Number | None, shown: str) -> None:
    if limit is not None and value < limit:
        raise Filtered(rule, f"{shown.format(value)}, at least {limit}")


def _at_most(rule: str, value: Number, limit: Number | None, shown: str) -> None:
    if limit is not None and value > limit:
        raise Filtered(rule, f"{shown.format(value)}, at most {limit}")
