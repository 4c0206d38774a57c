"""`palimpsest export hf`, `lance`, `webdataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli.console import explained, out, pairs, print_json
from palimpsest.cli.options import Corpus, Json
from palimpsest.errors import UsageError

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
    from palimpsest.loading.export import export_hf, push_hf

    with explained():
        facts = export_hf(_opened(corpus, snapshot), target, licence=licence)
        if push:
            facts["pushed"] = push_hf(target, push)
    _show(facts, target, as_json)


@export_app.command("lance")
def lance(corpus: Corpus, target: Target, snapshot: Snapshot = None, as_json: Json = False) -> None:
    """A Lance data set; needs palimpsest[export].

    palimpsest export lance corpora/books --out books.lance
    """
    from palimpsest.loading.export import export_lance

    with explained():
        _need("lance", "pylance")
        facts = export_lance(_opened(corpus, snapshot), target)
    _show(facts, target, as_json)


@export_app.command("webdataset")
def webdataset(corpus: Corpus, target: Target, snapshot: Snapshot = None, as_json: Json = False) -> None:
    """Tars of WebDataset; needs palimpsest[export].

    palimpsest export webdataset corpora/books --out books-wds
    """
    from palimpsest.loading.export import export_webdataset

    with explained():
        _need("webdataset", "webdataset")
        facts = export_webdataset(_opened(corpus, snapshot), target)
    _show(facts, target, as_json)


def _opened(corpus: str, snapshot: int | None) -> Any:
    from palimpsest.corpus.reader import Corpus as Reader

    return Reader(corpus, snapshot)


def _need(module: str, package: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise UsageError(f"{package} is not installed: pip install 'palimpsest[export]'")


def _show(facts: dict[str, Any], target: Path, as_json: bool) -> None:
    print_json({**facts, "out": str(target)}) if as_json else out.print(pairs(f"exported to {target}", facts))
