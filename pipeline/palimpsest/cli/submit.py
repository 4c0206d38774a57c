"""`palimpsest submit`."""

from __future__ import annotations

from typing import Annotated

import typer

from palimpsest.cli.console import err, explained, line, out, pairs, print_json

Options = Annotated[list[str] | None, typer.Option()]


def submit(
    preset: Annotated[str, typer.Argument(help="Name of a preset (see `palimpsest presets`) or path of a TOML file.")],
    address: Annotated[str, typer.Option(help="The cluster's Ray dashboard.")] = "http://127.0.0.1:8265",
    command: Annotated[str, typer.Option(help="What the job does: run or ingest.")] = "run",
    source: Annotated[list[str] | None, typer.Option("--source", "-s", help="URI, or absolute path; may be repeated.")] = None,
    target: Annotated[str | None, typer.Option("--out", "-o", help="The corpus to write.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")] = None,
    tag: Annotated[str, typer.Option(help="Part of the job's id: a date for a nightly job, another word to run it again.")] = "",
    env: Annotated[list[str] | None, typer.Option(help="Name of a variable whose value is passed on; may be repeated.")] = None,
    ship_code: Annotated[bool, typer.Option("--ship-code", help="Send this package along, where the image has none.")] = False,
    python: Annotated[str, typer.Option(help="The interpreter on the cluster.")] = "python",
    driver_cpus: Annotated[float, typer.Option(min=0, help="CPUs to reserve for the job's driver; 0 runs it on the head.")] = 0.0,
    log_json: Annotated[bool, typer.Option("--log-json", help="The job logs JSON lines.")] = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Show the job's log and wait for its end.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; no values of variables.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Submit a job to a running Ray cluster; the exit code is the job's.

    The same preset, overrides, command and tag are the same job: submitting it again attaches to it, or tells how it ended.

        palimpsest submit cpu-cluster --source s3://texts/books/ --out s3://corpora/books --tag 2026-11-23

        palimpsest submit gpu-cluster --command ingest -s s3://texts/news/ -o s3://corpora/news --no-follow --json
    """
    from dataclasses import asdict, replace

    from palimpsest.config import JobConfig, load
    from palimpsest.operations import submit as jobs

    with explained():
        config: JobConfig = load(preset, overrides or ())
        config = config.replace(sources=tuple(source) if source else config.sources, out=target or config.out)
        submission = jobs.prepare(
            config,
            command=command,
            tag=tag,
            environment=env or (),
            json_logs=log_json,
            ship_code=ship_code,
            python=python,
            driver_cpus=driver_cpus,
        )
        if dry_run:
            shown = submission.shown()
            if as_json:
                print_json(shown)
                return
            settings = shown.pop(jobs.FILE)
            out.print(pairs("what would be sent", shown))
            line(f"\n{jobs.FILE}:\n{settings}")
            return
        client = jobs.connect(address)
        outcome = jobs.submit(client, submission)
        done = "attached to" if outcome.attached else "submitted"
        err.print(f"{done} {outcome.submission_id} ({outcome.status})", markup=False, soft_wrap=True)
        if follow:
            followed = jobs.follow(client, outcome.submission_id, jobs.to_stderr)
            outcome = replace(followed, attached=outcome.attached)
    if as_json:
        print_json({**asdict(outcome), "address": address})
    else:
        line(f"{outcome.submission_id}: {outcome.status}{_ending(outcome)}")
    if outcome.code:
        raise typer.Exit(outcome.code)


def _ending(outcome: object) -> str:
    code, message = getattr(outcome, "exit_code", None), getattr(outcome, "message", "")
    said = f", exit code {code}" if code else ""
    if getattr(outcome, "status", "") in ("FAILED", "STOPPED"):
        said += f": {message.splitlines()[0] if message else ''} (another --tag runs it again)"
    return said
