"""M3IT, ShareGPT4V, and what LLaVA's published files do beside the rule."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.make import noise, picture, write_images, write_lines
from tests.data.test_data_bad_input import reasons
from tests.data.test_data_readers import read, samples, set_aside
from vila_core.data.readers import READERS
from vila_core.data.sample import Image, Sample, Text
from vila_core.errors import UserError

RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255))


def encoded(*images: bytes) -> list[str]:
    return [base64.b64encode(image).decode() for image in images]


def instruction(images: list[Any] | str, **more: Any) -> dict[str, Any]:
    return {
        "instruction": "Answer the question. ",
        "inputs": "What colour? <image>",
        "image_base64_str": images,
        "outputs": " red ",
        **more,
    }


def test_m3it_puts_images_before_the_prompt_as_in_the_released_code(tmp_path: Path) -> None:
    records = [
        instruction(encoded(RED, BLUE), meta_data={"image_id": [3]}, license="CC-BY-SA-4.0"),
        instruction([], inputs=None),
        {"question": "q", "answer": "a", "image": encoded(RED), "id": 1},
        instruction(f"data:image/png;base64,{encoded(RED)[0][:8]}\n{encoded(RED)[0][8:]}"),
    ]
    lines = write_lines(tmp_path / "train.jsonl", records)
    two, none, vila, url = samples(read("m3it", lines))
    assert two.parts == (
        Image(0, "user"),
        Text("\n", "user"),
        Image(1, "user"),
        Text("\nAnswer the question. What colour?", "user"),
        Text("red", "assistant"),
    )
    assert two.images == (RED, BLUE)
    assert two.meta["meta_data"] == {"image_id": [3]}
    assert two.meta["licence"] == "CC-BY-SA-4.0"
    assert (none.kind, none.parts[0]) == ("text-only", Text("Answer the question.", "user"))
    assert (vila.kind, vila.parts[1]) == ("conversation", Text("\nq", "user"))
    assert url.images == (RED,)
    (glued,) = samples(read("m3it", lines, separator="\n"))[:1]
    assert glued.parts[3] == Text("\nAnswer the question. \nWhat colour?", "user")
    table = pa.Table.from_pylist(records[:1])
    pq.write_table(table, tmp_path / "train.parquet")
    assert samples(read("m3it", tmp_path / "train.parquet"))[0].digest == two.digest
    pq.write_table(table.drop_columns(["outputs"]), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="lacks the column 'outputs'"):
        read("m3it", tmp_path / "train.parquet")


@pytest.mark.parametrize(
    ("more", "reason", "detail"),
    [
        ({"image_base64_str": ["?" * 8]}, "broken base64", "image 1: "),
        ({"image_base64_str": ["ä"]}, "broken base64", "image 1: "),
        ({"image_base64_str": [encoded(RED)[0], 7]}, "broken record", "image 2 is int"),
        ({"image_base64_str": encoded(b"<html>")}, "not an image", "image 1: 6 bytes"),
        ({"image_base64_str": encoded(noise()[:500])}, "truncated", ""),
        ({"instruction": " ", "inputs": ""}, "empty text", "'instruction' and 'inputs'"),
        ({"instruction": None}, "broken record", "'instruction' is null"),
        ({"outputs": ""}, "empty text", "'outputs'"),
    ],
)
def test_m3it_reasons(tmp_path: Path, more: dict[str, Any], reason: str, detail: str) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [instruction(encoded(RED), **more)])
    (row,) = set_aside(read("m3it", lines))
    assert (row.reason, row.group) == (reason, "broken")
    assert detail in row.detail


def test_m3it_leaves_out_what_the_released_loader_cannot_take(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [instruction(encoded(*[RED] * 9))])
    (row,) = set_aside(read("m3it", lines))
    assert (row.reason, row.detail, row.group) == ("max_images", "9 images", "rule")
    assert len(samples(read("m3it", lines, max_images=9))[0].images) == 9


def test_m3it_halves_videos_when_asked(tmp_path: Path) -> None:
    frames = [picture((n, 0, 0)) for n in range(8)]
    lines = write_lines(tmp_path / "a.jsonl", [instruction(encoded(*frames))])
    assert samples(read("m3it", lines))[0].images == tuple(frames)
    assert samples(read("m3it", lines, halve_videos=True))[0].images == tuple(frames[::2])


def test_m3it_makes_turns_of_a_visual_dialogue(tmp_path: Path) -> None:
    dialogue = "Image Descriptions: a cat.\nQuestion: is it red?\nAnswer: yes\nQuestion: and big?\n"
    record = {"instruction": "Go on.", "inputs": dialogue, "outputs": "no"}
    broken = {**record, "inputs": dialogue.replace("\nAnswer: yes", "")}
    nothing = {**record, "inputs": "Image Descriptions: a cat."}
    records = [{**one, "image_base64_str": encoded(RED)} for one in (record, broken, nothing)]
    lines = write_lines(tmp_path / "a.jsonl", records)
    rows = read("m3it", lines)
    assert isinstance(rows[0], Sample)
    assert rows[0].parts == (
        Image(0, "user"),
        Text("\nis it red?", "user"),
        Text("yes", "assistant"),
        Text("and big?", "user"),
        Text("no", "assistant"),
    )
    assert [reason for reason, _ in reasons(rows)] == ["broken record"] * 2
    assert len(samples(read("m3it", lines, split_dialogs=False))) == 3


def turns(answer: str = "a cat", prompt: str = "<image>\nWhat is it?") -> list[dict[str, str]]:
    return [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]


def test_sharegpt4v_without_what_vila_removed(tmp_path: Path) -> None:
    write_images(tmp_path / "images", {"coco/1.png": RED, "sam/images/sa_2.png": BLUE})
    again = "the cat is on the mat and it sits there, " * 4
    records = [
        {"id": "000000000001", "image": "coco/1.png", "conversations": turns()},
        {"id": "sa_2", "image": "sam/images/sa_2.png", "conversations": turns()},
        {"id": "x", "image": "sam/images/sa_2.png", "conversations": turns()},
        {"id": 7, "image": "coco/1.png", "conversations": turns(again)},
        {"id": 8, "image": "coco/1.png", "conversations": turns("same " * 50)},
        {"id": 9, "image": "coco/1.png", "conversations": turns("a", f"<image> {again * 2}")},
    ]
    path = tmp_path / "sharegpt4v_instruct_gpt4-vision_cap100k.json"
    path.write_text(json.dumps(records))
    rows = read("sharegpt4v", path)
    assert [(row.reason, row.detail, row.group) for row in set_aside(rows)] == [
        ("keep_sam", "sa_2", "rule"),
        ("keep_sam", "sam/images/sa_2.png", "rule"),
        ("max_repeats", "4 times: the cat is on the mat and it", "rule"),
        ("max_repeats", "43 times: same same same same same same same same", "rule"),
    ]
    assert [row.meta["id"] for row in rows if hasattr(row, "meta")] == ["000000000001", 9]  # type: ignore[union-attr]
    assert len(samples(read("sharegpt4v", path, keep_sam=True, max_repeats=None))) == 6
    kept = read("sharegpt4v", path, max_repeats=4)
    assert [reason for reason, _ in reasons(kept)] == ["keep_sam", "keep_sam", "max_repeats"]
    assert {row.meta["licence"] for row in rows if hasattr(row, "meta")} == {"CC-BY-NC-4.0"}  # type: ignore[union-attr]


def test_llava_files_as_they_are_published(tmp_path: Path) -> None:
    """595K and 558K: one caption each; mix665k: ids of two types, text alone, empty fields."""
    write_images(tmp_path / "images", {"GCC_train_1.png": RED, "00453/1.png": BLUE})
    records: list[dict[str, Any]] = [
        {
            "id": "GCC_train_1",
            "image": "GCC_train_1.png",
            "conversations": turns(prompt="Hi\n<image>"),
        },
        {"id": "004539375", "image": "00453/1.png", "conversations": turns()},
        {"id": 33, "model": "", "conversations": turns(prompt="no picture")},
        {"id": "33", "model": "gpt-4", "image": None, "conversations": turns(prompt="none")},
        {"id": "33", "image": "", "conversations": turns(prompt="none")},
        {
            "id": "33",
            "image": ["00453/1.png"],
            "conversations": [turns()[1], *turns(), *turns(prompt="and?")],
        },
        {"conversations": turns(prompt="no id")},
    ]
    path = tmp_path / "llava_v1_5_mix665k.json"
    path.write_text(json.dumps(records, indent=2))
    rows = samples(read("llava", path))
    assert len(rows) == 7
    assert [row.meta["id"] for row in rows] == [
        "GCC_train_1",
        "004539375",
        33,
        "33",
        "33",
        "33",
        None,
    ]
    assert [row.kind for row in rows[:4]] == ["conversation"] * 2 + ["text-only"] * 2
    assert rows[0].parts[:2] == (Text("Hi\n", "user"), Image(0, "user"))
    assert rows[3].meta["model"] == "gpt-4"
    assert "model" not in rows[2].meta
    assert [getattr(part, "text", "") for part in rows[5].parts] == [
        "", "\nWhat is it?", "a cat", "and?", "a cat",
    ]  # fmt: skip


def test_llava_takes_another_extension_when_asked(tmp_path: Path) -> None:
    write_images(tmp_path / "images", {"ocr_vqa/1.gif": RED, "2.jpg": b"<html>", "2.png": BLUE})
    names = ("ocr_vqa/1.jpg", "2.jpg", "3.jpg", "../1.jpg", "ocr_vqa/1")
    records = [{"id": n, "image": name, "conversations": turns()} for n, name in enumerate(names)]
    lines = write_lines(tmp_path / "a.jsonl", records)
    assert len(reasons(read("llava", lines))) == 5
    rows = read("llava", lines, any_extension=True)
    assert [row.meta["id"] for row in rows if isinstance(row, Sample)] == [0, 4]
    # One that is there is never passed over for another.
    expected = ["not an image", "missing image", "broken record"]
    assert [reason for reason, _ in reasons(rows)] == expected


def test_mmc4_finds_images_where_its_downloader_leaves_them(tmp_path: Path) -> None:
    """Beside the files, one folder per shard; named with `.jsonl` when it read the zip."""
    for shard, color in ((3, RED), (4, BLUE)):
        name = f"docs_no_face_shard_{shard}_v2.jsonl"
        info = {"image_name": "a.png", "matched_text_index": 0, "matched_sim": 0.3}
        line = json.dumps({"text_list": ["x"], "image_info": [info], "url": "u"})
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(name, line)
        folder = name if shard == 3 else name.removesuffix(".jsonl")
        write_images(tmp_path / f"{folder}_images", {"a.png": color})
    three, four = samples(read("mmc4", tmp_path))
    assert (three.key, four.key) == ("mmc4/00003/000000", "mmc4/00004/000000")
    assert (three.images, four.images) == ((RED,), (BLUE,))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "docs_no_face_shard_4_v2_images").rename(
        elsewhere / "docs_no_face_shard_4_v2_images"
    )
    reader = READERS["mmc4"]
    last = list(reader.read(tmp_path, corpus="mmc4", images=elsewhere))[1]
    assert isinstance(last, Sample)
    assert last.images == (BLUE,)
    assert reasons(read("mmc4", tmp_path)) == [("missing image", "a.png")]


def test_every_format_has_a_template_and_documented_options() -> None:
    for name, reader in READERS.items():
        assert reader.template or name == "prepared"
        for field in reader.options.model_fields.values():
            assert field.description


def test_the_id_of_a_downloaded_pair_is_its_own(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name, data in (
            ("000000007.jpg", noise()),
            ("000000007.txt", b"a cat"),
            ("000000007.json", json.dumps({"id": 4711, "url": "u"}).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (row,) = READERS["webdataset"].read(tmp_path, corpus="coyo", options=None)
    assert isinstance(row, Sample)
    assert row.meta["id"] == 4711
