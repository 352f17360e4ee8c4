"""`vila serve`: a model behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vila_ops.cli.options import HostOption, PortOption, StoreOption, store_uri


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(serve)


def serve(
    model: Annotated[
        str, typer.Argument(help="NAME@ALIAS or NAME@VERSION of the registry, a run, or a folder.")
    ],
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    tokens: Annotated[
        Path | None,
        typer.Option(
            "--tokens",
            envvar="VILA_SERVE_TOKENS",
            metavar="FILE",
            help="Hashed tokens of those who may ask; needed unless only this machine can.",
        ),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Prompt template; default: the one of the model's run.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto (CUDA where present), cpu or cuda.", metavar="DEVICE")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, or bf16.", metavar="PRECISION")] = "fp32",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Answers written at once.")] = 16,
    batch_tokens: Annotated[
        int, typer.Option(min=16, help="Tokens of all of them: bounds the memory.")
    ] = 32_768,
    queue: Annotated[
        int, typer.Option(min=1, max=100_000, help="Requests that may wait; more get 429.")
    ] = 64,
    max_images: Annotated[int, typer.Option(min=0, max=1000, help="Images of one request.")] = 16,
    allow_image_urls: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-image-urls",
            metavar="HOST",
            help="Fetch images by address from this host (*.HOST: all below it); repeat for more.",
        ),
    ] = None,
    allow_image_network: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-image-network",
            metavar="NETWORK",
            help="A private network where such a host may be: 10.1.0.0/16; repeat for more.",
        ),
    ] = None,
    allow_unsigned: Annotated[
        bool, typer.Option(help="Serve a version that nobody trusted has signed.")
    ] = False,
    follow: Annotated[
        float | None,
        typer.Option(
            min=1, metavar="SECONDS", help="Look that often where the alias points; load that."
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that answers under way have at the end.")
    ] = 30.0,
    store: StoreOption = None,
) -> None:
    """Serve a model behind an OpenAI-compatible chat endpoint."""
    from vila_core.errors import require
    from vila_ops.serving.checks import check_choices

    check_choices(device, precision, template)
    for module in ("starlette", "uvicorn"):
        require(module, extra="web", why="serve a model")
    for module in ("torch", "transformers"):
        require(module, extra="train", why="serve a model")
    from vila_ops.web.serve import check_host

    check_host(host, guarded=tokens is not None, ways="--tokens FILE")
    from vila_core.store import open_store
    from vila_ops.serving.app import create_app
    from vila_ops.serving.holder import Holder, Opening
    from vila_ops.serving.limits import Limits
    from vila_ops.serving.process import serve as run
    from vila_ops.serving.remote import Remote, refuse
    from vila_ops.web.tokens import Tokens

    limits = Limits(batch=batch, batch_tokens=batch_tokens, queue=queue, images=max_images)
    known = None if tokens is None else Tokens(tokens)
    hosts, networks = allow_image_urls or [], allow_image_network or []
    fetch = Remote(hosts, networks, limits) if hosts else refuse
    holder = Holder(
        open_store(store_uri(store)),
        model,
        Opening(template, device, precision, threads),
        limits,
        say=typer.echo,
        follow_s=follow,
        allow_unsigned=allow_unsigned,
    )
    run(create_app(holder, fetch, known), holder, host, port, grace_s=grace, say=typer.echo)
