"""The images of a run's tasks: which they are, that they are here, and that they hold its code."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from components.runtime import stage_module
from components.runtime.code import code_digest, lock_digest
from vila_core.errors import UserError
from vila_core.store.artifacts import cache_folder
from vila_ops.driver.engine import Engine, Image, extra_arguments
from vila_ops.driver.graph import Graph, Task

ROLES = ("data", "train", "eval", "ops")
RUNTIME = "components.runtime"
"""What carries a stage in its container; it must understand what the driver tells it."""
_OURS = re.compile(r"vila-platform/(?P<role>[a-z]+):latest")

# Asked of an image: what code its Python finds for stages.
_PROBE = """
import json, sys
from components.runtime import stage_module
from components.runtime.code import code_digest, lock_digest
found = {stage: dict(code_digest(stage_module(stage)).files) for stage in sys.argv[1:]}
print(json.dumps({"lock": lock_digest(), "stages": found}))
"""


@dataclass(frozen=True)
class TaskImages:
    """The checked images of a graph, by the name that its tasks have for them; and remarks."""

    images: Mapping[str, Image]
    notes: Sequence[str]

    def of(self, graph: Graph, task: Task) -> Image:
        """Return the image of a task."""
        return self.images[named_image(graph, task)]

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return what a run remembers of its images."""
        return {
            role_of(name): {
                "ref": image.ref,
                "id": image.id,
                "revision": image.labels.get("org.opencontainers.image.revision"),
            }
            for name, image in self.images.items()
        }


def chosen(given: Iterable[str]) -> dict[str, str]:
    """Return the image of each role: `given` has ROLE=REF, for others VILA_IMAGE_REGISTRY counts.

    Raises UserError for text that is no ROLE=REF, or an unknown role.
    """
    registry = os.environ.get("VILA_IMAGE_REGISTRY", "").rstrip("/")
    lead = f"{registry}/" if registry else ""
    found = {role: f"{lead}vila-platform/{role}:latest" for role in ROLES}
    for text in given:
        role, _, ref = text.partition("=")
        if role not in ROLES or not ref:
            raise UserError(f"--image {text}: ROLE=REF is needed, ROLE one of {', '.join(ROLES)}.")
        found[role] = ref
    return found


def named_image(graph: Graph, task: Task) -> str:
    """Return the image that a task's component names."""
    return graph.spec["deploymentSpec"]["executors"][task.executor]["container"]["image"]


def role_of(image: str) -> str:
    """Return the role of one of our images; another image is its own role."""
    found = _OURS.fullmatch(image)
    return found["role"] if found else image


def check_images(engine: Engine, graph: Graph, refs: Mapping[str, str]) -> TaskImages:
    """Find the images of all tasks, and ask each for its code.

    Raises UserError for an image that is not there, has no Python with this package, or holds
    other code than this for a stage that would run in it.
    """
    stages: dict[str, set[str]] = {}
    for task in graph.tasks.values():
        stages.setdefault(named_image(graph, task), set()).add(task.stage)

    def check(name: str) -> tuple[Image, list[str]]:
        image = engine.image(refs.get(role_of(name), name))
        return image, _check_code(engine, image, sorted({*stages[name], RUNTIME}))

    with ThreadPoolExecutor(len(stages)) as pool:
        found = dict(zip(stages, pool.map(check, stages), strict=True))
    notes = [note for _, told in found.values() for note in told]
    return TaskImages({name: image for name, (image, _) in found.items()}, notes)


def _check_code(engine: Engine, image: Image, stages: list[str]) -> list[str]:
    """Compare the code of stages in an image with this one's; return remarks. Raises UserError."""
    theirs = _code_of(engine, image, stages)
    for stage in stages:
        ours = code_digest(stage_module(stage)).files
        changed = sorted(
            name
            for name in ours.keys() | theirs["stages"][stage].keys()
            if ours.get(name) != theirs["stages"][stage].get(name)
        )
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise UserError(
                f"image {image.ref} holds other code than this for {stage}: "
                f"{changed[0]}{more}.\n  fix: build it again (make images), or name an image of "
                "this code: --image ROLE=REF"
            )
    if theirs["lock"] != lock_digest():
        return [
            f"image {image.ref} has another version of Python, or another lock file: what its "
            "tasks make is kept apart in the cache"
        ]
    return []


def _code_of(engine: Engine, image: Image, stages: list[str]) -> dict[str, Any]:
    """Return {lock, stages: {stage: {file: sha256}}} of an image, asked once per image id."""
    extra = extra_arguments()
    place = cache_folder() / "images" / f"{image.id}.json"
    known: dict[str, Any] = {"stages": {}}
    if not extra:  # else a mount may have changed what is found in there
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(place.read_text(encoding="utf-8"))
    if known["stages"].keys() >= set(stages):
        return known
    found = _ask(engine, image, sorted({*stages, *known["stages"]}), extra)
    if not extra:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(found), encoding="utf-8")
        aside.replace(place)
    return found


def _ask(engine: Engine, image: Image, stages: list[str], extra: list[str]) -> dict[str, Any]:
    command = ["run", "--rm", "--pull=never", "--network=none", "--read-only", *extra]
    done = engine.call(*command, "--entrypoint=python3", image.id, "-c", _PROBE, *stages)
    if done.returncode == 125:  # by convention the engine's own failure
        raise engine.failure(done.stderr)
    try:
        return json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(
            f"image {image.ref} can't run the stages {', '.join(stages)}: {last}\n"
            "  fix: build it again (make images)"
        ) from None
