"""The server's process: it listens at once, loads meanwhile, and ends in an orderly way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from starlette.applications import Starlette

from vila_ops.serving.holder import LAST_S, Holder
from vila_ops.web.serve import listening, make_server, on_end

KEEP_ALIVE_S = 30


def serve(
    app: Starlette,
    holder: Holder,
    host: str,
    port: int,
    *,
    grace_s: float,
    say: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then for at most `grace_s` seconds what is under way.

    SIGHUP loads what the model's name means then; a second SIGTERM or SIGINT ends at once. Raises
    UserError for an address that can't be listened on, and what loading raises.
    """
    server = make_server(
        app,
        "vila.serve",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(grace_s + 2 * LAST_S),
    )

    def stop(number: int, frame: FrameType | None) -> None:
        if server.should_exit:
            holder.cut_off()
            return
        server.should_exit = True
        holder.stopping = True  # at once: from here on nobody is accepted
        threading.Thread(target=holder.stop, args=(grace_s,), name="stopping", daemon=True).start()

    def fail() -> None:
        server.should_exit = True

    with listening(host, port) as (sock, address):
        on_end(stop)
        signal.signal(signal.SIGHUP, lambda number, frame: holder.reload())
        say(f"serving {holder.id} at {address}/v1, loading …")
        holder.start(fail)
        server.run(sockets=[sock])
    if holder.failure is not None:
        raise holder.failure
