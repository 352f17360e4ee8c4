"""Questions and images of evaluated samples: whose they are, what is refused, what is kept."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient
from told import Told

from tests.web.made_runs import begin_task, write_run
from vila_core.errors import Damaged, NotFound, UserError
from vila_core.images import BadImage
from vila_core.store import Store, open_store, publish, read_file
from vila_ops.kept import Kept
from vila_ops.samples import LONGEST_SIDE, Samples, Shown
from vila_ops.web.app import create_app

NAMES = ("task.json", "items.jsonl")
LOCAL = "http://127.0.0.1:8080"


def records(told: Told) -> list[dict[str, Any]]:
    text = read_file(told.store, told.story.first.results, "records.jsonl").decode()
    return [json.loads(line) for line in text.splitlines()]


def make_set(root: Path, *items: dict[str, Any], task: str = "toy") -> Path:
    folder = root / "data" / "eval" / task
    (folder / "images").mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps({"task": task, "stop": ";"}))
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return root / "data"


def item(key: str = "toy/1", *parts: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"key": key, "type": "t", "chance": 0.5, "answer": "red", "parts": list(parts), **more}


def picture(path: Path, size: tuple[int, int] = (20, 10), kind: str = "PNG") -> None:
    Image.new("RGB", size, "red").save(path, kind)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def test_every_record_has_the_question_that_was_asked(told: Told) -> None:
    samples = Samples(told.store)
    for row in records(told):
        found = samples.of_record(told.story.first.run_id, "evaluate", row)
        assert found.as_asked is True
        assert (found.key, found.reference) == (row["key"], row["reference"])
        assert len(found.demos) == row["shots"]
        assert all(isinstance(part, Shown | str) for part in found.question)


def test_another_prompt_is_told_from_the_one_that_was_asked(told: Told) -> None:
    row = {**records(told)[0], "prompt_digest": "0" * 64}
    samples = Samples(told.store)
    assert samples.of_record(told.story.first.run_id, "evaluate", row).as_asked is False
    row["prompt_digest"] = ""
    assert samples.of_record(told.story.first.run_id, "evaluate", row).as_asked is None


def test_an_image_is_encoded_anew_and_bounded(tmp_path: Path, store: Store) -> None:
    data = make_set(tmp_path, item("toy/1", {"image": "images/a.jpg"}, {"text": " what?"}))
    picture(data / "eval" / "toy" / "images" / "a.jpg", (4000, 1000), "JPEG")
    raw = (data / "eval" / "toy" / "images" / "a.jpg").read_bytes()
    (data / "eval" / "toy" / "images" / "a.jpg").write_bytes(raw + b"<script>alert(1)</script>")
    ref = publish(store, data)
    samples = Samples(store)
    found = samples.sample(ref.sha256, "toy", "toy/1")
    assert found.text == "what?"
    made = samples.image(ref.sha256, found.images[0].path)
    with Image.open(io.BytesIO(made.data)) as image:
        assert (image.size, image.format) == ((LONGEST_SIDE, 128), "JPEG")
    assert made.media_type == "image/jpeg"
    assert b"script" not in made.data
    assert samples.image(ref.sha256, found.images[0].path) is made


def test_questions_are_read_from_a_bucket(told: Told, s3_store: Store) -> None:
    local = told.store.local_path(f"artifacts/{told.story.first.data.sha256}")
    assert local is not None
    keys = [
        "manifest.json",
        *(f"eval/miniature_vqa/{name}" for name in ("task.json", "items.jsonl")),
    ]
    for key in keys:
        s3_store.upload(f"artifacts/{told.story.first.data.sha256}/{key}", local / key)
    row = next(row for row in records(told) if row["task"] == "miniature_vqa")
    samples = Samples(s3_store)
    sha256 = told.story.first.data.sha256
    found = samples.sample(sha256, "miniature_vqa", row["key"], digest=row["prompt_digest"])
    assert found.as_asked is True
    path = found.images[0].path
    with pytest.raises(NotFound):
        samples.image(sha256, path)
    s3_store.upload(f"artifacts/{sha256}/eval/{path}", local / "eval" / path)
    assert samples.image(sha256, path).media_type == "image/png"


def test_deleted_data_are_told(told: Told, store: Store) -> None:
    with pytest.raises(NotFound, match="not in the store any more"):
        Samples(store).sample(told.story.first.data.sha256, "miniature_vqa", "x")


def test_questions_elsewhere_are_told_with_their_place(store: Store) -> None:
    write_run(store, "toy-1129-100000-aaaa", tasks=[["pope", "benchmark"]])
    writer = begin_task(store, "toy-1129-100000-aaaa", "pope", "benchmark")
    writer.finish({"status": "succeeded", "outputs": {}, "metrics": {}})
    row = {"task": "pope", "key": "1", "shots": 0}
    with pytest.raises(UserError, match="questions of pope lie outside of the store"):
        Samples(store).of_record("toy-1129-100000-aaaa", "pope", row)
    with pytest.raises(NotFound):
        Samples(store).of_record("toy-1129-100000-aaaa", "another", row)


def test_what_does_not_match_its_digest_is_not_shown(tmp_path: Path, store: Store) -> None:
    data = make_set(tmp_path, item("toy/1", {"image": "images/a.png"}))
    picture(data / "eval" / "toy" / "images" / "a.png")
    ref = publish(store, data)
    path = store.local_path(f"artifacts/{ref.sha256}/eval/toy/images/a.png")
    assert path is not None
    path.chmod(0o644)
    picture(path, (30, 30))
    with pytest.raises(Damaged, match="does not match its digest"):
        Samples(store).image(ref.sha256, "toy/images/a.png")
    store.write(f"artifacts/{'a' * 64}/manifest.json", b'{"files": []}')
    with pytest.raises(Damaged, match="manifest does not match"):
        Samples(store).image("a" * 64, "toy/images/a.png")


def test_an_image_that_leads_outside_is_none(tmp_path: Path, store: Store) -> None:
    data = make_set(tmp_path, item("toy/1", {"image": "../../../secret.png"}, {"text": "?"}))
    picture(data / "secret.png")
    ref = publish(store, data)
    samples = Samples(store)
    found = samples.sample(ref.sha256, "toy", "toy/1", digest="0" * 64)
    assert found.as_asked is False
    for path in (found.images[0].path, "../secret.png", "toy/../../secret.png", "", "\0"):
        with pytest.raises(NotFound):
            samples.image(ref.sha256, path)


@pytest.mark.parametrize("content", [b"", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n0000"])
def test_a_file_that_is_no_image_is_refused(content: bytes, tmp_path: Path, store: Store) -> None:
    data = make_set(tmp_path, item("toy/1", {"image": "images/a.png"}))
    (data / "eval" / "toy" / "images" / "a.png").write_bytes(content)
    ref = publish(store, data)
    with pytest.raises(BadImage):
        Samples(store).image(ref.sha256, "toy/images/a.png")


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, store: Store) -> None:
    data = make_set(tmp_path, item("toy/1", {"image": "images/a.png"}))
    Image.new("1", (16_000, 16_000)).save(data / "eval" / "toy" / "images" / "a.png")
    ref = publish(store, data)
    with pytest.raises(BadImage, match="too large"):
        Samples(store).image(ref.sha256, "toy/images/a.png")


@pytest.mark.parametrize("line", ["{", "[]", '{"key": 1}', '{"key": "toy/1"}'])
def test_broken_questions_are_damage(line: str, tmp_path: Path, store: Store) -> None:
    data = make_set(tmp_path)
    (data / "eval" / "toy" / "items.jsonl").write_text(line)
    ref = publish(store, data)
    with pytest.raises((Damaged, NotFound)):
        Samples(store).sample(ref.sha256, "toy", "toy/1")


def test_the_route_sends_images_and_refuses_the_rest(told: Told) -> None:
    client = TestClient(create_app(told.store), base_url=LOCAL)
    sha256 = told.story.first.data.sha256
    row = next(row for row in records(told) if row["task"] == "miniature_vqa")
    shown = Samples(told.store).of_record(told.story.first.run_id, "evaluate", row).images[0]
    answer = client.get(f"/samples/{shown.artifact}/{shown.path}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get(f"/samples/{sha256}/miniature_vqa/items.jsonl").status_code == 422
    assert client.get(f"/samples/{sha256}/miniature_vqa/none.png").status_code == 404
    assert client.get(f"/samples/{'b' * 64}/miniature_vqa/none.png").status_code == 404
    assert client.get("/samples/..%2F..%2Fruns/x.png").status_code == 404


def test_what_is_kept_is_bounded() -> None:
    kept: Kept[str] = Kept(100)
    made: list[str] = []

    def ask(name: str, size: int) -> str:
        def make() -> tuple[str, int]:
            made.append(name)
            return name, size

        return kept.get(name, make)

    for name in ("a", "b", "a", "c", "a", "b"):  # b is the one that c pushes out
        ask(name, 40)
    assert made == ["a", "b", "c", "b"]
    assert ask("huge", 101) == "huge"
    assert kept.bytes <= 100
    with pytest.raises(ZeroDivisionError):
        kept.get("bad", lambda: (str(1 // 0), 1))
