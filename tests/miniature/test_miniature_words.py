"""The tokenizer: 128 words, `<image>` beyond them, and no word in the world unknown to it."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from vila_core.miniature.words import (
    IMAGE,
    VOCABULARY_SIZE,
    build_tokenizer,
    words,
    write_tokenizer,
)


def test_image_is_the_first_id_beyond_the_vocabulary() -> None:
    tokenizer = build_tokenizer()
    assert len(words()) == VOCABULARY_SIZE == 128
    assert tokenizer.convert_tokens_to_ids(IMAGE) == 128
    assert len(tokenizer) == 129


def test_image_may_be_glued_to_the_sentence_after_it() -> None:
    tokenizer = build_tokenizer()
    glued, apart = (
        tokenizer("scene <image>red .").input_ids,
        tokenizer("scene <image> red .").input_ids,
    )
    assert glued == apart
    assert tokenizer.convert_ids_to_tokens(glued) == ["scene", "<image>", "red", "."]


def test_saved_tokenizer_gives_the_same_ids_and_bytes(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "a")
    write_tokenizer(tmp_path / "b")
    loaded = AutoTokenizer.from_pretrained(str(tmp_path / "a"), local_files_only=True)
    text = "scene <image> . q color of circle a top-left ; -> 18 never-heard"
    assert loaded(text).input_ids == build_tokenizer()(text).input_ids
    assert loaded(text).input_ids[-1] == loaded.unk_token_id
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
