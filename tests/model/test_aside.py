"""A folder made aside: whole or not at all, and readable by whom the umask lets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vila_core.aside import aside
from vila_core.errors import UserError, VilaError


def rights(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640)]
)
def test_all_in_it_has_the_rights_that_the_umask_leaves(
    tmp_path: Path, umask: int, folder: int, file: int
) -> None:
    out = tmp_path / "below" / "out"
    before = os.umask(umask)
    try:
        with aside(out) as made:
            made.mkdir(mode=0o700)
            (made / "inner").mkdir(mode=0o700)
            save_file({"weights": torch.zeros(2)}, str(made / "inner" / "model.safetensors"))
            (made / "program").write_text("")
            (made / "program").chmod(0o500)
            assert not out.exists()
    finally:
        os.umask(before)
    assert rights(out) == rights(out / "inner") == folder
    assert rights(out / "inner" / "model.safetensors") == rights(out / "program") == file
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("broken", [ValueError("mistake"), KeyboardInterrupt()])
def test_what_breaks_leaves_nothing(tmp_path: Path, broken: BaseException) -> None:
    def write(out: Path) -> None:
        with aside(out) as made:
            made.mkdir()
            (made / "half").write_text("half")
            raise broken

    with pytest.raises(type(broken)):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_written_names_the_folder_that_was_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(VilaError, match=rf"^{out}: can't be written: .*No space"), aside(out):
        raise OSError(28, "No space left on device")
    with pytest.raises(VilaError, match=rf"^{out}: can't be written"), aside(out):
        pass  # no folder was made
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"), aside(tmp_path / "file" / "out"):
        pytest.fail("there is no such folder")
    out.symlink_to("nowhere")
    with pytest.raises(UserError, match=f"^{out}: exists already; fix: "), aside(out):
        pytest.fail("it is there")
