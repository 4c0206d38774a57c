"""`palimpsest`: the commands. Each one parses, calls one function of the pipeline, and prints what it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest import __version__, telemetry
from palimpsest.cli import console
from palimpsest.cli.bench_gpu import bench_gpu
from palimpsest.cli.bench_memory import bench_memory
from palimpsest.cli.bench_parts import (
    bench_encode,
    bench_fidelity,
    bench_ingest,
    bench_recorded,
    bench_render,
    bench_run,
    bench_verify,
)
from palimpsest.cli.bench_scaling import bench_scaling
from palimpsest.cli.bench_tiers import bench_retier, bench_tiers
from palimpsest.cli.console import FINDINGS, explained, line, out, pairs, print_json
from palimpsest.cli.conversations import conversations
from palimpsest.cli.export import export_app
from palimpsest.cli.ingest import ingest
from palimpsest.cli.options import Corpus, Json, Out, Preset, Set, Sources
from palimpsest.cli.plan import plan
from palimpsest.cli.presets import presets
from palimpsest.cli.progress import LiveLine, TrainingRows
from palimpsest.cli.retier import retier
from palimpsest.cli.snapshots import snapshots
from palimpsest.cli.status import status
from palimpsest.cli.submit import submit
from palimpsest.cli.verify import verify

app = typer.Typer(
    name="palimpsest",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Text corpora in, verified visual-token training data out.\n\n"
    "Exit codes: 0 done, 1 failed, 2 usage, 3 finished with findings.",
)
bench_app = typer.Typer(
    no_args_is_help=True, help="Measure this machine and this codec: render, encode, verify, run, fidelity, gpu."
)
app.add_typer(bench_app, name="bench")
app.add_typer(export_app, name="export")
bench_app.callback()(console.needs_lab)


def _show_version(asked: bool) -> None:
    if asked:
        line(f"palimpsest {__version__}")
        raise typer.Exit()


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines on stderr (or PALIMPSEST_LOG=json).")] = False,
) -> None:
    console.quiet_libraries()
    if log_json:
        telemetry.use_json()


def _config(preset: str, overrides: list[str] | None, sources: list[str] | None = None, target: str | None = None) -> Any:

    from palimpsest.config import JobConfig, load

    config: JobConfig = load(preset, overrides or ())
    return config.replace(sources=tuple(sources) if sources else config.sources, out=target or config.out)


@app.command()
def run(
    preset: Preset = "local",
    source: Sources = None,
    target: Out = None,
    overrides: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the configuration and the plan; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a corpus of text into verified visual-token shards.

    A second run over the same sources does nothing; an interrupted one goes on where it stopped.

        palimpsest run local --source books/ --out corpora/books

        palimpsest run local -s 'logs/*.jsonl.gz' -o corpora/logs --set tiers.mode=small --set layout.grid=80x40
    """
    from palimpsest.operations.run import plan_only
    from palimpsest.operations.run import run as run_job

    with explained():
        config = _config(preset, overrides, source, target)
        if dry_run:
            planned = plan_only(config)
            print_json(planned) if as_json else out.print(pairs("plan (nothing was written)", planned))
            return
        with LiveLine() as progress:
            result = run_job(config, progress)
    if as_json:
        print_json(result.to_json())
        return
    if result.units_new:
        _print_run(result)
    elif not result.unread:
        line(f"Nothing to do: all {result.units_done} units are in snapshot {result.snapshot} of {result.out}.")
    console.passed_over(result.passed_over)
    for lost in result.unread:
        line(f"not read: {lost.source_uri}: {lost.reason}: {lost.detail}; the next run tries again")
    if result.units_waiting:
        line(f"{result.units_waiting} units are committed and wait for these sources to be published")


def _print_run(result: Any) -> None:
    fresh = result.fresh
    ratio = f"{fresh.ratio or 0:.1f}x over all pages, {fresh.visual_ratio or 0:.1f}x over the visual ones"
    values = {
        "snapshot": result.snapshot,
        "units": f"{result.units_new} new, {result.units_done} were done before",
        "documents": f"{fresh.documents_in:,} in = {fresh.documents_committed:,} committed + "
        f"{fresh.documents_quarantined:,} quarantined + {fresh.duplicates:,} duplicates",
        "pages": f"{fresh.pages_committed:,} of {fresh.pages_in:,}",
        "tokens": f"{fresh.text_tokens:,} of text in {fresh.context_tokens:,} of context ({ratio})",
        "speed": f"{result.pages_per_second:.1f} pages/s, {result.seconds:.1f} s ({result.total_seconds:.1f} s with start-up)",
    }
    if result.reasons:
        values["quarantine"] = ", ".join(f"{reason} {count}" for reason, count in sorted(result.reasons.items()))
    out.print(pairs(f"run {result.run_id}", values))
    line(f"\nSee it: palimpsest report {result.out}")


