"""What prepare compares samples by: the `dedupe` section of its config."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vila_core.config import Frozen

MAX_DISTANCE = 11
"""Beyond, a look-up would have to probe nearly everything, and images no longer look alike."""


class DedupeConfig(Frozen):
    """Which samples repeat an earlier one, and which stand in an evaluation set."""

    exact: bool = Field(
        default=True, description="set aside a sample with the content of an earlier one"
    )
    near: bool = Field(
        default=True,
        description="set aside a sample with the text of an earlier one, but for case and blanks, "
        "and with images that look like its images",
    )
    repeated_images: Literal["keep", "set-aside"] = Field(
        default="keep",
        description="what to do with a sample all of whose images are known, under other text",
    )
    perceptual: bool = Field(
        default=True, description="compare images by pHash; otherwise by their bytes alone"
    )
    distance: int = Field(
        default=3,
        ge=0,
        le=MAX_DISTANCE,
        description="bits of 64 by which the pHashes of one picture may differ",
    )
    text: bool = Field(default=True, description="compare texts with evaluation sets by n-grams")
    words: int = Field(default=13, ge=3, le=64, description="words in an n-gram")
    min_words: int | None = Field(
        default=None,
        description="shorter texts of evaluation sets are not compared; default: `words`",
    )
    share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="share of the n-grams of an evaluation text that makes a sample contaminated",
    )
    boilerplate: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="n-grams in more than this share of a set's items (and in over 10) are "
        "instructions that many data sets share; they don't count",
    )
    decontaminate: Literal["block", "report", "off"] = Field(
        default="block",
        description="what to do with samples that stand in an evaluation set",
    )

    @field_validator("decontaminate", mode="before")
    @classmethod
    def _off_of_yaml(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false

    @model_validator(mode="after")
    def _an_n_gram_fits(self) -> DedupeConfig:
        if self.min_words is not None and self.min_words < self.words:
            raise ValueError(
                f"min_words {self.min_words} is below words {self.words}: a text that short has no "
                "n-gram; lower words too"
            )
        return self

    @property
    def shortest(self) -> int:
        """Words that a text of an evaluation set needs to be compared."""
        return self.words if self.min_words is None else self.min_words

    @property
    def finds_duplicates(self) -> bool:
        """Whether samples are compared with one another at all."""
        return self.exact or self.near or self.repeated_images == "set-aside"
