"""`palimpsest`: the commands. Each one parses, calls one function of the pipeline, and prints what it returns."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from palimpsest import __version__, telemetry
from palimpsest.cli import console
from palimpsest.cli.bench_quality import (
    bench_coverage,
    bench_fidelity,
    bench_memory,
    bench_public,
    bench_readers,
    bench_retier,
    bench_storages,
    bench_tiers,
    bench_use,
)
from palimpsest.cli.bench_speed import (
    bench_encode,
    bench_gpu,
    bench_ingest,
    bench_loading,
    bench_render,
    bench_run,
    bench_scaling,
    bench_verify,
)
from palimpsest.cli.conversations import conversations
from palimpsest.cli.corpus import fsck, gc, inspect, report
from palimpsest.cli.doctor import doctor
from palimpsest.cli.erase import erase
from palimpsest.cli.export import export_app
from palimpsest.cli.fit import fit
from palimpsest.cli.ingest import ingest
from palimpsest.cli.plan import plan
from palimpsest.cli.presets import presets
from palimpsest.cli.quarantine import quarantine
from palimpsest.cli.retier import retier
from palimpsest.cli.run import run
from palimpsest.cli.snapshots import snapshots
from palimpsest.cli.status import status
from palimpsest.cli.submit import submit
from palimpsest.cli.train_codec import train_codec
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
bench_app = typer.Typer(no_args_is_help=True, help="Measure this machine and this codec.")


class Command(TyperCommand):
    """A command whose help ends with its examples, each on a line of its own that can be copied, however narrow the terminal."""

    def __init__(self, *args: Any, help: str | None = None, **options: Any) -> None:
        lines = (help or "").splitlines()
        self.examples = [line.strip() for line in lines if line.strip().startswith("palimpsest ")]
        described = "\n".join(line for line in lines if not line.strip().startswith("palimpsest "))
        super().__init__(*args, help=described.strip(), **options)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        if self.examples:
            typer.echo(" Examples:\n")
            for example in self.examples:
                typer.echo(f"   {example}")
            typer.echo()


PANELS: dict[str, tuple[Any, ...]] = {
    "Make a corpus": (run, ingest, retier, erase, conversations, submit),
    "Look at it": (inspect, report, quarantine, snapshots, status),
    "Check it and tidy up": (verify, fsck, gc),
    "Before you begin": (doctor, presets, plan, fit),
    "Lab": (train_codec,),
}
BENCHES = (
    *(bench_render, bench_encode, bench_verify, bench_run, bench_ingest, bench_loading, bench_scaling, bench_gpu),
    *(bench_fidelity, bench_storages, bench_coverage, bench_readers, bench_public, bench_tiers, bench_retier),
    *(bench_memory, bench_use),
)

for panel, functions in PANELS.items():
    for function in functions:
        app.command(function.__name__.replace("_", "-"), cls=Command, rich_help_panel=panel)(function)
for function in BENCHES:
    bench_app.command(function.__name__.removeprefix("bench_"), cls=Command)(function)
for exporting in export_app.registered_commands:
    exporting.cls = Command
app.add_typer(export_app, name="export", rich_help_panel="Make a corpus")
app.add_typer(bench_app, name="bench", rich_help_panel="Lab")
bench_app.callback()(console.needs_lab)


def _show_version(asked: bool) -> None:
    if asked:
        console.line(f"palimpsest {__version__}")
        raise typer.Exit()


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no events on stderr; errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every event on stderr.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON lines on stderr (or PALIMPSEST_LOG=json).")] = False,
) -> None:
    console.quiet_libraries()
    console.set_verbosity(-1 if quiet else 1 if verbose else 0)
    if log_json:
        telemetry.use_json()


def main() -> None:
    console.any_encoding()
    app()


if __name__ == "__main__":
    main()
