"""The page on other code's use of a version: its program answers from an export of ours."""

import re
import runpy
from pathlib import Path

import pytest
from page_commands import ROOT
from PIL import Image

from components.registry import Registry, Version
from vila_core.store import open_store, publish
from vila_ops.registry.export import export

PAGE = ROOT / "docs" / "how-to" / "use-a-version-elsewhere.md"


@pytest.mark.slow
def test_the_program_of_the_page_asks_an_export(tmp_path: Path) -> None:
    from tests.model.test_layouts import make

    store = open_store(tmp_path / "store")
    artifact = publish(store, make(tmp_path / "made"))
    Registry(store).register(Version("toy", 0, artifact, "r1", "k", {}, {}, {}))
    export(store, "toy@1", tmp_path / "hf", "transformers")
    picture = tmp_path / "picture.png"
    Image.new("RGB", (50, 40), (200, 30, 10)).save(picture)
    found = re.findall(r"```python\n# ask_hf.py\n(.*?)```", PAGE.read_text(), re.S)
    assert len(found) == 1
    program = tmp_path / "ask_hf.py"
    program.write_text(
        found[0]
        .replace("FOLDER", repr(str(tmp_path / "hf")))
        .replace("PICTURE", repr(str(picture)))
    )
    assert isinstance(runpy.run_path(str(program))["answer"], str)
    for name in ("config.json", "preprocessor_config.json", "processor_config.json",
                 "tokenizer.json", "model.safetensors"):  # fmt: skip
        assert (tmp_path / "hf" / name).is_file()  # what vLLM reads
