"""What is installed, what is reachable, and what to do about what is not."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil

from vila_core.errors import VilaError
from vila_core.store import open_store

Level = Literal["ok", "note", "warning", "error", "unknown"]
GIB = 2**30

# What each extra of pyproject.toml brings, and what for: (distribution, module).
EXTRAS = {
    "train": ("train and evaluate models", ["torch", "transformers", "deepspeed", "safetensors"]),
    "pipeline": ("run and compile pipelines", ["kfp", "kubernetes"]),
    "eval": ("captioning metrics of the published benchmarks", ["sacrebleu"]),
    "web": ("the dashboard", ["fastapi", "uvicorn"]),
    "versioning": ("versioned corpora", ["dvc"]),
}
NEEDED_TO_RUN = ("train", "pipeline")

_PROBE = """
import torch
place = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
print(f"{torch.__version__}, on {place}, {torch.get_num_threads()} thread(s)")
"""


@dataclass(frozen=True)
class Check:
    """One finding. `note` is for what is optional; `error` means that runs will fail.

    `unknown` is what could not be looked at, and `detail` says why.
    """

    name: str
    level: Level
    detail: str
    fix: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the check as a JSON-able mapping."""
        return asdict(self)


def examine(store_uri: str) -> Iterator[Check]:
    """Yield the checks one by one; some take seconds."""
    yield _python()
    for extra in EXTRAS:
        yield _extra(extra)
    if importlib.util.find_spec("torch"):
        yield _torch()
    yield _memory()
    yield from _store(store_uri)
    yield _wandb()


def _python() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{platform.python_version()}, {cores} cores"
    return Check("python", "ok", detail)


def _extra(extra: str) -> Check:
    why, modules = EXTRAS[extra]
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if not missing:
        found = ", ".join(f"{module} {metadata.version(module)}" for module in modules)
        return Check(f"extra {extra}", "ok", found)
    return Check(
        f"extra {extra}",
        "error" if extra in NEEDED_TO_RUN else "note",
        f"missing {', '.join(missing)}: needed for {why}"
        if extra not in NEEDED_TO_RUN
        else f"missing {', '.join(missing)}: needed to {why}",
        f"pip install 'vila-platform[{extra}]'",
    )


def _torch() -> Check:
    # In a process of its own: a broken installation may take the interpreter with it.
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return Check("torch", "error", "its import did not end within 120 s", "reinstall torch")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Check("torch", "error", f"can't be imported: {last}", "reinstall torch")
    return Check("torch", "ok", done.stdout.strip())


def _memory() -> Check:
    free = psutil.virtual_memory().available / GIB
    if free < 3:
        return Check("memory", "warning", f"{free:.1f} GiB free", "the quickstart wants 3 GiB")
    return Check("memory", "ok", f"{free:.1f} GiB free")


def _store(uri: str) -> Iterator[Check]:
    try:
        store = open_store(uri)
        key = f"doctor/{uuid.uuid4().hex}"
        store.write(key, b"probe")
        intact = store.read(key) == b"probe"
        store.delete(key)
    except VilaError as error:
        yield Check("store", "error", str(error), "choose another: --store URI or VILA_STORE")
        return
    if not intact:
        yield Check(
            "store", "error", f"{uri} gives back other bytes than were written", "repair it"
        )
        return
    yield Check("store", "ok", f"{uri}: can be written and read")
    local = store.local_path("")
    if local is not None:
        yield _disk(local)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / GIB
    if free < 2:
        return Check("disk", "warning", f"{free:.1f} GiB free at {folder}", "free some space")
    return Check("disk", "ok", f"{free:.1f} GiB free at {folder}")


def _wandb() -> Check:
    if importlib.util.find_spec("wandb") is None:
        return Check("wandb", "note", "not installed: metrics stay in the run record", "")
    mode = os.environ.get("WANDB_MODE", "as the recipe says (default: offline)")
    key = "an API key is set" if _wandb_key() else "no API key"
    if mode == "online" and not _wandb_key():
        return Check("wandb", "warning", f"mode {mode}, {key}", "wandb login, or set WANDB_API_KEY")
    return Check("wandb", "ok", f"{metadata.version('wandb')}, mode {mode}, {key}")


def _wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "api.wandb.ai" in netrc.read_text(errors="replace")
