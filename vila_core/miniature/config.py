"""The settings of the miniature world. Imports nothing heavy: the command line reads it.

What a setting's default turns off draws nothing, so that a world without it keeps its bytes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from vila_core.config import Frozen

CORPORA = ("coyo", "mmc4", "llava", "flan")
"""The world's corpora; each is named like its format."""


class WorldConfig(Frozen):
    """How much of the miniature world to write, and from which seed."""

    seed: int = Field(0, ge=0, description="every draw follows from it")
    captions: int = Field(3000, ge=1, description="image and caption pairs (COYO)")
    documents: int = Field(2600, ge=1, description="interleaved documents (MMC4)")
    series_share: float = Field(0.4, ge=0, le=1, description="share of documents that are series")
    series_shortest: int = Field(6, ge=2, description="fewest items in a series")
    series_longest: int = Field(10, ge=2, description="most items in a series")
    series_rules: tuple[Literal["color", "shape"], ...] = Field(
        ("color", "shape"), min_length=1, description="attributes that a series may name"
    )
    web_longest: int = Field(5, ge=2, description="most segments in a web document")
    web_text_share: float = Field(
        0.5, ge=0, le=1, description="share of web segments that are plain text, no picture"
    )
    conversations: int = Field(4000, ge=1, description="visual conversations (LLaVA)")
    questions: int = Field(6, ge=1, le=6, description="questions per conversation about a scene")
    digit_share: float = Field(0.2, ge=0, lt=1, description="share of digits among conversations")
    instructions: int = Field(4000, ge=1, description="text-only instructions (FLAN)")
    reading_share: float = Field(0.4, ge=0, le=1, description="scene reading among instructions")
    transfer_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of scene reading that asks what no conversation asks (count-plus, "
        "color-sort); above 0 the evaluation set miniature_transfer asks it of pictures",
    )
    eval_items: int = Field(96, ge=1, description="evaluation items per question type")
    eval_visual_items: int | None = Field(
        None, ge=1, description="the same for questions about pictures; default: eval_items"
    )
    eval_digits: int = Field(400, ge=10, le=400, description="test digits that are asked for")

    @property
    def visual_items(self) -> int:
        """Evaluation items per type of question about pictures."""
        return self.eval_visual_items or self.eval_items


class TowerConfig(Frozen):
    """The vision tower of the miniature world, and the pictures it learns from."""

    seed: int = Field(0, ge=0, description="of the weights and of every draw")
    pool: int = Field(6000, ge=1, description="pictures, drawn once")
    single_share: float = Field(0.4, ge=0, le=1, description="share of scenes with one object")
    digit_share: float = Field(0.2, ge=0, le=1, description="share of (training) digits")
    batch: int = Field(128, ge=2, description="picture and caption pairs per step")
    vision: dict[str, Any] = Field(
        default_factory=lambda: {
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "vision_use_head": False,
        },
        description="transformers' SiglipVisionConfig; as in configs/models/miniature.yaml",
    )

    @model_validator(mode="after")
    def _shares(self) -> TowerConfig:
        if self.single_share + self.digit_share > 1:
            raise ValueError(
                f"single_share ({self.single_share}) and digit_share ({self.digit_share}) "
                "are more than 1 together"
            )
        return self


class Phase(Frozen):
    """A part of the language model's curriculum: how long, and its shares of row kinds."""

    share: float = Field(gt=0, description="length, in proportion to the other phases'")
    series: float = Field(0.0, ge=0, description="share of rows whose rule must be read off")
    induction: float = Field(0.0, ge=0, description="share of rows of repeated keys and names")
    reading: float = Field(0.0, ge=0, description="share of rows of scenes in words and questions")
    knowledge: float = Field(0.0, ge=0, description="share of rows of small knowledge tasks")

    @model_validator(mode="after")
    def _some(self) -> Phase:
        if self.series + self.induction + self.reading + self.knowledge <= 0:
            raise ValueError("a phase needs a share above 0 for at least one kind of rows")
        return self


class LanguageConfig(Frozen):
    """The base language model of the miniature world, and the text it learns from."""

    seed: int = Field(0, ge=0, description="of the weights and of every draw")
    rows: int = Field(16, ge=1, description="rows of text per step")
    row_tokens: int = Field(64, ge=16, description="tokens per row")
    frame_weight: float = Field(
        0.1, ge=0, le=1, description="loss weight of tokens that nothing before them tells"
    )
    binding_share: float = Field(
        0.5, ge=0, le=1, description="share of series in which names are bound to colours"
    )
    phases: tuple[Phase, ...] = Field(
        (
            Phase(share=250, series=0.1, induction=0.9, reading=0, knowledge=0),
            Phase(share=250, series=0.6, induction=0.1, reading=0.15, knowledge=0.15),
            Phase(share=1200, series=0.2, induction=0.05, reading=0.45, knowledge=0.3),
        ),
        min_length=1,
        description="the curriculum: without the first phase in-context learning may not appear",
    )
    model: dict[str, Any] = Field(
        default_factory=lambda: {
            "vocab_size": 128,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "initializer_range": 0.08,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 2,
        },
        description="transformers' LlamaConfig; as in configs/models/miniature.yaml",
    )
