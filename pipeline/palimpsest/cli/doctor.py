"""`palimpsest doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from palimpsest.cli.console import FINDINGS, explained, line, out, print_json
from palimpsest.cli.options import Json
from palimpsest.report.tables import Rows


def doctor(
    uris: Annotated[list[str] | None, typer.Argument(help="Sources or corpora to reach with this machine's credentials.")] = None,
    as_json: Json = False,
) -> None:
    """Check this machine: Python, packages, devices, Ray, fonts, codec, memory, disk, storage; what is wrong and what to do.

    palimpsest doctor

    palimpsest doctor s3://texts/books/ s3://corpora/books
    """
    from palimpsest.operations.doctor import PROBLEM, examine

    with explained():
        checks = examine(uris or ())
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        rows = [(check.state, check.subject, check.detail, check.advice) for check in checks]
        out.print(Rows("", ("state", "checked", "found", "what to do"), rows))
        problems = sum(check.state == PROBLEM for check in checks)
        line(f"\n{problems} problems" if problems else "\nA job can run here.")
    if any(check.state == PROBLEM for check in checks):
        raise typer.Exit(FINDINGS)
