"""`palimpsest snapshots`."""

from __future__ import annotations

from typing import Annotated

import typer

from palimpsest.cli.console import explained, line, out, print_json
from palimpsest.report.tables import Rows, listed, ratio, size


def snapshots(
    corpus: Annotated[str, typer.Argument(help="The corpus: a directory, or s3://bucket/prefix.")],
    last: Annotated[int, typer.Option(min=1, help="How many of the newest versions.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """The published versions of a corpus, and what each changed against the one before.

    `ratio`: text tokens per context token over all pages, `visual`: over those that are visual tokens; `new`: bytes of shards
    that the version before does not have; `shared`: shards that both have.

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
    columns = (
        "",
        "published, UTC",
        ">units",
        ">added",
        ">dropped",
        ">pages",
        ">ratio",
        ">visual",
        ">stored",
        ">new",
        ">shared",
        "tiers",
    )
    rows = []
    for version in found:
        shared = "?" if version.shards_shared is None else f"{version.shards_shared:,}/{version.shards:,}"
        as_text = version.tokens_as_text
        row = (
            str(version.number),
            f"{version.published:%Y-%m-%d %H:%M}",
            f"{version.units:,}",
            *("?" if count is None else f"{count:,}" for count in (version.added, version.dropped)),
            f"{version.pages:,}",
            ratio(version.text_tokens, version.context_tokens),
            ratio(version.text_tokens - as_text, version.context_tokens - as_text),
            size(version.bytes),
            "?" if version.bytes_new is None else size(version.bytes_new),
            shared,
            listed(version.tiers),
        )
        rows.append(row)
    out.print(Rows(f"snapshots of {corpus}", columns, rows))
