from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest

from components.registry import Registry
from components.runtime import record
from tests.web.story import Story
from vila_core.errors import UserError
from vila_core.store import Store
from vila_ops.lineage import LineageIndex, find, find_one, trace_back, trace_forward
from vila_ops.lineage.tree import lines


def opened(store: Store) -> LineageIndex:
    index = LineageIndex(store)
    index.refresh()
    return index


def test_a_version_leads_back_to_its_data_and_their_shards(told_store: Store, story: Story) -> None:
    graph = trace_back(opened(told_store), find_one(opened(told_store), "miniature@candidate"))
    ids = set(graph.nodes)
    run = story.first.run_id
    assert {f"task:{run}/{task}/1" for task in ("prepare", "align", "pretrain", "sft")} <= ids
    assert f"task:{run}/evaluate/1" in ids
    assert {f"artifact:{one.sha256}" for one in (story.first.model, story.first.data)} <= ids
    assert {node.title for node in graph.nodes.values() if node.kind == "corpus"} == {
        "coyo",
        "flan",
        "llava",
        "mmc4",
    }
    manifest = json.loads(
        told_store.read(f"artifacts/{story.first.data.sha256}/corpora/mmc4/manifest.json")
    )
    assert f"shard:{manifest['shards'][0]['sha256']}" in ids
    mmc4 = graph.nodes[f"corpus:{story.first.data.sha256}/mmc4"]
    told = {detail.name: detail.value for detail in mmc4.details}
    assert told["licence"] == manifest["licence"]
    assert told["samples"] == f"{manifest['samples']:,}"
    assert told["index"] == manifest["index_sha256"]
    assert not any(story.second.run_id in one for one in ids)  # which took part of it from there


def test_a_task_tells_config_and_code(told_store: Store, story: Story) -> None:
    index = opened(told_store)
    node = trace_back(index, find_one(index, f"{story.first.run_id}:sft")).nodes[
        f"task:{story.first.run_id}/sft/1"
    ]
    linked = {detail.name: detail.node for detail in node.details}
    attempt = record.finished_attempt(told_store, story.first.run_id, "sft")
    assert attempt is not None
    assert linked["code"] == f"code:{attempt.started['key_parts']['code']['digest']}"
    assert linked["run"] == f"run:{story.first.run_id}"
    users = trace_forward(index, linked["code"]).nodes
    assert f"task:{story.second.run_id}/sft/1" in users


def test_what_came_from_the_cache_points_to_who_made_it(told_store: Store, story: Story) -> None:
    index = opened(told_store)
    graph = trace_back(index, find_one(index, f"{story.second.run_id}:sft"))
    cached = f"task:{story.second.run_id}/align/1"
    made = f"task:{story.first.run_id}/align/1"
    assert (cached, made, "from the cache") in {
        (edge.made, edge.source, edge.label) for edge in graph.edges
    }
    assert story.first.run_id in graph.nodes[cached].note
    back = trace_forward(index, made)
    assert cached in {node.id for _, node in back.children(made)}


def test_forward_from_data_reaches_versions_and_aliases_of_then_and_now(
    own_store: Store, story: Story
) -> None:
    registry = Registry(own_store)
    first = registry.version("miniature", 1)
    second = registry.register(
        type(first)(**{**vars(first), "run_id": story.second.run_id, "stored": ""})
    )
    registry.move("miniature", "candidate", second.number, why="newer")
    index = opened(own_store)
    graph = trace_forward(index, find_one(index, story.first.data.sha256[:10]))
    labels = {(edge.source, edge.made): edge.label for edge in graph.edges}
    alias = "alias:miniature@candidate"
    assert labels["version:miniature@1", alias] == "stood at it before"
    assert labels["version:miniature@2", alias] == "stands at it now"


