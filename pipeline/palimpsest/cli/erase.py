"""`palimpsest erase`."""

from __future__ import annotations

from typing import Annotated

import typer

from palimpsest.cli.console import explained, line, out, pairs, print_json


def erase(
    corpus: Annotated[str, typer.Argument(help="The corpus: a directory, or s3://bucket/prefix.")],
    where: Annotated[str, typer.Option("--where", help="Which documents: a condition on the columns of the row contract.")],
    shared: Annotated[
        bool, typer.Option("--shared", help="Go on where other sources left out documents that the same units hold.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Remove documents from every snapshot: text, tokens, decoded text, errata, samples and quarantined records.

    A document is removed whole where one of its pages, samples or quarantined records matches. Older snapshots that have it are
    deleted, and so are reports, which show pages. Let nothing else write to the corpus meanwhile, and remove the text from the
    sources too: a new version of a source is read again.

        palimpsest erase corpora/chats --where "source_id = 'user-17'" --dry-run

        palimpsest erase corpora/chats --where "doc_id = '3f2a90'"
    """
    from palimpsest.operations.erase import erase as remove

    with explained():
        result = remove(corpus, where, shared=shared, dry_run=dry_run)
    if as_json:
        print_json(result.to_json())
        return
    values = {
        "documents": f"{len(result.documents):,}",
        "rows": f"{result.rows:,} of pages, samples and quarantined records, in all snapshots",
        "units": f"{result.units:,} replaced",
        "snapshots": f"{len(result.snapshots):,} deleted" + ("" if dry_run else f"; the newest is {result.snapshot}"),
        "objects": f"{len(result.deleted):,} deleted",
    }
    out.print(pairs("erasure (nothing was written)" if dry_run else f"erased from {corpus}", values))
    if not dry_run:
        line(f'Proof: palimpsest fsck {corpus} --absent "{where}"')
