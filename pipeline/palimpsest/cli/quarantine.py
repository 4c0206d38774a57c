"""`palimpsest quarantine`."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from palimpsest.cli.console import explained, line, out, print_json
from palimpsest.cli.options import Corpus, Json
from palimpsest.errors import UsageError
from palimpsest.report.tables import Rows


def quarantine(
    corpus: Corpus,
    reason: Annotated[str, typer.Option(help="Only records with this reason.")] = "",
    source: Annotated[str, typer.Option(help="Only records of sources whose name contains this.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Records to list; 0 lists all.")] = 50,
    as_json: Json = False,
) -> None:
    """List what could not be processed, with reason and source, also before anything is published.

    palimpsest quarantine corpora/books

    palimpsest quarantine corpora/books --reason invalid_json --source part-0007 --limit 0 --json
    """
    from palimpsest.report.committed import newest
    from palimpsest.report.printable import preview
    from palimpsest.report.quarantine import read_quarantine, records

    with explained():
        store, snapshot = newest(corpus)
        found = read_quarantine(store, snapshot)
        if reason and reason not in found.reasons:
            there = ", ".join(found.reasons) or "none: the quarantine is empty"
            raise UsageError(f"--reason {reason!r}: no record has it; reasons in this corpus: {there}")
        matching = records(store, snapshot.units, reason, source)
        listed = [record for record in (islice(matching, limit) if limit else matching)]
    rows = [
        {
            "reason": record.reason,
            "source_uri": record.source_uri,
            "source_id": record.source_id,
            "detail": record.detail,
            "record": preview(record.record or b"", 120),
        }
        for record in listed
    ]
    if as_json:
        print_json({"snapshot": snapshot.number, "reasons": found.reasons, "records": rows})
        return
    where = f"snapshot {snapshot.number} of {corpus}" if snapshot.number else f"{corpus}: nothing is published"
    if not found.by_reason:
        line(f"The quarantine is empty ({where}).")
        return
    groups = [(group.name, f"{group.count:,}", f"{len(group.sources):,}") for group in found.by_reason]
    out.print(Rows(f"quarantine ({where})", ("reason", ">records", ">sources"), groups))
    line("")
    columns = ("reason", "source", "id", "detail", "record")
    out.print(Rows("records", columns, [tuple(value or "" for value in row.values()) for row in rows]))
    total = sum(source in name and reason in ("", group.name) and entry.count for group in found.by_reason
                for name, entry in group.sources.items())  # fmt: skip
    if total > len(rows):
        line(f"{len(rows)} of {total:,} records; --limit 0 lists all")
