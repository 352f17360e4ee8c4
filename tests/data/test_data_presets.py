"""Presets: that their values are what the page says, and that a corpus's own values win."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from vila_core.data.presets import presets, resolve
from vila_core.data.readers import READERS
from vila_core.data.readers.coyo import CoyoOptions
from vila_core.data.readers.flan import FlanOptions
from vila_core.data.readers.mmc4 import Mmc4Options
from vila_core.data.rules import Rules

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "choose-rules.md"


def table_rows() -> set[tuple[str, str, str]]:
    """Preset, format and the values of the page's table of presets."""
    cells = re.compile(r"\| `([a-z0-9-]+)` \| `([a-z0-9]+)` \| ((?:options|rules): .*) \|")
    return {
        match.groups() for match in map(cells.fullmatch, PAGE.read_text().splitlines()) if match
    }  # type: ignore[misc]


def shown(part: dict[str, dict[str, Any]]) -> str:
    """A section of a preset as the table shows it."""

    def line(values: dict[str, Any]) -> str:
        return yaml.safe_dump(
            dict(values), default_flow_style=True, sort_keys=False, width=9999
        ).strip()

    return ", ".join(f"{name}: `{line(values)}`" for name, values in part.items())


def test_the_pages_table_is_the_presets() -> None:
    expected = {
        (preset.name, format, shown(part))  # type: ignore[arg-type]
        for preset in presets().values()
        for format, part in preset.formats.items()
    }
    assert table_rows() == expected


def test_the_page_explains_every_option_and_rule() -> None:
    text = PAGE.read_text()
    for model in (Mmc4Options, CoyoOptions, FlanOptions, Rules):
        for name in model.model_fields:
            assert f"`{name}`" in text, f"{model.__name__}.{name}"


@pytest.mark.parametrize(
    ("name", "format"), [(one.name, format) for one in presets().values() for format in one.formats]
)
def test_every_preset_is_valid_and_every_value_is_taken(name: str, format: str) -> None:
    options, rules = resolve(format, {}, {"preset": name})
    assert rules.preset == name
    for part, model in (("options", options), ("rules", rules)):
        have = model.model_dump(mode="json")
        for key, value in presets()[name].part(format, part).items():
            assert have[key] == value


@pytest.mark.parametrize("name", list(presets()))
def test_every_value_of_a_preset_names_its_source(name: str) -> None:
    """By a comment on its line, or one above that speaks for all lines up to the next comment."""
    lines = (ROOT / "configs" / "rules" / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    spoken_for = False
    for line in lines[1:]:
        if line.startswith("    # "):
            spoken_for = True
        elif re.match(r"    [a-z_]+: ", line):
            assert " # " in line or spoken_for, line
            spoken_for = spoken_for and " # " not in line


def test_own_values_win_over_the_presets() -> None:
    options, rules = resolve(
        "coyo",
        {"id": "key"},
        {
            "preset": "coyo-built-in",
            "min_side": 100,
            "min_words": None,
            "max_score": {"watermark_score": 0.8},
        },
    )
    assert options == CoyoOptions(id="key")
    assert (rules.min_side, rules.min_words, rules.max_words) == (100, None, 256)
    assert rules.max_score == {"nsfw_score_opennsfw2": 0.5, "watermark_score": 0.8}
    _, rules = resolve("coyo", {}, {"preset": "coyo-built-in", "max_score": None})
    assert rules.max_score == {}
    gone = {"preset": "coyo-built-in", "max_score": {"nsfw_score_opennsfw2": None}}
    assert resolve("coyo", {}, gone)[1].max_score == {}


def test_null_is_a_value_where_it_means_no_limit() -> None:
    options, _ = resolve("mmc4", {"max_images": None}, {"preset": "released-code"})
    assert isinstance(options, Mmc4Options)
    assert options.max_images is None
    assert options.need_all_images


def test_without_a_preset_the_rules_are_off() -> None:
    options, rules = resolve("mmc4", {}, {})
    assert (options, rules) == (Mmc4Options(), Rules())


@pytest.mark.parametrize(
    ("format", "options", "rules", "words"),
    [
        ("mmc4", {}, {"preset": "vila"}, f"'vila' is not one of {', '.join(presets())}"),
        (
            "flan",
            {},
            {"preset": "openflamingo"},
            "'openflamingo' is for mmc4; format 'flan' has paper, released-code",
        ),
        ("llava", {}, {"preset": "paper"}, "format 'llava' has none"),
        ("mmc4", {"max_image": 3}, {}, "options.max_image is not an option: did you mean 'max_i"),
        ("prepared", {"x": 3}, {}, "options.x is not an option: format 'prepared' has none"),
        ("mmc4", {}, {"min_syde": 3}, "rules.min_syde is not an option: did you mean 'min_side'?"),
        ("mmc4", {"max_images": 0}, {}, "options.max_images: Input should be greater than or equ"),
        ("mmc4", {}, {"min_words": 3, "max_words": 2}, "rules: min_words 3 is over max_words 2"),
    ],
)
def test_mistakes_are_named(
    format: str, options: dict[str, Any], rules: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        resolve(format, options, rules)


def test_presets_are_for_formats_that_there_are() -> None:
    for preset in presets().values():
        assert preset.about
        assert set(preset.formats) <= set(READERS)
        for part in preset.formats.values():
            assert set(part) <= {"options", "rules"}
