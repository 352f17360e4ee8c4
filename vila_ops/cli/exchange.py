"""`vila import` and `vila export`: models of other libraries, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vila_ops.cli.options import JsonOption, StoreOption, UnsignedOption, store_uri

OutOption = Annotated[
    Path, typer.Option("--to", metavar="OUT", help="The new folder; it must not exist yet.")
]
ShardOption = Annotated[
    str, typer.Option(metavar="SIZE", help="Largest weight file, for example 5GB or 500MB.")
]


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("import")(import_)
    app.command("export")(export)


def import_(
    folder: Annotated[Path, typer.Argument(help="The folder of the other library's model.")],
    to: OutOption,
    layout: Annotated[
        str, typer.Option(help="auto, llava, vila15, transformers or transformers-4.52.")
    ] = "auto",
    vision_tower: Annotated[
        Path | None,
        typer.Option(metavar="F", help="CLIP or SigLIP folder, where the model has no tower."),
    ] = None,
    convert_pickles: Annotated[
        bool, typer.Option("--convert-pickles", help="Read .bin weights, as plain tensors only.")
    ] = False,
    max_shard_size: ShardOption = "5GB",
    json: JsonOption = False,
) -> None:
    """Import a LLaVA-1.5, VILA or transformers LLaVA model.

    Not one bit of a weight changes. What comes out is a model folder, for `vila ask` and training.
    """
    from vila_core.errors import require

    require("torch", extra="train", why="import a model")
    require("transformers", extra="train", why="import a model")
    from vila_core.model.layouts import exchange

    contents = exchange.import_model(
        folder,
        to,
        layout=layout,
        vision_tower=vision_tower,
        convert_pickles=convert_pickles,
        max_shard_size=max_shard_size,
    )
    assert contents.origin
    millions = sum(tensor.numel() for tensor in contents.tensors.values()) / 1e6
    found = {
        "layout": contents.origin.layout,
        "to": str(to),
        "language_model": contents.config.text_config.model_type,
        "vision_tower": contents.config.vision_config.model_type,
        "projector": contents.config.projector,
        "tensors": len(contents.tensors),
        "parameters_millions": round(millions, 3),
        "dtype": str(contents.dtype).removeprefix("torch."),
    }
    if json:
        from vila_core.jsonio import dumps

        typer.echo(dumps(found))
        return
    typer.echo(
        f"imported {folder} ({found['layout']}): {found['language_model']}, "
        f"{found['vision_tower']}, {found['projector']}, {millions:.1f} M parameters in "
        f"{found['dtype']}, to {to}"
    )


def export(
    model: Annotated[
        str, typer.Argument(help="NAME@ALIAS or NAME@VERSION of the registry, a run, or a folder.")
    ],
    to: OutOption,
    layout: Annotated[str, typer.Option(help="llava, vila15, transformers or transformers-4.52.")],
    max_shard_size: ShardOption = "5GB",
    allow_unsigned: UnsignedOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Export a model for another library, which must then load it and agree.

    The proof is written to OUT/certificate.json; without it nothing is left in OUT.
    """
    from vila_core.errors import require
    from vila_core.store import open_store
    from vila_ops.ask import find_model

    require("torch", extra="train", why="export a model")
    require("transformers", extra="train", why="export a model")
    from transformers.utils.logging import disable_progress_bar

    from vila_core.model.layouts import exchange

    disable_progress_bar()
    found = find_model(open_store(store_uri(store)), model, allow_unsigned=allow_unsigned)
    proof = exchange.export_model(found.folder, to, layout=layout, max_shard_size=max_shard_size)
    if json:
        from vila_core.jsonio import dumps

        typer.echo(dumps(proof | {"to": str(to)}))
        return
    typer.echo(
        f"exported {found.origin} ({layout}) to {to}\n"
        f"  certified: logits differ by at most {proof['max_abs_difference']:.2g} from "
        f"{proof['compared_with']}\n  on {len(proof['prompts'])} prompts; see "
        f"{to / 'certificate.json'}"
    )
