"""`palimpsest export hf`, `lance`, `mds`, `webdataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli.console import explained, out, pairs, print_json
from palimpsest.cli.options import Corpus, Json

export_app = typer.Typer(no_args_is_help=True, help="Write one snapshot as the data set of another tool.")
Target = Annotated[Path, typer.Option("--out", "-o", help="A new or empty folder.")]
Snapshot = Annotated[int | None, typer.Option(help="The snapshot; the newest by default.")]


@export_app.command("hf")
def hf(
    corpus: Corpus,
    target: Target,
    snapshot: Snapshot = None,
    licence: Annotated[str, typer.Option(help="Licence of the texts, for the data card.")] = "unknown",
    push: Annotated[str | None, typer.Option(help="Also upload to this data set repository, OWNER/NAME.")] = None,
    as_json: Json = False,
) -> None:
    """A folder for `datasets.load_dataset` and the Hugging Face hub: shards by tier, data card, Croissant metadata.

    palimpsest export hf corpora/books --out books-hf --licence cc-by-4.0
    """
    from palimpsest.loading.exports.hf import push as upload

    with explained():
        facts = _exported("hf", corpus, target, snapshot, licence=licence)
        if push:
            facts["pushed"] = upload(target, push)
    _show(facts, target, as_json)


@export_app.command("lance")
def lance(corpus: Corpus, target: Target, snapshot: Snapshot = None, as_json: Json = False) -> None:
    """A Lance data set; needs palimpsest[export].

    palimpsest export lance corpora/books --out books.lance
    """
    with explained():
        facts = _exported("lance", corpus, target, snapshot)
    _show(facts, target, as_json)


@export_app.command("mds")
def mds(corpus: Corpus, target: Target, snapshot: Snapshot = None, as_json: Json = False) -> None:
    """Shards for MosaicML Streaming (MDS): `streaming.StreamingDataset(local="books-mds", batch_size=8)`.

    palimpsest export mds corpora/books --out books-mds
    """
    with explained():
        facts = _exported("mds", corpus, target, snapshot)
    _show(facts, target, as_json)


@export_app.command("webdataset")
def webdataset(corpus: Corpus, target: Target, snapshot: Snapshot = None, as_json: Json = False) -> None:
    """Tars of WebDataset; needs palimpsest[export].

    palimpsest export webdataset corpora/books --out books-wds
    """
    with explained():
        facts = _exported("webdataset", corpus, target, snapshot)
    _show(facts, target, as_json)


def _exported(name: str, corpus: str, target: Path, snapshot: int | None, **options: Any) -> dict[str, Any]:
    from palimpsest.corpus.reader import Corpus as Reader
    from palimpsest.loading.exports.protocol import export

    return export(name, Reader(corpus, snapshot), target, **options)


def _show(facts: dict[str, Any], target: Path, as_json: bool) -> None:
    print_json({**facts, "out": str(target)}) if as_json else out.print(pairs(f"exported to {target}", facts))
