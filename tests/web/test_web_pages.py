"""The pages and what they do with runs of all kinds, foreign records and hostile text."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from dashboards import client_of, refresh
from made_runs import begin_task, write_end, write_run
from parsed import Page

from components.runtime.record import begin_driver
from vila_core.store import Store

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7919*7907}}"
STATIC = Path(__file__).parents[2] / "vila_ops/web/static"
OLD = "2026-01-01T00:00:00.000+00:00"


def test_an_empty_store_says_what_to_do(folder_store: Store) -> None:
    page = Page(client_of(folder_store).get("/").text)
    assert "vila run quickstart" in page.text


def test_the_list_filters_sorts_and_turns_pages(folder_store: Store) -> None:
    for number in range(120):
        run = f"run-1129-10{number:04d}-aaaa"
        recipe = "odd" if number % 2 else "even"
        write_run(
            folder_store,
            run,
            created_at=OLD.replace("00:00", f"{number // 60:02d}:{number % 60:02d}"),
            recipe=recipe,
        )
        write_end(folder_store, run, "failed" if number % 4 == 0 else "succeeded", attempts=False)
    client = client_of(folder_store)

    def shown(query: str) -> list[str]:
        links = Page(client.get(f"/{query}").text).links
        return [link[-9:-5] for link in links if link.startswith("/runs/")]

    assert shown("")[:2] == ["0119", "0118"]
    assert len(shown("")) == 50
    assert shown("?page=3")[-1] == "0000"
    assert shown("?page=999") == shown("?page=3")
    assert shown("?q=EVEN&status=failed")[0] == "0116"
    assert shown("?sort=run")[0] == "0000"
    by_status = shown("?sort=status&status=failed&status=succeeded&order=down")
    assert int(by_status[0]) % 4 == 0, "failed stands after succeeded"
    assert shown("?sort=recipe&order=down")[0] in ("0001", "0119")
    for nonsense in ("?page=-1", "?page=٣", "?page=1e9", "?sort=%00", "?order=x", "?status=<"):
        assert shown(nonsense) == shown(""), nonsense
    assert "No run fits" in client.get("/?q=nothing").text
    for link in Page(client.get("/?q=even&sort=time").text).links:
        if link.startswith(("/?", "?", "/runs/")):
            assert client.get(link).status_code == 200


def test_a_run_shows_tasks_error_loss_metrics_and_log(folder_store: Store) -> None:
    run = "toy-1129-101010-aaaa"
    write_run(folder_store, run)
    begin_driver(folder_store, run)
    rows = [{"step": step, "loss": 3.0 / step, "tokens_per_s": 900} for step in range(1, 40)]
    rows.insert(5, {"step": 41, "loss": float("nan")})
    writer = begin_task(folder_store, run, "sft", "sft", rows, log="first\nlast line\n")
    writer.progress({"done": 5, "total": 40, "unit": "step", "values": {"loss": 0.5}})
    client = client_of(folder_store)
    html = client.get(f"/runs/{run}").text
    page = Page(html)
    for text in ("running", "5 of 40 step", "last line", "3 → 0.076923", "39 rows"):
        assert text in page.text, text
    assert len(re.findall(r"[\d.]+,[\d.]+", re.search(r'points="([^"]+)"', html)[1])) == 39  # type: ignore[index]
    write_end(folder_store, run, "failed", error="out of memory: use a smaller pack")
    page = Page(client.get(f"/runs/{run}?task=prepare").text)
    assert "out of memory: use a smaller pack" in page.text
    assert f"vila resume {run}" in page.text
    assert "Log of prepare" in page.text
    assert "toy/accuracy@0" in page.text


def test_a_run_or_page_that_is_not_there(folder_store: Store) -> None:
    client = client_of(folder_store)
    for path in ("/runs/none", "/runs/..%2f..%2fetc", "/runs/%00", "/nothing", "/static/../app.py"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "Traceback" not in answer.text
        Page(answer.text)


def test_hostile_text_stays_text(folder_store: Store) -> None:
    run = "toy-1129-101010-aaaa"
    write_run(folder_store, run, recipe=EVIL, config={"x": EVIL}, tasks=[["sft", EVIL]])
    begin_driver(folder_store, run)
    begin_task(folder_store, run, "sft", EVIL, [{"step": 1, "loss": 1.0}], log=EVIL + "\x1b[31m\0")
    write_end(folder_store, run, "failed", error=EVIL)
    client = client_of(folder_store)
    for path in ("/", f"/runs/{run}", f"/?q={EVIL}", f"/runs/{run}?task={EVIL}", f"/runs/{EVIL}"):
        html = client.get(path).text
        Page(html)
        assert "62615533" not in html, "no template of theirs is run"
    assert EVIL in Page(client.get("/").text).text


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": 7},
        {"tasks": [["sft"]]},
        {"tasks": "sft"},
        {"created_at": 3},
        {"config": None, "config_digest": None},
        {"name": "\ud800"},
        {"recipe": None},
    ],
)
def test_a_foreign_record_breaks_nothing_else(
    folder_store: Store, change: dict[str, object]
) -> None:
    write_run(folder_store, "good-1129-101010-aaaa", created_at=OLD)
    record = json.loads(folder_store.read("runs/good-1129-101010-aaaa/run.json"))
    text = json.dumps({**record, "run_id": "odd", **change})
    folder_store.write("runs/odd/run.json", text.encode())
    folder_store.write("runs/half/run.json", b'{"run_id": "ha')
    client = client_of(folder_store)
    page = Page(client.get("/").text)
    assert "good-1129-101010-aaaa" in page.text
    assert "runs/half" in page.text
    assert client.get("/runs/odd").status_code in (200, 503)
    assert client.get("/runs/half").status_code == 503
    assert client.get("/metrics").status_code == 200


def test_a_run_on_a_cluster_links_to_it_and_shows_what_was_found(folder_store: Store) -> None:
    run = "toy-1129-101010-aaaa"
    write_run(folder_store, run, runner="cluster")
    write_end(folder_store, run, "failed", error="sft failed")
    client = client_of(folder_store)

    def shown(url: object, findings: object) -> str:
        about = {"cluster": "kind", "namespace": "team", "kfp": {"url": url}}
        folder_store.write(f"runs/{run}/cluster.json", json.dumps(about).encode())
        folder_store.write(f"runs/{run}/findings.json", json.dumps(findings).encode())
        answer = client.get(f"/runs/{run}")
        assert answer.status_code == 200
        return answer.text

    found = {"task": "sft", "kind": "oom", "message": f"OOMKilled {EVIL}", "fix": "more memory"}
    html = shown("https://kfp.example/#/runs/details/1", [found])
    assert 'href="https://kfp.example/#/runs/details/1" rel="noreferrer"' in html
    html = html.replace("https://kfp.example", "")
    assert f"OOMKilled {EVIL}" in Page(html).text
    assert "fix: more memory" in html
    for url in ("javascript:alert(1)", None, 7, {"a": 1}):
        Page(shown(url, [7, {}, None]))
    for findings in (None, {}, "x", 7):
        Page(shown(None, findings))


def test_strange_metrics_leave_the_page_whole(folder_store: Store) -> None:
    run = "toy-1129-101010-aaaa"
    write_run(folder_store, run)
    begin_driver(folder_store, run)
    writer = begin_task(folder_store, run, "sft", "sft")
    strange = (
        '{"step": 1, "loss": 1e308}\n{"step": 2, "loss": -1e308}\n{"step": 3, "loss": "x"}\n'
        '{"step": "4", "loss": 1}\nnot json\n[1]\n{"step": 5, "loss": 1' + "0" * 400 + "}\n"
        '{"step": 6, "loss": Infinity}\n{"step": null, "loss": 2}\n{"step": 7, "lo'
    )
    (writer.folder / "metrics.jsonl").write_text(strange)
    writer.finish({"status": "succeeded", "metrics": {"a": float("1e99"), "b": None}})
    answer = client_of(folder_store).get(f"/runs/{run}")
    assert answer.status_code == 200
    assert "2 rows" in Page(answer.text).text


def test_a_store_that_goes_away_and_comes_back(folder_store: Store, tmp_path: Path) -> None:
    run = "toy-1129-101010-aaaa"
    write_run(folder_store, run, created_at=OLD)
    client = client_of(folder_store)
    assert client.get("/healthz").status_code == 200
    (tmp_path / "store").rename(tmp_path / "away")
    refresh(client.app)  # type: ignore[arg-type]
    assert client.get("/healthz").status_code == 503
    assert client.get("/livez").status_code == 200
    page = Page(client.get("/").text)
    assert "The store can't be reached" in page.text
    assert run in page.text, "what was read last is still shown"
    assert "vila_store_up 0" in client.get("/metrics").text
    shutil.move(tmp_path / "away", tmp_path / "store")
    refresh(client.app)  # type: ignore[arg-type]
    assert client.get("/healthz").status_code == 200
    assert "can't be reached" not in client.get("/").text


def test_metrics_for_prometheus(folder_store: Store) -> None:
    write_run(folder_store, "ok-1129-101010-aaaa", created_at=OLD)
    write_end(folder_store, "ok-1129-101010-aaaa", "succeeded")
    for number in range(22):
        run = f"live-1129-1010{number:02d}-aaaa"
        write_run(folder_store, run, tasks=[["sft", "sft"]])
        begin_driver(folder_store, run)
        row = {"step": 3, "loss": 2.5, "tokens_per_s": 1234.5, "mfu": 0.41}
        writer = begin_task(folder_store, run, "sft", "sft", [row])
        writer.progress({"done": 3, "total": 4, "values": {"loss": 2.25}, "rss_bytes": 1000})
    text = client_of(folder_store).get("/metrics").text
    samples = {}
    for line in text.splitlines():
        assert re.fullmatch(
            r'(# (HELP|TYPE) vila_\w+ .+|vila_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [-\d.e+]+)', line
        ), line
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            samples[name] = float(value)
    assert samples['vila_runs{status="running"}'] == 22
    assert samples['vila_runs{status="succeeded"}'] == 1
    assert samples['vila_tasks{status="succeeded"}'] == 3
    assert samples['vila_tasks{status="not_run"}'] == 0
    assert samples['vila_task_duration_seconds_bucket{stage="sft",le="60"}'] == 1
    assert samples['vila_task_duration_seconds_sum{stage="sft"}'] == 12.5
    labels = 'run="live-1129-101021-aaaa",task="sft"'
    assert samples[f"vila_task_loss{{{labels}}}"] == 2.25
    assert samples[f"vila_task_tokens_per_second{{{labels}}}"] == 1234.5
    assert samples[f"vila_task_mfu_ratio{{{labels}}}"] == 0.41
    assert samples[f"vila_task_progress_ratio{{{labels}}}"] == 0.75
    assert 0 <= samples[f"vila_task_heartbeat_age_seconds{{{labels}}}"] < 60
    assert sum(name.startswith("vila_task_loss") for name in samples) == 20
    assert samples["vila_running_runs_left_out"] == 2
    documented = set(
        re.findall(
            r"`(vila_\w+)`", (Path(__file__).parents[2] / "docs/reference/dashboard.md").read_text()
        )
    )
    given = set(re.findall(r"# TYPE (\w+)", text))
    assert given == documented - {"vila_dashboard"}


def test_every_answer_carries_the_headers(
    folder_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(folder_store)

    def fault(*_: object) -> None:
        raise RuntimeError("a fault of ours, with details")

    monkeypatch.setattr("vila_ops.web.routes.run.records_of", fault)
    broken = client.get("/runs/x")
    assert broken.status_code == 500
    assert "with details" not in broken.text
    assert "with details" in caplog.text
    for path in ("/", "/healthz", "/nothing", "/static/style.css", "/metrics", "/runs/x"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'"), path
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out(scheme: int) -> None:
    css = (STATIC / "style.css").read_text()
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)
    colours = {name: both[scheme] for name, *both in found}
    pairs = [(ink, back) for ink in ("ink", "soft", "link") for back in ("back", "card")]
    pairs += [(f"series-{n}", back) for n in range(1, 9) for back in ("back", "card")]
    pairs += [("on", "link"), ("soft", "calm-back"), ("ink", "calm-back")]
    pairs += [("ink", "bad-back")]
    pairs += [(name, f"{name}-back") for name in ("good", "bad", "live", "off", "calm", "cache")]
    for ink, back in pairs:
        light, dark = sorted((luminance(colours[ink]), luminance(colours[back])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, back)


def test_scripts_are_few_and_ours_or_named() -> None:
    scripts = sorted(STATIC.rglob("*.js"))
    compressed = sum(len(gzip.compress(path.read_bytes(), 6)) for path in scripts)
    assert compressed <= 400_000
    for path in [*scripts, *STATIC.rglob("*.css")]:
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        text = text.replace("http://www.w3.org/", "")
        assert not re.search(r"https?://|//cdn|@import|\beval\(", text), path
    listed = dict(
        re.findall(
            r"`(uplot/\w+\.[\w.]+)` \| `(\w{64})`", (STATIC / "vendor/README.md").read_text()
        )
    )
    vendored = STATIC / "vendor"
    there = {str(one.relative_to(vendored)) for one in vendored.rglob("*.*") if one.suffix != ".md"}
    assert set(listed) == there
    for name, digest in listed.items():
        assert hashlib.sha256((vendored / name).read_bytes()).hexdigest() == digest, name
    assert (vendored / "uplot/LICENSE").read_text().startswith("The MIT License")
