"""The client against answers written down: what it repeats, what it gives up, what it says."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from kubernetes.client import CoreV1Api

from components.kube import objects
from components.kube.client import Patience
from components.kube.errors import (
    Absent,
    Changed,
    Expired,
    Invalid,
    KindMissing,
    NoAnswer,
    NotAllowed,
    NotAuthenticated,
    QuotaExceeded,
    Taken,
)
from tests.cluster.scripted import QUICK, Answer, running, status

PODS = objects.address("v1", "pods", "vila")
BUSY = status(429, "TooManyRequests", "too many requests")
BROKEN = status(500, "InternalError", "etcdserver: leader changed")


def pod(name: str, version: str = "1", uid: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid or name, "resourceVersion": version}}


def pods(*found: dict[str, Any], version: str = "10", more: str = "") -> Answer:
    meta = {"resourceVersion": version, **({"continue": more} if more else {})}
    return Answer(body={"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": found})


def events(*found: tuple[str, dict[str, Any]], cut: bool = False) -> Answer:
    lines = [json.dumps({"type": kind, "object": value}).encode() + b"\n" for kind, value in found]
    return Answer(pieces=lines, cut=cut)


def test_reading_is_repeated_after_429_5xx_and_a_cut_connection() -> None:
    with running(BUSY, BROKEN, Answer(body=pod("a"))) as script:
        assert objects.get(script.api(), f"{PODS}/a")["metadata"]["name"] == "a"
    with running(Answer(body=pod("a"), cut=True), Answer(body=pod("a"))) as script:
        assert objects.get(script.api(), f"{PODS}/a")["metadata"]["name"] == "a"
        assert len(script.asked) == 2


def test_creating_is_repeated_only_where_nothing_was_begun() -> None:
    with running(BUSY, Answer(201, pod("a"))) as script:
        objects.create(script.api(), PODS, pod("a"))
        assert len(script.asked) == 2
    for failure in (BROKEN, Answer(201, pod("a"), cut=True)):
        with running(failure, Answer(201, pod("a"))) as script:
            with pytest.raises(NoAnswer):
                objects.create(script.api(), PODS, pod("a"))
            assert len(script.asked) == 1


def test_retry_after_is_kept_to() -> None:
    patient = Patience(connect_s=2, read_s=2, tries=2, first_wait_s=30)
    first = Answer(429, BUSY.body, {"Retry-After": "1"})
    with running(first, Answer(body=pod("a"))) as script:
        begun = time.monotonic()
        objects.get(script.api(patient), f"{PODS}/a")
    assert 0.9 < time.monotonic() - begun < 5


def test_it_gives_up_after_the_last_try() -> None:
    with running(BUSY, BUSY, BUSY) as script:
        with pytest.raises(NoAnswer, match=r"answers 429: too many requests; it has too much"):
            objects.get(script.api(), f"{PODS}/a")
        assert len(script.asked) == QUICK.tries


def test_a_slow_answer_is_told() -> None:
    short = Patience(connect_s=1, read_s=0.2, tries=1)
    with running(Answer(body=pod("a"), wait=lambda: time.sleep(0.6))) as script:
        with pytest.raises(NoAnswer, match="does not answer in time"):
            objects.get(script.api(short), f"{PODS}/a")
        time.sleep(0.6)


def test_a_closed_port_is_told() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running() as script:
        script.url = f"http://127.0.0.1:{port}"
        with pytest.raises(NoAnswer, match=r"\(context test\): refuses connections; fix"):
            objects.get(script.api(), f"{PODS}/a")


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (status(401, "Unauthorized", "Unauthorized"), NotAuthenticated, "have expired"),
        (
            status(403, "Forbidden", 'pods is forbidden: User "jo" cannot list resource "pods"'),
            NotAllowed,
            r"can-i list pods -n vila\)",
        ),
        (
            status(403, "Forbidden", 'pods is forbidden: User "system:anonymous" cannot list'),
            NotAuthenticated,
            "no credentials were sent",
        ),
        (
            status(403, "Forbidden", 'pods "a" is forbidden: exceeded quota: vila, requested: …'),
            QuotaExceeded,
            "exceeded quota: vila",
        ),
        (status(404, "NotFound", 'pods "a" not found'), Absent, 'pods "a" not found'),
        (status(409, "AlreadyExists", 'pods "a" already exists'), Taken, "already exists"),
        (status(409, "Conflict", "the object has been modified"), Changed, "been modified"),
        (status(410, "Expired", "too old resource version"), Expired, "too old"),
        (status(422, "Invalid", "spec.containers: Required value"), Invalid, "Required value"),
    ],
)
def test_refusals_are_explained(answer: Answer, kind: type[Exception], says: str) -> None:
    with running(answer) as script, pytest.raises(kind, match=says) as caught:
        objects.listed(script.api(), PODS)
    assert caught.type is kind
    assert script.url in str(caught.value)


def test_a_missing_crd_names_what_brings_it() -> None:
    trainjobs = objects.address("trainer.kubeflow.org/v1alpha1", "trainjobs", "vila")
    answer = Answer(404, "404 page not found\n")
    with running(answer) as script, pytest.raises(KindMissing) as caught:
        objects.create(script.api(), trainjobs, {"metadata": {"name": "a"}})
    assert "CRD trainjobs.trainer.kubeflow.org of Kubeflow Trainer 2.3.0" in str(caught.value)
    assert "kubectl apply --server-side -k" in str(caught.value)


def test_the_typed_classes_of_the_client_are_explained_too() -> None:
    with running(BUSY, pods(pod("a")), status(404, "NotFound", "gone")) as script:
        core = CoreV1Api(script.api())
        assert core.list_namespaced_pod("vila").items[0].metadata.name == "a"
        with pytest.raises(Absent):
            core.read_namespaced_pod("b", "vila")


def test_listing_follows_pages_and_begins_again_when_they_expire() -> None:
    gone = status(410, "Expired", "the provided continue parameter is too old")
    script_of = [pods(pod("a"), more="t1"), gone, pods(pod("a"), more="t2"), pods(pod("b"))]
    with running(*script_of) as script:
        found = objects.listed(script.api(), PODS, selector="vila.dev/run=r1")
        assert [entry["metadata"]["name"] for entry in found] == ["a", "b"]
        assert {entry["kind"] for entry in found} == {"Pod"}
        assert "continue=t2" in script.asked[-1][1]
        assert "labelSelector=vila.dev%2Frun%3Dr1" in script.asked[-1][1]


def test_deleting_what_is_gone_is_no_error() -> None:
    with running(Answer(body={}), status(404, "NotFound", "gone")) as script:
        assert objects.delete(script.api(), f"{PODS}/a") is True
        assert objects.delete(script.api(), f"{PODS}/a") is False


def _seen(script: Any, count: int) -> list[tuple[str, str]]:
    seen = []
    for change in objects.watch(script.api(), PODS, tick_s=0):
        if change.type != "TICK":
            seen.append((change.type, change.object["metadata"]["name"]))
        if len(seen) == count:
            break
    return seen


def test_a_watch_goes_on_after_a_cut_connection() -> None:
    script_of = [
        pods(pod("a")),
        events(("MODIFIED", pod("a", "11")), cut=True),
        Answer(pieces=[b'{"type": "MODI'], cut=True),
        events(("BOOKMARK", pod("", "15"))),
        events(("DELETED", pod("a", "16"))),
    ]
    with running(*script_of) as script:
        assert _seen(script, 3) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
        versions = [path.partition("resourceVersion=")[2][:2] for _, path, _ in script.asked[1:]]
        assert versions == ["10", "11", "11", "15"]


def test_a_watch_lists_again_after_410_and_tells_what_differs() -> None:
    gone = ("ERROR", {"code": 410, "reason": "Expired", "message": "too old resource version"})
    script_of = [
        pods(pod("a"), pod("b"), pod("c")),
        events(gone),
        pods(pod("a"), pod("b", "20"), pod("d", "21"), version="30"),
        status(410, "Gone", "too old"),
        pods(pod("a"), pod("b", "20"), pod("d", "21"), version="40"),
        events(("DELETED", pod("d", "41"))),
    ]
    with running(*script_of) as script:
        first = _seen(script, 7)
        assert first[:3] == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]
        assert first[3] == ("DELETED", "c")
        assert first[4:] == [("MODIFIED", "b"), ("ADDED", "d"), ("DELETED", "d")]


def test_a_watch_is_refused_for_good_without_the_right() -> None:
    denied = status(403, "Forbidden", "pods is forbidden: cannot watch")
    says = pytest.raises(NotAllowed, match="can-i watch pods -n vila")
    with running(pods(), denied) as script, says:
        _seen(script, 1)


def test_an_outage_that_lasts_ends_the_watch() -> None:
    down = [status(503, "ServiceUnavailable", "down")] * 30
    with running(pods(), *down) as script, pytest.raises(NoAnswer, match="answers 503"):
        for _ in objects.watch(script.api(), PODS, tick_s=0, outage_s=0.1):
            pass


def test_lines_of_a_log_come_as_they_are_written() -> None:
    whole = Answer(pieces=[b"one\ntw", b"o\n", b"three"])
    with running(whole, Answer(pieces=[b"one\n"], cut=True)) as script:
        api = script.api()
        assert list(objects.lines(api, f"{PODS}/a/log")) == ["one", "two", "three"]
        cut = objects.lines(api, f"{PODS}/a/log")
        assert next(cut) == "one"
        with pytest.raises(NoAnswer, match="broke off"):
            next(cut)
