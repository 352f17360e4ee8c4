"""Versions of data in a real git repository, with DVC and a real remote: a folder, S3, Ceph."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.runtime.cache import task_key
from components.runtime.record import RunRecord
from tests.ceph_server import REAL
from tests.data.make import captions, texts, write_corpus
from vila_core.data.corpus import Corpus
from vila_core.data.sample import Sample
from vila_core.data.versions import git, resolve
from vila_core.errors import Damaged, NotFound, UserError, VilaError
from vila_core.stages import pretrain
from vila_core.stages._training import open_corpora
from vila_core.store import Store, open_store
from vila_ops.cli.main import app
from vila_ops.data import versions
from vila_ops.recipes import load_recipe
from vila_ops.runs import create_run, load_view

pytest.importorskip("dvc", reason="the extra 'versioning' is not installed")
MIXTURE = {"coyo": 1.0, "flan": 1.0}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with prepared corpora; the current directory. Nothing of the user's."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "tester")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "tester@example.com")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site"))
    monkeypatch.setenv("VILA_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "repository"
    write_corpus(root / "data/corpora", "coyo", captions("coyo", 30), shard_samples=10)
    write_corpus(root / "data/corpora", "flan", texts("flan", 12))
    monkeypatch.chdir(root)
    return root


@pytest.fixture(params=["file", "s3", REAL])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return str(tmp_path / "remote")
    store: Store = request.getfixturevalue(f"{request.param}_store")
    return store.uri


def vila(*words: str) -> str:
    done = CliRunner().invoke(app, ["data", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def samples(location: str, name: str = "coyo") -> list[Sample]:
    corpus = open_corpora(location, MIXTURE)[name]
    return [corpus.read(number) for number in range(len(corpus))]


def store_of(remote: str) -> Store:
    return open_store(remote if "://" in remote else Path(remote).as_uri())


def test_two_versions_are_kept_and_streamed_without_a_checkout(
    repository: Path, remote: str
) -> None:
    before = samples("data")
    told = vila("add", "data", "--init", "--remote", remote, "-m", "first")
    assert "data: " in told
    assert ".dir, 8 files" in told
    assert "commit " in told
    assert "9 files sent" in vila("push")
    assert "has everything" in vila("push")
    assert vila("status").startswith("1 tracked: nothing changed")

    shutil.rmtree("data/corpora/flan")
    write_corpus(Path("data/corpora"), "flan", texts("flan", 15))
    with pytest.raises(UserError, match="data was changed since it was added"):
        resolve("dvc:data")
    state = json.loads(vila("status", "--json"))
    assert "data/corpora/flan/manifest.json" in state["changed"]
    assert not state["uncommitted"]
    assert "git add data.dvc" in vila("add", "data")
    state = json.loads(vila("status", "--json"))
    assert state["uncommitted"] == ["data"]
    assert state["unpushed"]
    assert resolve("dvc:data").dirty
    git(repository, "commit", "-qam", "second")
    assert "4 files sent" in vila("push")  # one shard, its index and manifest, the list
    changed = json.loads(vila("diff", "data", "HEAD~1", "HEAD", "--json"))["changed"]
    assert changed == [
        f"data/corpora/flan/{n}" for n in ("flan-00000.tar", "index.npz", "manifest.json")
    ]
    newest, first = json.loads(vila("log", "data", "--json"))
    assert (newest["subject"], first["subject"]) == ("second", "first")
    assert newest["md5"] != first["md5"]

    # Nothing is taken from the working tree or from DVC's own cache.
    shutil.rmtree("data")
    shutil.rmtree(".dvc/cache")
    assert samples("dvc:data@HEAD~1") == before
    assert len(samples("dvc:data@HEAD~1", "flan")) == 12
    assert len(samples("dvc:data/corpora@HEAD", "flan")) == 15
    version = resolve("dvc:data@HEAD~1")
    assert version.as_json() == {
        "path": "data",
        "md5": first["md5"],
        "size": first["size"],
        "nfiles": 8,
        "git_rev": git(repository, "rev-parse", "HEAD~1"),
        "dirty": False,
        "remote": store_of(remote).uri,
        "below": "",
    }
    assert not Path("data").exists()
    assert "everything" not in vila("pull", "data")
    assert len(Corpus.open(Path("data/corpora/flan"))) == 15

    config = git(repository, "show", "HEAD:.dvc/config")
    assert "verify = True" in config
    assert "endpoint" not in config
    secret = os.environ.get("AWS_SECRET_ACCESS_KEY", "none is set")
    settings = [*Path(".dvc").glob("config*"), Path("data.dvc")]
    assert not any(secret in path.read_text() for path in settings)


def test_what_was_changed_behind_dvcs_back_is_one_error(repository: Path, remote: str) -> None:
    vila("add", "data", "--init", "--remote", remote, "-m", "first")
    vila("push")
    store, version = store_of(remote), resolve("dvc:data")
    listed = "files/md5/" + version.md5[:2] + "/" + version.md5[2:]
    names = {entry["relpath"]: entry["md5"] for entry in json.loads(store.read(listed))}

    def key(name: str) -> str:
        return f"files/md5/{names[name][:2]}/{names[name][2:]}"

    def put(name: str, data: bytes) -> None:
        local = store.local_path(name)
        if local is not None:
            local.chmod(0o644)  # DVC's objects are read-only
        store.write(name, data)

    shard = "corpora/coyo/coyo-00001.tar"
    good = store.read(key(shard))
    put(key(shard), good[:-1] + b"x")
    named = (
        rf"{key(shard)} \({shard}\): is not what the corpus's manifest says: its sha256.*data push"
    )
    with pytest.raises(Damaged, match=f"(?s){named}"):
        samples("dvc:data")
    shutil.rmtree("data")
    shutil.rmtree(".dvc/cache")
    with pytest.raises(VilaError, match="dvc: "):  # without `verify` DVC would take it
        versions.pull([Path("data")])
    store.delete(key(shard))
    with pytest.raises(
        NotFound, match=rf"(?s)\({shard}\): there is no such object.*vila data push"
    ):
        samples("dvc:data@HEAD")
    put(key("corpora/coyo/manifest.json"), b"{}")
    with pytest.raises(Damaged, match=r"coyo/manifest\.json\): was changed behind DVC's back"):
        samples("dvc:data@HEAD")
    put(listed, store.read(listed) + b" ")
    with pytest.raises(Damaged, match=r"the list of files\): was changed behind DVC's back"):
        samples("dvc:data@HEAD")
    store.delete(listed)
    with pytest.raises(NotFound, match=r"is not in the DVC remote.\n  fix: `vila data push`"):
        samples("dvc:data@HEAD")


def test_a_run_records_the_version_and_its_steps_need_no_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = tmp_path / "remote"
    vila("add", "data", "--init", "--remote", str(remote), "-m", "first")
    store = open_store(tmp_path / "store")
    recipe = load_recipe("quickstart", ["pretrain.data=dvc:data@HEAD"])
    with pytest.raises(UserError, match=r"pretrain\.data: .*not in the DVC remote"):
        create_run(store, recipe, runner="inline", name=None, argv=[])
    vila("push")
    run_id = create_run(store, recipe, runner="inline", name=None, argv=[])
    version = resolve("dvc:data@HEAD")
    recorded = RunRecord.load(store, run_id).run
    assert recorded["dvc"] == {"pretrain.data": version.as_json()}
    assert load_view(store, run_id).as_json()["dvc"] == recorded["dvc"]
    pinned = recorded["config"]["pretrain"]["data"]
    assert pinned == f"dvc+{remote.as_uri()}#{version.md5}"
    assert recorded["config"]["align"]["data"] is None
    shutil.rmtree(repository / ".git")
    monkeypatch.chdir(tmp_path)
    assert len(samples(pinned)) == 30

    def key(data: str) -> dict[str, Any]:
        config = pretrain.Config(data=data)
        return dict(task_key("pretrain", "vila_core.stages.pretrain", config, {}).parts)

    assert key(pinned)["config"]["data"] == version.md5
    assert "outside" not in key(pinned)
    # The same content in another remote has the same key.
    assert key(f"dvc+s3://elsewhere/dvc#{version.md5}") == key(pinned)


def test_mistakes_are_told_with_a_fix(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"not in a git repository with DVC.\n  fix: vila data add"):
        versions.add(Path("data"), init=False, remote=None, message=None)
    with pytest.raises(UserError, match="not in a git repository"):
        resolve("dvc:data")
    with pytest.raises(UserError, match="none: there is no such file or folder"):
        versions.add(Path("none"), init=True, remote=None, message=None)
    versions.add(Path("data"), init=True, remote=None, message="first")
    with pytest.raises(UserError, match="has no DVC remote"):
        versions.push([], None)
    with pytest.raises(UserError, match="has no DVC remote to read from"):
        resolve("dvc:data")
    with pytest.raises(UserError, match=r"has no revision 'v9'; some it has: \w+"):
        resolve("dvc:data@v9")
    with pytest.raises(UserError, match="DVC doesn't track other there; fix: vila data add other"):
        resolve("dvc:other@HEAD")
    with pytest.raises(UserError, match="has no revision 'v9'"):
        versions.diff(Path("data"), "v9", None)
    with pytest.raises(
        UserError, match=r"other: no version is committed; fix: vila data add other"
    ):
        versions.log(Path("other"))
    for text in ("dvc:", "dvc:data@"):
        with pytest.raises(UserError, match=r"is not dvc:PATH or dvc:PATH@REV"):
            resolve(text)
    with pytest.raises(UserError, match="is not the address of a version"):
        open_corpora("dvc+s3://bucket/x#123", MIXTURE)
    monkeypatch.delenv("VILA_S3_ENDPOINT", raising=False)
    Path(".dvc/config").write_text(
        "[core]\n    remote = far\n"
        "['remote \"far\"']\n    url = s3://bucket/dvc\n    endpointurl = http://minio:9000\n"
    )
    with pytest.raises(
        UserError, match=r"'far' is at http://minio:9000, VILA_S3_ENDPOINT says AWS"
    ):
        resolve("dvc:data@HEAD")
    Path("one.txt").write_text("1")
    versions.add(Path("one.txt"), init=False, remote=str(tmp_path / "remote"), message=None)
    with pytest.raises(UserError, match=r"dvc:one\.txt: is a file"):
        resolve("dvc:one.txt")


def test_a_missing_extra_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "dvc" else found(name)
    )
    with pytest.raises(UserError, match=r"pip install 'vila-platform\[versioning\]'"):
        versions.add(Path("data"), init=True, remote=None, message=None)
