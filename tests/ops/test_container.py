"""`vila run --runner container`: real containers, of an image whose content is this machine's.

The image itself is empty: Python, the packages and this checkout are mounted, read-only. What the
built images add to that is tested where they are built.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_control import SLOW, stepped, until
from test_run import digests, show, statuses
from toy_vila import ROOT, TOYS, Vila

from components.runtime import record
from vila_core.store import Store, open_store

pytestmark = pytest.mark.slow

IMAGE = "vila-platform/ops:mounted"
CONTAINER = ("--runner", "container", "--image", f"ops={IMAGE}")


def mounts() -> str:
    """The options that give the empty image its content."""
    places = {sys.prefix, os.path.realpath(sys.prefix), sys.base_prefix, str(ROOT), str(TOYS)}
    places |= {"/usr", "/bin", "/lib", "/lib64", "/etc/ssl"}
    found = sorted(place for place in places if Path(place).exists())
    return " ".join(f"--mount=type=bind,src={place},dst={place},readonly" for place in found)


def engine_environment() -> dict[str, str]:
    """What podman needs here to run a container at all: nothing, or our containers.conf."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    empty = subprocess.run(["tar", "cf", "-", "--files-from", "/dev/null"], capture_output=True)
    change = [f"ENV PATH={sys.prefix}/bin:/usr/bin:/bin", f"ENV PYTHONPATH={TOYS}:{ROOT}"]
    make = ["podman", "import", "-q", *(f"--change={each}" for each in change), "-", IMAGE]
    start = ["podman", "run", "--rm", "--network=none", *mounts().split(), IMAGE, "python3", "-V"]
    said = ""
    for extra in ({}, {"CONTAINERS_CONF": str(ROOT / "images" / "containers.conf")}):
        environment = {**os.environ, **extra}
        for command, given in ((make, empty.stdout), (start, None)):
            done = subprocess.run(command, input=given, env=environment, capture_output=True)
            said = done.stderr.decode().strip()
            if done.returncode:
                break
        else:
            return extra
    pytest.skip(f"podman can't run a container here: {said}")


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**engine_environment(), "VILA_ENGINE": "podman", "VILA_ENGINE_ARGS": mounts()}


