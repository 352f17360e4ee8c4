"""The page on formats names every format, its template, licence and options, and every reason."""

from __future__ import annotations

import re

import pytest
from page_commands import ROOT

from vila_core.data.readers import READERS
from vila_core.data.readers.common import Options

PAGE = (ROOT / "docs" / "reference" / "corpora.md").read_text()
RULES = (ROOT / "docs" / "how-to" / "choose-rules.md").read_text()
SOURCES = ROOT / "vila_core" / "data" / "readers"


def section(name: str) -> str:
    return PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]


def defaults(options: type[Options]) -> dict[str, str]:
    return {name: str(field.default) for name, field in options.model_fields.items()}


@pytest.mark.parametrize("name", READERS)
def test_a_format_is_described(name: str) -> None:
    reader = READERS[name]
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| [`{name}`](#{name}) |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3] == (f"`{reader.template}`" if reader.template else "you say it")
    if reader.licence:
        assert cells[4] == reader.licence
    else:
        assert not re.search(r"CC|ODC|MIT", cells[4])
    text = section(name)
    shared = section("img2dataset") if "options are those" in " ".join(text.split()) else text
    for option, default in defaults(reader.options).items():
        rows = [line for line in shared.splitlines() if line.startswith(f"| `{option}` |")]
        if not rows:
            assert f"`{option}`" in RULES, option
        elif name in ("llava", "sharegpt4v", "m3it"):
            assert rows[0].split("|")[2].strip() == {"": "none"}.get(default, default.lower())


def test_every_reason_is_explained() -> None:
    """All reasons in the readers' code, whether named or written out where they are raised."""
    code = "\n".join(path.read_text() for path in SOURCES.glob("*.py"))
    code += (ROOT / "vila_core" / "images.py").read_text()
    constants = dict(re.findall(r'^([A-Z_]+) = "([a-z A-Z0-9]+)"$', code, re.M))
    for names, values in re.findall(r"^([A-Z_, ]+, [A-Z_]+) = (.*)$", code, re.M):
        constants.update(zip(names.split(", "), re.findall(r'"([^"]+)"', values), strict=True))
    raised = set(re.findall(r'(?:Broken|BadImage)\(\s*"([^"]+)"', code))
    for name in re.findall(r"(?:Broken|BadImage)\(\s*([A-Z_]+)[,)]", code):
        raised.add(constants[name])
    assert len(raised) >= 15
    missing = [
        reason for reason in sorted(raised) if f"`{reason}`" not in section("Broken records")
    ]
    assert missing == []