app.command("verify")(verify)


@app.command()
def inspect(
    corpus: Corpus,
    page_id: Annotated[str | None, typer.Argument(help="A page: shows its text, what was read, and the difference.")] = None,
    image: Annotated[Path | None, typer.Option(help="Write the page's image to this PNG file.")] = None,
    as_json: Json = False,
) -> None:
    """Counts by tier, status and class; or one page.

    palimpsest inspect corpora/books

    palimpsest inspect corpora/books 3f2a --image page.png
    """
    from palimpsest.report.inspection import inspect_corpus, inspect_page

    with explained():
        if image and not page_id:
            raise ValueError(f"--image {str(image)!r} needs the id of a page")
        shown = inspect_page(corpus, page_id, image) if page_id else inspect_corpus(corpus)
    print_json(shown.to_json()) if as_json else out.print(shown.table())


@app.command()
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


@app.command()
def fsck(corpus: Corpus, as_json: Json = False) -> None:
    """Check every promise of a corpus: records, hashes, rows, orphans.

    palimpsest fsck corpora/books
    """
    from dataclasses import asdict

    from palimpsest.corpus.format import open_corpus
    from palimpsest.corpus.fsck import fsck as check
    from palimpsest.storage.opening import open_store

    with explained():
        store = open_store(corpus)
        open_corpus(store)
        found = check(store)
    errors = [finding for finding in found if finding.severity == "error"]
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        for finding in found:
            line(f"{finding.severity}: {finding.key}: {finding.what}")
        out.print(f"{len(errors)} errors, {len(found) - len(errors)} warnings")
    if errors:
        raise typer.Exit(FINDINGS)


@app.command()
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


@app.command("train-codec")
def train_codec(
    preset: Preset = "codec-cpu",
    overrides: Set = None,
    reader: Annotated[bool, typer.Option("--reader", help="Tune the cell reader alone, on tokens of a frozen encoder.")] = False,
    export: Annotated[Path | None, typer.Option(help="Only write the checkpoint of the training state to this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Train the embedded codec; resumes from its last saved state.

    The folder `out` gets the state, the log, curves.png and, every `evaluate_every` steps, how much of held-out pages is read.
    With --reader, --export measures errors by character and by word, and refuses weights that read any class worse.

    palimpsest train-codec codec-cpu --set text=codec_text.jsonl --set out=training/codec

    palimpsest train-codec codec-cpu --set out=training/codec --export pipeline/palimpsest/codecs/embedded/weights
    """
    console.needs_lab()
    from palimpsest.lab.training import train_reader
    from palimpsest.lab.training.train_codec import load_config, train

    with explained():
        if reader:
            tuning = train_reader.load_config(preset, overrides or ())
            if export:
                print_json(train_reader.export_reader(tuning, export))
                return
            with LiveLine("training", enabled=not as_json) as live:
                train_reader.train_reader(tuning, TrainingRows(live, as_json))
            return
        config = load_config(preset, overrides or ())
        if export:
            from palimpsest.lab.training.export_codec import export as write

            print_json(write(Path(config.out) / "state.pt", export))
            return
        with LiveLine("training", enabled=not as_json) as live:
            train(config, TrainingRows(live, as_json))


app.command("submit")(submit)
app.command("ingest")(ingest)
app.command("snapshots")(snapshots)
app.command("status")(status)
app.command("retier")(retier)
app.command("conversations")(conversations)
app.command("plan")(plan)
app.command("presets")(presets)
bench_app.command("render")(bench_render)
bench_app.command("encode")(bench_encode)
bench_app.command("verify")(bench_verify)
bench_app.command("run")(bench_run)
bench_app.command("fidelity")(bench_fidelity)
bench_app.command("recorded")(bench_recorded)
bench_app.command("ingest")(bench_ingest)
bench_app.command("tiers")(bench_tiers)
bench_app.command("scaling")(bench_scaling)
bench_app.command("retier")(bench_retier)
bench_app.command("memory")(bench_memory)
bench_app.command("gpu")(bench_gpu)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
