"""`vila data …`: corpora in, versioned shards out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vila_ops.cli import data_versions
from vila_ops.cli.options import JsonOption, StoreOption, store_uri

app = typer.Typer(help="Prepare corpora, look at them, version them.", no_args_is_help=True)


@app.command()
def prepare(
    config: Annotated[
        str, typer.Argument(help="A YAML file with a `prepare` section, or a recipe's name.")
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="OUT", help="The folder to write; goes on if begun.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Override a value: --set prepare.workers=2."),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Do part I of N, as 0/8; `vila data merge` joins them."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Read corpora as published, write shards that training reads.

    Stopped at any point and called again, it goes on where it was and ends with the same bytes.
    """
    from vila_ops.data import prepare as prepared

    found = prepared.prepare(config, to, overrides or [], part=part, quiet=json)
    if json:
        from vila_core.jsonio import dumps

        typer.echo(dumps(found))
    elif "corpora" in found and "index" in found:
        prepared.print_part(found, to)
    else:
        prepared.print_report(found, to)


@app.command()
def merge(
    to: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    parts: Annotated[
        list[Path], typer.Argument(metavar="PART", help="What `prepare --part` wrote, all parts.")
    ],
    json: JsonOption = False,
) -> None:
    """Join the parts of a prepare that many machines did.

    The result is that of `vila data prepare` on one machine, to the byte.
    """
    from vila_ops.data import prepare as prepared

    found = prepared.merge(to, parts, quiet=json)
    if json:
        from vila_core.jsonio import dumps

        typer.echo(dumps(found))
        return
    prepared.print_report(found, to)


@app.command()
def count(
    folder: Annotated[Path, typer.Argument(help="A folder that prepare wrote, or a corpus in it.")],
    tokenizer: Annotated[
        Path, typer.Option(metavar="FOLDER", help="A folder with tokenizer files, or of a model.")
    ],
    template: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: each corpus's own.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one per processor.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Count tokens again, for a model with another tokenizer or another template.

    No shard is changed: the counts lie beside the index.
    """
    from vila_ops.data import count as counting

    found = []
    for one in counting.count(folder, tokenizer, template, workers=workers, quiet=json):
        found.append(one)
        if not json:
            typer.echo(counting.line(one))
    if json:
        from vila_core.jsonio import dumps

        typer.echo(dumps(found))


@app.command()
def inspect(
    data: Annotated[
        str, typer.Argument(help="A folder that prepare wrote, a corpus in it, or a run.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The page to write.")] = Path(
        "inspect.html"
    ),
    samples: Annotated[int, typer.Option(min=0, help="Samples shown of each corpus.")] = 12,
    seed: Annotated[int, typer.Option(help="Draws other samples.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Show images as it gets them: NAME@ALIAS, a run, a folder."
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Write a page on prepared data: counts, lengths, samples as the model reads them.

    The page is one file that needs nothing else.
    """
    from vila_ops.data.inspect import inspect as look
    from vila_ops.data.page import render
    from vila_ops.data.places import find_data, find_processor

    folder = find_data(data, store)
    processor = find_processor(model, store) if model else None
    facts = look(folder, samples=samples, seed=seed, processor=processor)
    to.write_text(render(f"Data of {data}", facts, seen_by=model), encoding="utf-8")
    typer.echo(f"written: {to} ({to.stat().st_size / 1e6:.1f} MB)")


@app.command()
def trace(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A sample key: mmc4/00017/000042.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Tell where a sample came from and lies, and which runs and models saw it."""
    from vila_core.errors import UserError
    from vila_core.jsonio import dumps
    from vila_core.store import open_store
    from vila_ops.data import told
    from vila_ops.data.takedown import read_keys
    from vila_ops.data.trace import as_json, places, uses

    opened = open_store(store_uri(store))
    (key,) = read_keys([key])
    found = places(opened, key)
    if not found:
        raise UserError(f"{key}: no prepared data in {opened.uri} hold this sample.")
    saw = uses(opened, [key])
    if json:
        typer.echo(dumps(as_json(found, saw)))
        return
    told.print_trace(key, found, saw)


@app.command()
def takedown(
    keys: Annotated[
        list[str], typer.Argument(metavar="KEY", help="Sample keys, or @FILE with one per line.")
    ],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """List all that samples touch, and the cheapest checkpoints to start again from.

    Nothing is changed. To prepare the data without them: --set prepare.exclude=FILE.
    """
    from vila_core.jsonio import dumps
    from vila_core.store import open_store
    from vila_ops.data import told
    from vila_ops.data.takedown import read_keys
    from vila_ops.data.takedown import takedown as find

    found = find(open_store(store_uri(store)), read_keys(keys))
    if json:
        typer.echo(dumps(found.as_json()))
        return
    told.print_takedown(found)


@app.command()
def download(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="Its file, or folder of files.")],
    form: Annotated[str, typer.Option("--format", help="How it is published: coyo or mmc4.")],
    to: Annotated[
        Path, typer.Option("--to", metavar="OUT", help="The folder to write; goes on if begun.")
    ],
    retry: Annotated[
        bool, typer.Option("--retry", help="Ask again for what failed and may have healed.")
    ] = False,
    ca_bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificates to trust instead of the system's."),
    ] = None,
    allow_private: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK", help="May be asked though not public: 10.1.0.0/16."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="A setting: --set reencode.side=336."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Fetch the images of a corpus that is published as addresses.

    Owners who opt out are heeded. Stopped at any point and called again, it goes on where it was.
    """
    from vila_core.jsonio import dumps
    from vila_ops.data import download as downloaded

    report = downloaded.download(
        corpus,
        form,
        to,
        retry=retry,
        ca_bundle=ca_bundle,
        allow_private=allow_private or (),
        overrides=overrides or (),
        quiet=json,
    )
    if json:
        typer.echo(dumps(report.as_json()))
        return
    downloaded.print_report(report, to)


for version_command in data_versions.COMMANDS:
    app.command()(version_command)


@app.command()
def example(
    to: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    samples: Annotated[int, typer.Option(min=50, help="Samples of each corpus.")] = 500,
) -> None:
    """Write small corpora in the published formats, and a recipe that reads them.

    They are the quickstart's miniature world: MMC4, COYO, LLaVA and FLAN files, a tokenizer and
    evaluation sets.
    """
    from vila_ops.data.example import write_example

    names = write_example(to, samples)
    typer.echo(f"written: {to} ({', '.join(names)}, tokenizer, eval, recipe.yaml)")
