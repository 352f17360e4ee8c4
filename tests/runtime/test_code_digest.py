"""The code digest sees every file that a stage can reach, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components.runtime.code import code_digest, lock_digest
from components.runtime.code_facts import FactFile

ROOT = Path(__file__).parents[2]

FILES = {
    "toypkg/__init__.py": "",
    "toypkg/stage.py": """
from typing import TYPE_CHECKING
import json
from toypkg.direct import thing
from . import sibling
if TYPE_CHECKING:
    from toypkg import only_for_types
def run():
    from toypkg.inner.deep import name
    reader = {"x": "toypkg.by_name"}
    import importlib
    importlib.import_module(f"toypkg.plugins.{reader}")
    from importlib.resources import files
    return (files("toypkg.data") / "chosen" / "a.yaml").read_text()
""",
    "toypkg/direct.py": "import toypkg.second\nthing = 1\n",
    "toypkg/second.py": "",
    "toypkg/sibling.py": "",
    "toypkg/only_for_types.py": "",
    "toypkg/by_name.py": "",
    "toypkg/unrelated.py": "",
    "toypkg/inner/__init__.py": "from .initial import x\n",
    "toypkg/inner/initial.py": "x = 1\n",
    "toypkg/inner/deep.py": "name = 1\n",
    "toypkg/inner/table.csv": "1,2\n",
    "toypkg/plugins/__init__.py": "",
    "toypkg/plugins/one.py": "",
    "toypkg/plugins/two.py": "",
    "toypkg/lazy/__init__.py": "def __getattr__(name): ...\n",
    "toypkg/lazy/found.py": "",
    "toypkg/second.yaml": "a: 1\n",
    "toypkg/data/__init__.py": "",
    "toypkg/data/chosen/a.yaml": "a: 1\n",
    "toypkg/data/other/b.yaml": "b: 1\n",
    "toypkg/other/__init__.py": "",
    "toypkg/other/data.csv": "",
}
REACHED = {
    "toypkg/__init__.py", "toypkg/stage.py", "toypkg/direct.py", "toypkg/second.py",
    "toypkg/sibling.py", "toypkg/by_name.py", "toypkg/inner/__init__.py",
    "toypkg/inner/initial.py", "toypkg/inner/deep.py", "toypkg/inner/table.csv",
    "toypkg/plugins/__init__.py", "toypkg/plugins/one.py", "toypkg/plugins/two.py",
    "toypkg/second.yaml", "toypkg/data/chosen/a.yaml",
}  # fmt: skip


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def digest_in_new_process(place: Path, module: str = "toypkg.stage") -> str:
    code = f"from components.runtime.code import code_digest; print(code_digest({module!r}).digest)"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": f"{place}:{ROOT}", "PYTHONHASHSEED": "random"}
    return subprocess.check_output(command, env=environment, text=True, cwd=place).strip()


def test_closure_and_what_changes_the_digest(package: Path) -> None:
    before = digest_in_new_process(package)
    assert before == digest_in_new_process(package)
    code = (
        "from components.runtime.code import code_digest; import json, sys\n"
        "print(json.dumps(sorted(code_digest('toypkg.stage').files)))\n"
        "assert 'toypkg' not in sys.modules\n"
    )
    environment = {"PYTHONPATH": f"{package}:{ROOT}"}
    found = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert set(eval(found)) == REACHED
    for name in FILES:
        path = package / name
        path.write_text(FILES[name] + "\n# changed\n")
        changed = code_digest("toypkg.stage").digest != before
        assert changed == (name in REACHED), name
        path.write_text(FILES[name])
    assert digest_in_new_process(package) == before


def test_a_new_file_that_nothing_imports_changes_nothing(package: Path) -> None:
    before = digest_in_new_process(package)
    (package / "toypkg/new.py").write_text("")
    assert digest_in_new_process(package) == before
    (package / "toypkg/plugins/three.py").write_text("")  # could be chosen by name
    assert digest_in_new_process(package) != before


def test_a_lazy_package_counts_whole(package: Path) -> None:
    stage = package / "toypkg/stage.py"
    stage.write_text("from toypkg.lazy import anything\n")
    before = digest_in_new_process(package)
    (package / "toypkg/lazy/found.py").write_text("changed = 1\n")
    assert digest_in_new_process(package) != before


def test_a_change_is_seen_in_a_living_process(package: Path) -> None:
    before = code_digest("toypkg.stage").digest
    (package / "toypkg/second.py").write_text("x = 2\n")
    assert code_digest("toypkg.stage").digest != before


def test_the_real_stages() -> None:
    files = code_digest("components.registry.stage").files
    assert "components/registry/gates/judge.py" in files
    assert "configs/gates/miniature.yaml" in files
    assert "vila_core/jsonio.py" in files
    others = (
        "vila_ops",
        "vila_core/stages/",
        "vila_core/model",
        "configs/recipes",
        "configs/models",
    )
    # Its contamination gate reads evaluation sets; no other stage's code is in its key.
    assert [name for name in files if name.startswith(others)] == [
        "vila_core/stages/__init__.py",
        "vila_core/stages/evalsets.py",
    ]
    assert not any("__init__/" in name for name in files)


def test_unknown_module() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_stage"):
        code_digest("vila_core.stages.no_such_stage")


def test_lock_digest_is_stable() -> None:
    assert lock_digest() == lock_digest()
    assert len(lock_digest()) == 64


def test_what_files_say_is_remembered_between_processes_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA_CACHE", str(tmp_path / "cache"))
    finder = tmp_path / "finder.py"
    finder.write_text("1")
    first = FactFile(finder)
    assert first.get("a", lambda: [["x"], []]) == [["x"], []]
    first.save()
    assert [path.suffix for path in (tmp_path / "cache" / "code").iterdir()] == [".json"]

    def unexpected() -> list[str]:
        raise AssertionError("it is known")

    assert FactFile(finder).get("a", unexpected) == [["x"], []]
    finder.write_text("2")  # other code may find other facts
    assert FactFile(finder).get("a", lambda: ["new"]) == ["new"]


def test_a_memory_that_is_broken_or_read_only_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA_CACHE", str(tmp_path))
    (tmp_path / "code").write_text("no folder")
    facts = FactFile(Path(__file__))
    assert facts.get("a", lambda: ["x"]) == ["x"]
    facts.save()
    (tmp_path / "code").unlink()
    facts.get("b", lambda: ["y"])
    facts.save()
    [kept] = (tmp_path / "code").iterdir()
    kept.write_text('["half')
    assert FactFile(Path(__file__)).get("b", lambda: ["z"]) == ["z"]
