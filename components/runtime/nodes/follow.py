"""A task that trains on several nodes: the step's side, which starts, follows and ends them.

A `Fleet` is where nodes come from: processes of this machine, or the pods of a TrainJob. Every node
runs `entry`; all that they share with the step is the store. A node that is lost ends the others;
all are started again, and go on from the last checkpoint in the store.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.runtime.context import Context, TrainJobPlace
from components.runtime.mirror import StoreMirror
from components.runtime.nodes.fleet import LEASE_SECONDS, Fleet, NodesCall, NodesResult, State
from components.runtime.nodes.relay import Relay, Seen, seconds_between
from components.runtime.record import now
from vila_core.errors import StoreError, VilaError
from vila_core.jsonio import dumps
from vila_core.store import Store, ref_of, verify
from vila_core.train.launch import error_of
from vila_core.types import Reporter

_LAST_WORDS_SECONDS = 10.0
_END_SECONDS = 60.0  # for the other nodes, once there is a result


class _Lost(Exception):
    """Nodes are gone through no fault of the training."""


def run_on_nodes(
    store: Store,
    attempt: str,
    call: NodesCall,
    fleet: Fleet,
    report: Reporter,
    *,
    restarts: int,
) -> NodesResult:
    """Run a task on the nodes of `fleet`; `attempt` is the store's folder of the attempt's record.

    Each start is told in the log and in `nodes.json` of the record. Raises what a node has raised
    first, and VilaError when nodes were lost more than `restarts` times or never came.
    """
    starts: list[dict[str, Any]] = []
    for number in range(1, restarts + 2):
        one = _Start(store, attempt, call, fleet, report, starts, number)
        try:
            return one.run()
        except _Lost as lost:
            if number > restarts:
                raise VilaError(
                    f"the nodes were lost {number} times, the last time: {lost}. Fix: see the log; "
                    "a resumed run goes on from the last checkpoint."
                ) from None
            steps = StoreMirror(store.uri, call.key).steps()
            where = f"from step {steps[-1]}" if steps else "from the start: no checkpoint yet"
            report.info(f"nodes lost: {lost}; started again ({number} of {restarts}), {where}")
            time.sleep(fleet.pause_s)
    raise AssertionError("unreachable")


class _Start:
    """One time that all nodes are started."""

    def __init__(
        self,
        store: Store,
        attempt: str,
        call: NodesCall,
        fleet: Fleet,
        report: Reporter,
        starts: list[dict[str, Any]],
        number: int,
    ) -> None:
        self.store, self.call, self.fleet, self.report = store, call, fleet, report
        self.attempt, self.starts, self.number = attempt, starts, number
        self.nodes = call.config["train"]["nodes"]
        self.place = f"{attempt}/nodes/{number}"
        self.relay = Relay(store, self.place, report)
        self.over = threading.Event()
        self.waited, self.looked, self.said = 0.0, time.monotonic(), ""

    def run(self) -> NodesResult:
        value = {**vars(self.call), "join_s": int(self.fleet.wait_s) or 600}
        self.store.write(f"{self.place}/call.json", dumps(value).encode())
        entry: dict[str, Any] = {"start": self.number, "began_at": now()}
        self.starts.append(entry)
        threading.Thread(target=self._show_life, daemon=True, name="vila-lease").start()
        try:
            entry["name"] = self.fleet.start(self.number, self.place)
            self.report.info(f"{self.nodes} nodes: {entry['name']}")
            self._note()
            result = self._follow()
            entry["ended"] = "succeeded"
        except _Lost as lost:
            entry |= {"ended": "lost", "reason": str(lost)}
            raise
        except Exception as error:
            entry |= {"ended": "failed", "reason": str(error)}
            raise
        finally:
            self.over.set()
            try:
                self.fleet.stop()
            except VilaError as error:  # what has ended the task is what to raise
                self.report.info(f"the nodes could not be ended: {error}")
            finally:
                entry |= {"ended": entry.get("ended", "stopped"), "ended_at": now()}
                self._note()
        return result

    def _follow(self) -> NodesResult:
        seconds = seconds_between(self.store)
        while True:
            state = self.fleet.state()
            seen = self._take()
            if 0 in seen.results:
                return self._finish(seen)
            if seen.errors or state.status in ("ended", "lost"):
                raise self._judge()
            self._wait(state)
            time.sleep(seconds)

    def _take(self) -> Seen:
        try:
            return self.relay.take()
        except StoreError as error:
            self._say(f"the store can't be read, trying again: {error}")
            return self.relay.seen

    def _finish(self, seen: Seen) -> NodesResult:
        """Let the other nodes end, and return the result."""
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline and self.fleet.state().status == "running":
            time.sleep(seconds_between(self.store))
        self._take()
        found = seen.results[0]
        outputs = {name: ref_of(self.store, sha256) for name, sha256 in found["outputs"].items()}
        for ref in outputs.values():
            verify(self.store, ref)
        return NodesResult(outputs, found["metrics"])

    def _judge(self) -> Exception:
        """Return whether the nodes were lost, or which error came first; the rest follows it."""
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while True:
            state = self.fleet.state()
            seen = self._take()
            known = {*seen.errors, *state.lost, *seen.results}
            sure = any(error["told"] for error in seen.errors.values())
            if sure or len(known) >= self.nodes or time.monotonic() > deadline:
                break
            time.sleep(seconds_between(self.store))
        if state.final:
            return VilaError(state.reason)
        errors = sorted(seen.errors.items(), key=lambda item: item[1]["at"])
        own = [(number, error) for number, error in errors if not error["lost"]]
        told = [(number, error) for number, error in own if error["told"]]
        gone = {number: why for number, why in state.lost.items() if number not in seen.errors}
        if told or (own and not gone):
            number, error = (told or own)[0]
            self.report.info(f"node {number} failed first: {error['kind']}")
            return error_of(error["kind"], error["message"])
        for number in gone:
            for line in self.fleet.last_words(number):
                self.report.info(f"node {number}: {line}")
        reasons = [f"node {number}: {why}" for number, why in sorted(gone.items())]
        reasons += [f"node {number}: {error['message']}" for number, error in errors if not gone]
        return _Lost("; ".join(reasons) or state.reason or "they ended without a result")

    def _wait(self, state: State) -> None:
        """Say what nodes wait for. Raises VilaError when they have not come in time."""
        passed, self.looked = time.monotonic() - self.looked, time.monotonic()
        if state.status not in ("waiting", "queued"):
            return
        self._say(f"{state.status}: {state.reason}")
        self.waited += passed if state.status == "waiting" else 0.0
        if self.waited > self.fleet.wait_s:
            raise VilaError(
                f"the nodes did not come within {self.fleet.wait_s:.0f} s: {state.reason}. Fix: "
                "make room for them or ask for less, then 'vila resume' the run."
            )

    def _say(self, text: str) -> None:
        if text != self.said:
            self.said = text
            self.report.info(text)

    def _show_life(self) -> None:
        """Renew the lease until the end, in a thread: whatever the step waits for, it is there."""
        beat = 0
        while True:
            beat += 1
            with contextlib.suppress(StoreError):
                self.store.write(f"{self.place}/lease.json", dumps({"beat": beat}).encode())
            if self.over.wait(LEASE_SECONDS):
                return

    def _note(self) -> None:
        try:
            text = json.dumps(self.starts, indent=1) + "\n"
            self.store.write(f"{self.attempt}/nodes.json", text.encode())
        except StoreError as error:
            self._say(f"nodes.json is not written: {error}")


def fleet_of(
    place: TrainJobPlace | None,
    call: NodesCall,
    run: Context,
    attempt: int,
    work: Path,
    say: Callable[[str], None],
) -> Fleet:
    """Return where the nodes of a task come from: a TrainJob at `place`, else this machine."""
    train = call.config["train"]
    if place is None:
        from components.runtime.nodes.local import LocalNodes

        return LocalNodes(run.store, train["nodes"], train["processes"], train["device"], work)
    from components.runtime.nodes.trainjob import TrainJobNodes

    return TrainJobNodes(place, call, run, attempt, say)