@pytest.fixture(scope="session")
def docker(
    podman: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Docker's own client; its service is podman's, which speaks the same language."""
    if shutil.which("docker") is None:
        pytest.skip("docker's client is not installed")
    socket = tmp_path_factory.mktemp("engine") / "s"
    service = subprocess.Popen(
        ["podman", "system", "service", "--time=0", f"unix://{socket}"],
        env={**os.environ, **podman},
        stderr=subprocess.DEVNULL,
    )
    try:
        until(socket.exists)
        yield {**podman, "VILA_ENGINE": "docker", "DOCKER_HOST": f"unix://{socket}"}
    finally:
        service.terminate()
        service.wait()


@pytest.fixture
def contained(vila: Vila, podman: dict[str, str], tmp_path: Path) -> Vila:
    vila.env.update(podman, VILA_CACHE=str(tmp_path / "cache"))
    return vila


def run(vila: Vila, recipe: Path, *options: object, code: int = 0) -> str:
    return vila(
        "run", recipe, "--runner", "container", "--image", f"ops={IMAGE}", *options, code=code
    )


def containers(vila: Vila) -> list[str]:
    """The containers of all runs of a store, ended ones too."""
    found = []
    for path in vila.store.glob("runs/*"):
        label = f"label=vila.dev/run={path.name}"
        command = ["podman", "ps", "--all", "--quiet", "--filter", label]
        done = subprocess.run(command, env=vila.env, capture_output=True, text=True, check=True)
        found += done.stdout.split()
    return found


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_containers_make_the_artifacts_of_subprocesses(
    contained: Vila, recipe: Path, tmp_path: Path, engine: str, request: pytest.FixtureRequest
):
    vila = contained
    vila.env.update(request.getfixturevalue(engine))
    assert "succeeded" in run(vila, recipe)
    first = show(vila)
    assert first["runner"] == "container"
    assert set(statuses(first).values()) == {"succeeded"}
    assert not containers(vila)
    told = json.loads(next(vila.store.glob("runs/*/containers.json")).read_text())
    assert told["engine"].startswith(engine)
    assert told["images"]["ops"]["ref"] == IMAGE
    for path in vila.store.rglob("*"):
        assert path.stat().st_uid == os.getuid(), path

    other = tmp_path / "other"
    vila("run", recipe, "--store", other)
    plain = json.loads(vila("show", "last", "--json", "--store", other))
    assert digests(plain) == digests(first)
    printed = vila("verify", "parity", "last", "--against", "last", "--against-store", other)
    assert "equal to the bit: 4 of 4 artifacts of 4 tasks" in printed
    kept = json.loads(next(vila.store.glob("runs/*/certificates/parity.json")).read_text())
    assert kept["equal"] is True
    assert {each["computed"] for each in kept["artifacts"]} == {True}
    assert (kept["run"]["runner"], kept["against"]["runner"]) == ("container", "subprocess")

    run(vila, recipe)
    assert set(statuses(show(vila)).values()) == {"cached"}, "one key for a task, whoever runs it"


@pytest.mark.parametrize(
    ("engine", "how", "exit_code", "message"),
    [
        ("podman", "user", 2, "corpora/toy.jsonl:3: the line is not JSON; fix or remove it."),
        ("podman", "crash", 1, "ValueError: the toy broke"),
        ("podman", "killed", 137, "killed by signal 9"),
        ("docker", "user", 2, "corpora/toy.jsonl:3: the line is not JSON; fix or remove it."),
        ("docker", "killed", 137, "killed by signal 9"),
    ],
)
def test_a_failed_task_ends_with_the_exit_code_of_its_step(
    contained: Vila,
    recipe: Path,
    engine: str,
    how: str,
    exit_code: int,
    message: str,
    request: pytest.FixtureRequest,
):
    contained.env.update(request.getfixturevalue(engine))
    printed = run(contained, recipe, "--set", f"source.fail={how}", code=1)
    assert message in printed
    failed = show(contained)["tasks"][0]
    assert (failed["status"], failed["exit_code"]) == ("failed", exit_code)
    assert message in failed["error"]
    assert not containers(contained)


def test_a_task_that_needs_too_much_memory_is_told_as_such(contained: Vila, recipe: Path):
    contained.env["VILA_ENGINE_ARGS"] += " --memory=64m --memory-swap=64m"
    printed = run(contained, recipe, "--set", "source.fail=greedy", code=1)
    assert "for want of memory" in printed
    failed = show(contained)["tasks"][0]
    assert failed["exit_code"] == 137
    assert "--memory" in failed["error"]


def test_a_driver_that_is_killed_leaves_no_container(contained: Vila, recipe: Path):
    process = contained.start("run", recipe, *CONTAINER, *SLOW)
    until(lambda: stepped(contained), seconds=120)
    assert containers(contained)
    process.kill()
    process.communicate()
    until(lambda: not containers(contained), seconds=20)
    assert show(contained)["status"] == "interrupted"
    contained("resume", "last")
    resumed = show(contained)
    assert resumed["status"] == "succeeded"
    assert "starting at step 0" not in contained("logs", "last", "grow")


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_ctrl_c_and_stop_end_the_containers_and_resume_goes_on(
    contained: Vila, recipe: Path, engine: str, request: pytest.FixtureRequest
):
    vila = contained
    vila.env.update(request.getfixturevalue(engine))
    process = vila.start("run", recipe, *CONTAINER, *SLOW)
    until(lambda: stepped(vila), seconds=120)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert not containers(vila)
    assert statuses(show(vila))["grow"] == "stopped"

    run_id = vila("resume", "last", "--detach").strip()
    until(lambda: (vila.store / f"runs/{run_id}/tasks/grow/002/started.json").exists(), 120)
    assert "stopped" in vila("stop", run_id)
    assert not containers(vila)
    vila("resume", "last")
    assert show(vila)["status"] == "succeeded"
    assert "starting at step 0" not in vila("logs", "last", "grow")


def test_a_container_that_an_engine_lost_track_of_goes_by_stop(contained: Vila):
    store = open_store(contained.store)
    run_id = "lost-1129-101010-abcd"
    started = {"run_id": run_id, "name": "lost", "recipe": "toy", "config": {}, "config_digest": ""}
    record.create_run(store, {**started, "runner": "container", "code_digest": "", "tasks": []})
    record.end_run(store, run_id, "failed")
    label = f"--label=vila.dev/run={run_id}"
    command = ["podman", "create", label, "--network=none", IMAGE, "true"]
    subprocess.run(command, env=contained.env, capture_output=True, check=True)
    assert containers(contained)
    contained("stop", run_id)
    assert not containers(contained)
    assert "is not running" in contained("stop", run_id, code=2)


def test_secrets_and_the_store_reach_the_step_and_no_command_line(
    contained: Vila, recipe: Path, tmp_path: Path
):
    """The environment goes by name; what a config names of this machine is there, read-only."""
    certificate = tmp_path / "ca.pem"
    certificate.write_text("a certificate")
    contained.env.update(AWS_SECRET_ACCESS_KEY="a-secret-value", SSL_CERT_FILE=str(certificate))
    process = contained.start("run", recipe, *CONTAINER, *SLOW)
    until(lambda: stepped(contained), seconds=120)
    name = containers(contained)[0]
    shown = subprocess.run(
        [
            "podman",
            "exec",
            name,
            "sh",
            "-c",
            f'echo "$AWS_SECRET_ACCESS_KEY"; cat {certificate}; '
            f"touch /x {certificate} 2>&1; ls -d {contained.store} {ROOT}; ls /sys/class/net",
        ],
        env=contained.env,
        capture_output=True,
        text=True,
    ).stdout
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert "a-secret-value" in shown
    assert "a certificate" in shown
    assert shown.count("Read-only file system") == 2
    assert str(contained.store) in shown
    assert shown.splitlines()[-1] == "lo", "a run that names no address has no network"
    assert not any(b"a-secret-value" in line for line in lines)


def test_a_store_in_a_bucket_is_reached_from_containers(
    contained: Vila, recipe: Path, s3_environment: dict[str, str], s3_store: Store
):
    contained.env.update(s3_environment, VILA_STORE=s3_store.uri)
    run(contained, recipe)
    assert set(statuses(show(contained)).values()) == {"succeeded"}
    assert not list(contained.store.glob("*")), "nothing is kept on this machine but a cache"
    assert "counting to 4" in contained("logs", "last", "source")


def test_an_image_with_other_code_is_refused(contained: Vila, recipe: Path, tmp_path: Path):
    toys = tmp_path / "toys"
    shutil.copytree(TOYS, toys)
    changed = toys / "stages" / "toy_grow.py"
    changed.write_text(changed.read_text() + "\n# of another day\n")
    contained.env["VILA_ENGINE_ARGS"] += f" --mount=type=bind,src={toys},dst={toys},readonly"
    contained.env["VILA_ENGINE_ARGS"] += f" --env=PYTHONPATH={toys}:{ROOT}"
    printed = run(contained, recipe, code=2)
    assert f"image {IMAGE} holds other code than this for toy_grow:" in printed
    assert "toy_grow.py" in printed
    assert "make images" in printed
    assert not list(contained.store.glob("runs/*")), "nothing was begun"


def test_what_is_not_there_is_told(contained: Vila, recipe: Path):
    vila = contained
    vila.env["VILA_IMAGE_REGISTRY"] = "registry.example/team/"
    printed = vila("run", recipe, "--runner", "container", code=2)
    assert "there is no image registry.example/team/vila-platform/ops:latest" in printed
    assert "make images" in printed
    assert "ROLE=REF" in vila("run", recipe, "--runner", "container", "--image", "x=y", code=2)
    vila.env["VILA_ENGINE"] = "no-such-engine"
    printed = vila("run", recipe, "--runner", "container", code=2)
    assert "VILA_ENGINE=no-such-engine: there is no such command" in printed
    vila.env.update(VILA_ENGINE="podman", VILA_ENGINE_ARGS="--no-such-option")
    assert "podman does not work on this machine" in run(vila, recipe, code=2)
    if shutil.which("docker"):
        vila.env.update(VILA_ENGINE="docker", DOCKER_HOST="unix:///no/such/socket")
        printed = run(vila, recipe, code=2)
        assert "docker does not work on this machine" in printed
        assert "VILA_ENGINE=podman" in printed


def test_what_came_from_a_cache_is_no_proof_of_parity(vila: Vila, recipe: Path, tmp_path: Path):
    vila("run", recipe, "--name", "one")
    vila("run", recipe, "--name", "two")
    assert "computed by both" in vila("verify", "parity", "two", "--against", "one", code=2)
    assert "compared with itself" in vila("verify", "parity", "one", "--against", "one", code=2)
    other = tmp_path / "other"
    vila("run", recipe, "--set", "grow.steps=4", "--store", other)
    printed = vila("verify", "parity", "one", "--against", "last", "--against-store", other, code=1)
    assert "DIFFERENT: 2 of 4 artifacts" in printed
    assert "set differently: grow.steps (3 and 4)" in printed
    assert "grow/model: " in printed
    assert ": weights.txt" in printed
    vila("run", recipe, "--set", "source.fail=crash", "--name", "bad", code=1)
    assert "only runs that succeeded" in vila("verify", "parity", "bad", "--against", "one", code=2)
