"""`palimpsest bench render`, `encode`, `verify`, `run`, `fidelity`, `ingest`: one part of the pipeline each, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli import console
from palimpsest.cli.console import explained, out, print_json

Set = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Write = Annotated[Path | None, typer.Option(help="Also write the result to this folder, as Markdown and JSON.")]
Text = Annotated[Path | None, typer.Option(help="A file of text to use instead of invented prose.")]


def bench_render(
    seconds: Annotated[float, typer.Option(help="Time per measurement.")] = 3.0, write: Write = None, as_json: Json = False
) -> None:
    """Pages per second of our renderer and of Pillow's, on the same pages.

    palimpsest bench render --seconds 5 --json
    """
    from palimpsest.lab.bench.render import bench_render as measure

    with explained():
        result = measure(seconds=seconds)
    _bench("render", result, write, as_json)


def bench_readers(
    texts: Annotated[Path, typer.Argument(help="JSON lines: name, text, and where known text_class and language (Tesseract's).")],
    images: Annotated[Path | None, typer.Option(help="Folder of page images, NAME.png, to read in the same run.")] = None,
    mode: Annotated[list[str] | None, typer.Option(help="tiny, small, base or large; may be repeated.")] = None,
    pages: Annotated[int, typer.Option(help="Pages of each name.", min=1)] = 5,
    reader: Annotated[list[str] | None, typer.Option(help="tesseract or rapidocr; may be repeated.")] = None,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """How well readers that were never trained on our pages read them: legibility of the pixels, not what a model would do.

    palimpsest bench readers texts.jsonl --mode base --set layout.name=document
    """
    from palimpsest.config import load
    from palimpsest.lab.bench.readers import READERS
    from palimpsest.lab.bench.readers import bench_readers as measure
    from palimpsest.pages.layouts import make_layout

    with explained():
        settings = load("local", tuple(overrides or ())).layout
        name = "document" if settings.name == "codec" else settings.name
        alphabet = "unicode" if settings.alphabet == "codec" else settings.alphabet
        layout = make_layout(settings.replace(name=name, alphabet=alphabet))
        result = measure(texts, layout, mode or ["base"], pages, reader or READERS, images)
    _bench("readers", result, write, as_json)


def bench_encode(text: Text = None, overrides: Set = None, write: Write = None, as_json: Json = False) -> None:
    """Pages per second of the encoder, by mode and batch size.

    palimpsest bench encode --set codec.dtype=float32
    """
    from palimpsest.lab.bench.encode import bench_encode as measure

    with explained():
        result = measure(_local(overrides), text=text)
    _bench("encode", result, write, as_json)


def bench_verify(
    pages: Annotated[int, typer.Option(help="Pages to decode.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(help="Bound of the output, so that plain `generate` ends.")] = 512,
    text: Text = None,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Drafted exact decoding compared with plain `generate`: passes, wall time, identity of the outputs.

    palimpsest bench verify --pages 4 --max-new-tokens 256
    """
    from palimpsest.lab.bench.verify import bench_verify as measure

    with explained():
        result = measure(_local(overrides), pages=pages, max_new_tokens=max_new_tokens, text=text)
    _bench("verify", result, write, as_json)


def bench_run(
    pages: Annotated[int, typer.Option(help="Pages to process.")] = 256,
    sweep: Annotated[bool, typer.Option("--sweep", help="Try several placements.")] = False,
    text: Text = None,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Pages per second through Ray to committed shards, over the bare loop in one process.

    palimpsest bench run --pages 512 --sweep
    """
    from palimpsest.lab.bench.run import bench_run as measure

    with explained():
        result = measure(_local(overrides), pages=pages, sweep=sweep, text=text)
    _bench("run", result, write, as_json)


def bench_fidelity(
    texts: Annotated[Path, typer.Argument(help="JSON lines with `text` and `text_class`.")],
    setting: Annotated[list[str] | None, typer.Option(help="GRID/MODE, for example 80x40/tiny; may be repeated.")] = None,
    max_pages: Annotated[int, typer.Option(help="At most so many pages per class and setting; 0 takes all.")] = 0,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Precision over compression by text class, on texts of your own.

    palimpsest bench fidelity eval.jsonl --setting 64x32/tiny --setting 80x40/tiny
    """
    from palimpsest.lab.bench.fidelity import bench_fidelity as measure
    from palimpsest.lab.bench.fidelity import parse_setting, read_classes

    with explained():
        settings = [parse_setting(text) for text in setting or ["64x32/tiny"]]
        result = measure(_local(overrides), read_classes(texts), settings, max_pages)
    _bench("fidelity", result, write, as_json)


def bench_recorded(
    folder: Annotated[
        Path, typer.Argument(help="Folder with deepseek_ocr_on_*.jsonl: `reference`, and an output for each mode.")
    ],
    dialect: Annotated[str, typer.Option(help="Dialect under which folded precision is measured.")] = "document",
    replay: Annotated[str, typer.Option(help="Kind of pages that a replayed decoder decodes again; '' for none.")] = "from_text",
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Precision and passes of what a real model wrote for pages, from recorded outputs.

    palimpsest bench recorded recordings --dialect document
    """
    from palimpsest.lab.bench.recorded import bench_recorded as measure

    with explained():
        result = measure(folder, dialect, replay)
    _bench("recorded", result, write, as_json)


def bench_ingest(
    objects: Annotated[int, typer.Option(min=1, help="Objects of the nights.")] = 100_000,
    units: Annotated[int, typer.Option(min=1, help="Units of the corpus that one unit is published into.")] = 1_000_000,
    place: Annotated[str | None, typer.Option(help="An empty s3:// prefix for the nights, instead of local files.")] = None,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """The cost of a night when nothing or one object of many changed, and of a publish among many units.

    palimpsest bench ingest --objects 10000 --units 100000 --place s3://bucket/bench
    """
    from palimpsest.lab.bench.ingest import bench_ingest as measure

    with explained():
        result = measure(_local(overrides), objects=objects, units=units, place=place)
    _bench("ingest", result, write, as_json)


def bench_loading(
    pages: Annotated[int, typer.Option(min=64, help="Pages of the corpus that is read.")] = 2048,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """The training loader compared with raw pyarrow, HF streaming and Lance: rates per CPU second.

    palimpsest bench loading --pages 4096
    """
    from palimpsest.lab.bench.loading import bench_loading as measure

    with explained():
        result = measure(pages)
    _bench("loading", result, write, as_json)


def _bench(theme: str, result: dict[str, Any], write: Path | None, as_json: bool) -> None:
    from palimpsest.lab.bench.machine import command_line, table_of, write_results

    if write:
        command = command_line()
        with explained():
            path = write_results(theme, result, write, command=command)
        console.err.print(f"written: {path}", markup=False, soft_wrap=True)
    print_json(result) if as_json else out.print(table_of(theme, result))


def _local(overrides: list[str] | None) -> Any:
    from palimpsest.config import load

    return load("local", overrides or ())
