"""`palimpsest snapshots`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from palimpsest.cli.console import explained, line, out, print_json


def snapshots(
    corpus: Annotated[str, typer.Argument(help="The corpus: a directory, or s3://bucket/prefix.")],
    last: Annotated[int, typer.Option(min=1, help="How many of the newest versions.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """The published versions of a corpus, and what each changed against the one before.

    `context tokens`: the cost of the pages in a context, pages kept as text by their own tokens; `new`: bytes of shards that the
    version before does not have; `shared`: shards that both have.

    palimpsest snapshots corpora/books

    palimpsest snapshots s3://corpora/news --last 5 --json
    """
    from dataclasses import asdict

    from palimpsest.operations.status import list_versions

    with explained():
        found = list_versions(corpus, last)
    if as_json:
        print_json([asdict(version) for version in found])
        return
    if not found:
        line(f"nothing is published in {corpus}")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "published, UTC", "units", "added", "dropped", "pages", "context tokens", "bytes", "new", "shared", "tiers"):
        table.add_column(name, justify="left" if name in ("published, UTC", "tiers") else "right", no_wrap=True)
    for version in found:
        shared = "?" if version.shards_shared is None else f"{version.shards_shared:,}/{version.shards:,}"
        counts = ("?" if count is None else f"{count:,}" for count in (version.added, version.dropped))
        table.add_row(
            str(version.number),
            f"{version.published:%Y-%m-%d %H:%M}",
            f"{version.units:,}",
            *counts,
            f"{version.pages:,}",
            f"{version.context_tokens:,}",
            f"{version.bytes:,}",
            "?" if version.bytes_new is None else f"{version.bytes_new:,}",
            shared,
            ", ".join(f"{tier} {pages:,}" for tier, pages in version.tiers.items()),
        )
    out.print(table)
