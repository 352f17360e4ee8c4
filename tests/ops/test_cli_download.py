"""`vila data download` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.data.image_server import certificates, running, send
from tests.data.make import noise
from vila_core.errors import UserError
from vila_ops.cli.main import app


def vila(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def write(folder: Path, urls: list[str]) -> Path:
    table: Any = pa.table({"id": range(len(urls)), "url": urls, "text": ["red"] * len(urls)})
    pq.write_table(table, folder / "pairs.parquet")
    return folder / "pairs.parquet"


def test_images_come_over_tls_and_what_failed_is_asked_again(tmp_path: Path) -> None:
    bundle, context = certificates(tmp_path)
    with running(context) as site:
        urls = [site.put(f"/{n}.jpg", send(noise(n))) for n in range(3)]
        site.put("/1.jpg", send(status=500))
        site.put("/2.jpg", send(status=410))
        command = [
            *("data", "download", write(tmp_path, urls), "--format", "coyo"),
            *("--to", tmp_path / "out", "--set", "retries=0", "--set", "reencode.side=32"),
            *("--ca-bundle", bundle, "--allow-private", "127.0.0.0/8"),
        ]
        printed = vila(*command)
        assert f"1 images of 3 addresses (33.3%), in 1 shards: {tmp_path / 'out'}" in printed
        assert "refused               1" in printed
        assert "server error          1" in printed
        assert "1 may have healed by now: --retry asks for them again" in printed
        site.put("/1.jpg", send(noise(1)))
        found = json.loads(vila(*command, "--retry", "--json"))
    assert found["images"] == 2
    assert found["reasons"] == {"refused": 1}
    assert found["may_heal"] == 0


def test_mistakes_are_told(tmp_path: Path) -> None:
    corpus = write(tmp_path, ["x"])
    with pytest.raises(UserError, match="--format laion: known are coyo, mmc4"):
        vila("data", "download", corpus, "--format", "laion", "--to", tmp_path / "out")
    command = ("data", "download", corpus, "--format", "coyo", "--to", tmp_path / "out")
    with pytest.raises(UserError, match="thread: unknown key; did you mean 'threads'"):
        vila(*command, "--set", "thread=3")
    with pytest.raises(UserError, match="no such file or folder"):
        vila("data", "download", tmp_path / "no", "--format", "coyo", "--to", tmp_path / "out")
    assert not (tmp_path / "out").exists()