def test_forward_from_a_corpus_and_a_shard_follows_the_mixtures(
    told_store: Store, story: Story
) -> None:
    index = opened(told_store)
    users = trace_forward(index, find_one(index, "flan"))
    drawn = {edge.made for edge in users.edges if edge.label == "drawn from"}
    assert drawn == {f"task:{run.run_id}/sft/1" for run in (story.first, story.second)}
    manifest = json.loads(
        told_store.read(f"artifacts/{story.first.data.sha256}/corpora/flan/manifest.json")
    )
    shard = trace_forward(index, find_one(index, manifest["shards"][0]["sha256"][:8]))
    assert drawn <= set(shard.nodes)
    assert "version:miniature@1" in shard.nodes


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (lambda story: story.first.run_id, "run"),
        (lambda story: story.first.run_id + ":sft", "task"),
        (lambda story: story.second.model.sha256[:6], "artifact"),
        (lambda story: "sha256:" + story.first.results.sha256.upper(), "artifact"),
        (lambda story: "coyo", "corpus"),
        (lambda story: "miniature@1", "version"),
        (lambda story: "miniature", "version"),
        (lambda story: "last", "run"),
    ],
)
def test_search_finds(
    told_store: Store, story: Story, text: Callable[[Story], str], kind: str
) -> None:
    assert find_one(opened(told_store), text(story)).startswith(f"{kind}:")


def test_a_sample_key_leads_to_its_shard(told_store: Store, story: Story) -> None:
    from vila_core.data.corpus import Corpus

    folder = told_store.local_path(f"artifacts/{story.first.data.sha256}/corpora/coyo")
    assert folder is not None
    key = Corpus.open(folder).read(3).key
    found = find(opened(told_store), key)
    assert [one.partition(":")[0] for one in found] == ["shard", "corpus"]
    assert find_one(opened(told_store), key) == found[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("abc", "at least 6 digits"),
        ("miniatur@1", "nothing in"),
        ("miniature@7", "versions: 1"),
        ("miniature@candidat", "did you mean 'candidate'"),
        ("ffffffffffff", "nothing in"),
        ("../../etc/passwd", "nothing in"),
        ("<script>", "nothing in"),
        ("", "nothing in"),
        ("@", "nothing in"),
        ("\0", "nothing in"),
        ("coyo/00000/99999999", "nothing in"),
    ],
)
def test_what_is_not_found_is_told_with_a_way_on(told_store: Store, text: str, said: str) -> None:
    index = opened(told_store)
    with pytest.raises(UserError, match=said):
        find_one(index, text)


def test_several_meanings_are_listed(told_store: Store, story: Story) -> None:
    with pytest.raises(UserError, match="may mean 2 things") as caught:
        find_one(opened(told_store), "story")
    assert story.first.run_id in str(caught.value)


def test_a_deleted_artifact_is_told_and_its_lineage_stays(own_store: Store, story: Story) -> None:
    place = own_store.local_path(f"artifacts/{story.first.model.sha256}")
    assert place is not None
    opened(own_store).write()
    for path in (place, *place.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(place)
    index = opened(own_store)
    graph = trace_back(index, "version:miniature@1")
    model = graph.nodes[f"artifact:{story.first.model.sha256}"]
    assert model.missing
    assert "not in the store any more" in model.note
    assert f"task:{story.first.run_id}/sft/1" in graph.nodes
    assert any("MISSING" in line for line in lines(graph))


def test_a_deleted_run_is_remembered_by_its_version(own_store: Store, story: Story) -> None:
    place = own_store.local_path(f"runs/{story.first.run_id}")
    assert place is not None
    shutil.rmtree(place)
    index = opened(own_store)
    graph = trace_back(index, "version:miniature@1")
    sft = graph.nodes[f"task:{story.first.run_id}/sft/0"]
    assert sft.missing
    assert "is gone" in sft.note
    assert f"artifact:{story.first.data.sha256}" in graph.nodes
    cached = trace_back(index, f"task:{story.second.run_id}/align/1")
    assert "whose record is gone" in cached.nodes[f"task:{story.second.run_id}/align/1"].note
    assert f"artifact:{story.first.data.sha256}" in cached.nodes  # by its own inputs


def test_a_broken_history_is_a_note(own_store: Store) -> None:
    own_store.write("registry/miniature/history/1.json", b"{}")
    graph = trace_forward(opened(own_store), "version:miniature@1")
    assert graph.root in graph.nodes
    assert any("history/1.json" in note for note in graph.notes)


def test_a_large_graph_is_cut_and_told(told_store: Store, story: Story) -> None:
    graph = trace_back(opened(told_store), "version:miniature@1", most=6)
    assert len(graph.nodes) == 6
    assert sum(graph.left_out.values()) > 0
    assert any("more" in line for line in lines(graph))


def test_the_tree_fits_a_terminal(told_store: Store) -> None:
    told = list(lines(trace_back(opened(told_store), "version:miniature@1")))
    assert told[0] == "version miniature@1"
    assert max(map(len, told)) <= 80
