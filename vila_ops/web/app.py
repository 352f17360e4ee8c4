"""The application: what is shared by the pages, and what happens when something goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from vila_core import __version__
from vila_core.store import Store
from vila_ops.comparing.pairs import Pairs
from vila_ops.kept import Kept
from vila_ops.samples import Samples
from vila_ops.web.access import Access
from vila_ops.web.api import audit as api_audit
from vila_ops.web.api import compare as api_compare
from vila_ops.web.api import events as api_events
from vila_ops.web.api import lineage as api_lineage
from vila_ops.web.api import registry as api_registry
from vila_ops.web.api import run as api_run
from vila_ops.web.api import runs as api_runs
from vila_ops.web.api.schema import describe, operation
from vila_ops.web.errors import API, broken, tell_errors
from vila_ops.web.guard import Guard
from vila_ops.web.limits import Network
from vila_ops.web.loading import Records
from vila_ops.web.oidc import Provider
from vila_ops.web.routes import (
    audit,
    compare,
    compare_files,
    health,
    lineage,
    login,
    metrics,
    registry,
    run,
    runs,
    samples,
)
from vila_ops.web.tokens import Tokens
from vila_ops.web.watch import Watch

HERE = Path(__file__).parent


def create_app(
    store: Store,
    tokens: Tokens | None = None,
    oidc: Provider | None = None,
    proxies: Sequence[Network] = (),
) -> FastAPI:
    """Make the dashboard of a store. Without tokens and provider it answers this machine alone."""
    watch, access = Watch(store), Access(tokens, oidc, store=store, proxies=proxies)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch.start()
        yield
        watch.close()
        access.audit.close()

    app = FastAPI(
        title="VILA dashboard",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{API}/openapi.json",
        generate_unique_id_function=operation,
        lifespan=lifespan,
    )
    app.state.watch = watch
    app.state.access = access
    app.state.records = Records(store)
    app.state.samples = Samples(store)
    app.state.pairs = Pairs(store)
    app.state.drawn = Kept(api_compare.DRAWN_BYTES)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    for routes in (
        runs,
        run,
        login,
        health,
        metrics,
        samples,
        registry,
        lineage,
        audit,
        compare,
        compare_files,
        api_audit,
        api_compare,
        api_registry,
        api_lineage,
        api_runs,
        api_run,
        api_events,
    ):
        app.include_router(routes.router)
    tell_errors(app)
    describe(app)
    app.add_middleware(Guard, access=access, broken=broken)
    return app
