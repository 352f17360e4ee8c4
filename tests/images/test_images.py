"""What the built images are: who runs in them, what they hold and say, and what they don't hold."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
import yaml

from tests.images.conftest import ROLES, ROOT, Engine, image
from vila_core import __version__

pytestmark = pytest.mark.slow

LISTED = """
import importlib.metadata as m, json, re
print(json.dumps({re.sub('[-_.]+', '-', d.metadata['Name']).lower(): d.version
                  for d in m.distributions()}))
"""
# What a role imports, beyond its stages (those run in test_steps_in_images.py).
IMPORTS = {
    "data": "transformers, pyarrow.parquet, py3langid, minio",
    "train": "torch, deepspeed, peft, wandb, kubernetes.client, pyarrow.parquet",
    "eval": "torch, lm_eval, datasets, sacrebleu, pyarrow.parquet",
    "ops": "kfp.compiler, kfp.kubernetes, kubernetes.client, fastapi, uvicorn, jinja2, minio",
}
MEGABYTES = {"data": 450, "train": 1600}


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def lock() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {name.lower().replace("_", "-").replace(".", "-"): value for name, value in pairs}


def test_it_runs_without_rights_and_says_what_it_is(engine: Engine, role: str) -> None:
    facts = engine.inspect(role)["Config"]
    labels = facts["Labels"]
    assert facts["User"] == "10001:10001"
    assert labels["dev.vila.role"] == role
    assert labels["org.opencontainers.image.version"] == __version__
    digest = hashlib.sha256((ROOT / "constraints.txt").read_bytes()).hexdigest()
    assert labels["dev.vila.lock.sha256"] == digest, "the image is of another lock: make images"
    revision = labels["org.opencontainers.image.revision"].removesuffix("-dirty")
    known = subprocess.run(["git", "cat-file", "-e", revision], cwd=ROOT, check=False)
    assert known.returncode == 0
    done = engine.run(
        role, "sh", "-c", "id -u; id -g; touch /x /opt/vila/x /opt/venv/x; vila --version"
    )
    assert done.stdout.split()[:2] == ["10001", "10001"]
    assert done.stderr.count("Read-only file system") == 3
    assert __version__ in done.stdout


def test_everything_in_it_is_locked_and_in_its_bill_of_materials(engine: Engine, role: str) -> None:
    listed = engine.run(role, "sh", "-c", f'cat /opt/vila/sbom.cdx.json; python3 -c "{LISTED}"')
    bill, end = json.JSONDecoder().raw_decode(listed.stdout)
    installed = json.loads(listed.stdout[end:])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    purls = {item["purl"] for item in bill["components"]}
    assert len(purls) == len(bill["components"])
    assert {f"pkg:pypi/{name}@{version}" for name, version in installed.items()} == {
        purl.replace("%2B", "+") for purl in purls if purl.startswith("pkg:pypi/")
    }
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in purls)
    for name, version in installed.items():
        if name != "setuptools":  # what torch asks for; the lock leaves installers out
            assert version.partition("+")[0] == lock()[name], name
    beside = ROOT / "build" / "images" / f"{role}.cdx.json"
    assert not beside.exists() or json.loads(beside.read_text()) == bill


def test_it_imports_what_its_role_needs(engine: Engine, role: str) -> None:
    engine.run(role, "python3", "-W", "ignore", "-c", f"import {IMPORTS[role]}")


def test_no_secret_cache_or_installer_is_left(engine: Engine, role: str) -> None:
    script = (
        "ls -d /etc/pip.conf /run/secrets/* /wheels/* ~root/.cache /src /opt/venv/bin/pip* "
        "/opt/vila/tests /opt/vila/.git 2>/dev/null; "
        "find / -xdev -name pip -path '*/.cache/*' 2>/dev/null; "
        "python3 -c 'import pip' 2>/dev/null && echo pip; true"
    )
    assert engine.run(role, "sh", "-c", script).stdout == ""
    history = json.dumps(engine.inspect(role).get("History", []))
    assert "index-url" not in history


def test_the_commands_of_the_manifests_are_there(engine: Engine) -> None:
    found = []
    for path in sorted((ROOT / "k8s" / "base").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            spec = document["spec"] if document and "spec" in document else {}
            for container in spec.get("template", {}).get("spec", {}).get("containers", []):
                if container["image"] == image("ops") and container["command"][0] == "vila":
                    found.append([word for word in container["command"] if word.isalpha()])
    assert ["vila", "cluster", "bootstrap"] in found
    for command in found:
        assert "Usage: " in engine.run("ops", *command, "--help").stdout


def test_the_dashboard_answers_in_its_image(engine: Engine) -> None:
    """As its Deployment starts it, on a store that is still empty, and then stopped."""
    script = """
    vila dashboard --store /tmp/store & pid=$!
    python3 - <<'EOF'
import time, urllib.request
for _ in range(300):
    try:
        print(urllib.request.urlopen("http://127.0.0.1:8080/livez").status)
        break
    except OSError:
        time.sleep(0.2)
EOF
    kill -TERM $pid; wait $pid; echo ended $?
    """
    lines = engine.run("ops", "sh", "-c", script).stdout.splitlines()
    assert "200" in lines
    assert lines[-1] == "ended 0"


@pytest.mark.parametrize("role", MEGABYTES)
def test_its_size_is_what_the_documents_promise(engine: Engine, role: str) -> None:
    assert engine.inspect(role)["Size"] <= MEGABYTES[role] * 1e6


def test_the_data_image_holds_no_torch(engine: Engine) -> None:
    code = "import importlib.util as u; print([n for n in ('torch', 'scipy') if u.find_spec(n)])"
    assert engine.run("data", "python3", "-c", code).stdout.strip() == "[]"
