"""The page of stores names every variable that the code reads, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "store.md"
NAME = re.compile(r"\b(?:VILA_S3|AWS)_[A-Z0-9_]+|\bSSL_CERT_FILE\b")


def test_the_variables_are_those_that_are_read() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "vila_core" / "store").glob("*.py"))
    read = {name for name in re.findall(r'"([A-Z0-9_]+)"', code) if NAME.fullmatch(name)}
    told = {name for name in NAME.findall(PAGE.read_text()) if not name.endswith("_")}
    # Read by minio's client, or put together from parts.
    agents = {"AWS_CONTAINER_CREDENTIALS_FULL_URI"}
    assert told - agents == read


def test_messages_of_the_table_exist() -> None:
    code = "".join(path.read_text() for path in (ROOT / "vila_core" / "store").glob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    table = PAGE.read_text().split("## What is told")[1]
    told = [
        text for row in re.findall(r"^\| (`.*?`) \|", table, re.M) for text in row.split("`, `")
    ]
    assert len(told) > 10
    for text in told:
        start = re.split(r" \(Exp|; fix|\d+ minutes|, 3 times", text.strip("`"))[0].strip()
        assert start in code, text
