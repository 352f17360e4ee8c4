"""Where reports go: beside the run in the store, and to a folder of the user's."""

from __future__ import annotations

from pathlib import Path

from vila_core.errors import UserError
from vila_core.jsonio import dumps
from vila_core.store import Store
from vila_ops.reproduce.blocks import Figure, markdown, page
from vila_ops.reproduce.report import blocks, headline, numbers
from vila_ops.reproduce.runs import load


def write_reports(store: Store, run_id: str, folder: Path | None) -> list[str]:
    """Write the reports of a run and return what to tell: verdicts, effects and places.

    A report is `NAME.md` with its plots `NAME-*.svg`, `NAME.html` with plots inside, and
    `NAME.json`. Raises UserError for a run that has not succeeded, or a folder that can't be
    written.
    """
    done = load(store, run_id)
    told: list[str] = []
    files: dict[str, str] = {}
    for name, finding in done.plan.findings.items():
        content = blocks(store, done, name)
        files[f"{name}.md"] = markdown(content)
        files[f"{name}.html"] = page(finding.title, content)
        files[f"{name}.json"] = dumps(numbers(done, name), indent=1) + "\n"
        files |= {f"{one.name}.svg": one.svg + "\n" for one in content if isinstance(one, Figure)}
        told += headline(done, name)
    for file, text in files.items():
        store.write(f"runs/{run_id}/report/{file}", text.encode())
    places = [str(store.local_path(f"runs/{run_id}/report") or f"{store.uri}/runs/{run_id}/report")]
    if folder is not None:
        _write(folder, files)
        places.append(str(folder))
    return [*told, *(f"reports: {place}" for place in places)]


def _write(folder: Path, files: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--report {folder}: can't be written: {error.strerror or error}") from None
