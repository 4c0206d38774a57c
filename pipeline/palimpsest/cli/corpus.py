"""`palimpsest inspect`, `report`, `fsck` and `gc`: a corpus to look at, to check and to tidy up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli.console import FINDINGS, explained, line, out, print_json
from palimpsest.cli.options import Corpus, Json
from palimpsest.errors import UsageError


def inspect(
    corpus: Corpus,
    page_id: Annotated[str | None, typer.Argument(help="A page: shows its text, what was read, and the difference.")] = None,
    image: Annotated[Path | None, typer.Option(help="Write the page's image to this PNG file.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write page, tokens and what was read back as one PNG; the worst page if none is named.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Counts by tier, status and class; or one page.

    palimpsest inspect corpora/books

    palimpsest inspect corpora/books 3f2a --image page.png

    palimpsest inspect demo/corpus --picture docs/pictures/first-page.png
    """
    from palimpsest.report.inspection import inspect_corpus, inspect_page, write_picture

    with explained():
        if image and not page_id:
            raise UsageError(f"--image {str(image)!r} needs the id of a page")
        if picture:
            line(write_picture(corpus, page_id, picture))
            return
        shown = inspect_page(corpus, page_id, image) if page_id else inspect_corpus(corpus)
    print_json(shown.to_json()) if as_json else out.print(shown.table())


def report(
    corpus: Corpus,
    target: Annotated[
        Path | None, typer.Option("--out", "-o", help="The HTML file; by default into the corpus's newest run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a self-contained HTML page: precision against compression, a gallery, differences, the quarantine.

    palimpsest report corpora/books --out books.html
    """
    from palimpsest.report.inspection import write_report

    with explained():
        path = write_report(corpus, target)
    print_json({"report": path}) if as_json else line(path)


def fsck(
    corpus: Corpus,
    absent: Annotated[
        str | None, typer.Option("--absent", help="Also prove that nothing matches this condition, in no object whatsoever.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every promise of a corpus: records, hashes, rows, orphans.

    palimpsest fsck corpora/books

    palimpsest fsck corpora/chats --absent "source_id = 'user-17'"
    """
    from dataclasses import asdict

    from palimpsest.corpus.format import open_corpus
    from palimpsest.corpus.fsck import fsck as check
    from palimpsest.storage.opening import open_store

    with explained():
        store = open_store(corpus)
        open_corpus(store)
        found = check(store, absent)
    errors = [finding for finding in found if finding.severity == "error"]
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        for finding in found:
            line(f"{finding.severity}: {finding.key}: {finding.what}")
        out.print(f"{len(errors)} errors, {len(found) - len(errors)} warnings")
    if errors:
        raise typer.Exit(FINDINGS)


def gc(
    corpus: Corpus,
    unused_days: Annotated[
        float, typer.Option(min=0, max=36_500, help="Remove what nothing has needed for this many days.")
    ] = 7.0,
    delete: Annotated[bool, typer.Option("--delete", help="Really delete; without it, only list.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what no snapshot needs: a dry run unless --delete is given.

    palimpsest gc corpora/books --unused-days 30 --delete
    """
    from dataclasses import asdict
    from datetime import timedelta

    from palimpsest.corpus.format import open_corpus
    from palimpsest.corpus.gc import gc as collect
    from palimpsest.storage.opening import open_store

    with explained():
        store = open_store(corpus)
        open_corpus(store)
        removals = collect(store, unused_for=timedelta(days=unused_days), delete=delete)
    if as_json:
        print_json([asdict(removal) for removal in removals])
        return
    for removal in removals:
        line(f"{'removed' if delete else 'would remove'} {removal.key}: {removal.why}")
    out.print(f"{len(removals)} objects{'' if delete else ' (dry run; --delete removes them)'}")
