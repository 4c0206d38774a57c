"""`palimpsest plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from palimpsest.cli.console import explained, line, out, pairs, print_json
from palimpsest.report.tables import NONE, Rows, share, size


def plan(
    preset: Annotated[str, typer.Argument(help="A preset of `palimpsest run`, by name or path.")] = "local",
    source: Annotated[list[str] | None, typer.Option("--source", "-s", help="Sample this file, folder, glob or URI.")] = None,
    sample_megabytes: Annotated[float, typer.Option(help="Stored bytes of the sources that are read.", min=0.001)] = 8.0,
    documents: Annotated[float, typer.Option(help="Documents, where no --source is named.", min=0)] = 0,
    characters: Annotated[float, typer.Option(help="Characters of one document.", min=0)] = 0,
    pages: Annotated[float, typer.Option(help="Pages, where you know them.", min=0)] = 0,
    text_tokens: Annotated[float, typer.Option(help="Text tokens of the whole corpus, where you know them.", min=0)] = 0,
    characters_per_page: Annotated[float, typer.Option(help="Of a full page; 0: the grid's cells.", min=0)] = 0,
    tier: Annotated[list[str] | None, typer.Option(help="Share of the pages in a tier, TIER=SHARE; may be repeated.")] = None,
    gpu: Annotated[str, typer.Option(help="Kind of device as results name it: h100, h200; cpu for a machine without GPU.")] = "",
    rate: Annotated[
        list[str] | None, typer.Option(help="A rate of your own: encode=40, verify/small=25, job=30 pages/s of one device.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Folder with measured rates; by default the repository's.")] = None,
    extrapolate: Annotated[bool, typer.Option("--extrapolate", help="Guess rates that were not measured, and say how.")] = False,
    tflops: Annotated[float, typer.Option(help="bfloat16 matmul TFLOP/s of the device, for --extrapolate.", min=0)] = 0,
    deadline: Annotated[str, typer.Option(help="Until when, for example 72h or 2d: says how many devices.")] = "",
    price: Annotated[float, typer.Option(help="Of one device for an hour.", min=0)] = 0,
    storage: Annotated[str, typer.Option(help="Token storage, bf16 or int8; by default the preset's.")] = "",
    utilisation: Annotated[float, typer.Option(help="Share of rented time in which a device works on pages.")] = 0.9,
    retries: Annotated[float, typer.Option(help="Share of the pages that is done twice.")] = 0.0,
    interruptions: Annotated[float, typer.Option(help="Of a device, per hour (spot machines).")] = 0.0,
    lost_seconds: Annotated[float, typer.Option(help="Of a device per interruption: replacing it, loading, work lost.")] = 300.0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Pages, device hours, machines, bytes and cost of a corpus, from measured rates; nothing is run.

    palimpsest plan local --documents 1e6 --characters 4000

    palimpsest plan local --source texts/ --price 0.1 --json

    palimpsest plan gpu-cluster --set codec.name=deepseek-ocr --set verification.reader=generative --documents 1e9 \
--characters 4000 --gpu h100 --rate encode=40 --rate verify=20 --deadline 72h --price 2.5
    """
    from palimpsest.lab.forecast.forecast import forecast

    with explained():
        result = forecast(
            preset, overrides or [], source=source or [], sample_megabytes=sample_megabytes, gpu=gpu, rates=rate or [],
            results=results, extrapolate=extrapolate, tflops=tflops, deadline=deadline, tiers=_shares(tier or []),
            numbers={"documents": documents, "characters": characters, "pages": pages, "text_tokens": text_tokens,
                     "characters_per_page": characters_per_page},
            terms={"price": price, "storage": storage, "utilisation": utilisation, "retries": retries,
                   "interruptions": interruptions, "lost_seconds": lost_seconds},
        )  # fmt: skip
    print_json(result) if as_json else _print(result)


def _shares(given: list[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            shares[name.strip()] = float(number)
        except ValueError:
            raise typer.BadParameter(f"--tier {text!r}: expected TIER=SHARE, for example tiny=0.7") from None
    return shares


def _print(result: dict[str, Any]) -> None:
    sizes = result["storage_bytes"]
    storages = ", ".join(
        f"{name} {size(sizes[name])} ({result['bytes_per_page'][name]:,.0f} a page, "
        f"{result['bytes_per_text_token'][name]:.3g} a text token)"
        for name in sizes
    )
    values: dict[str, Any] = {
        "pages": f"{_count(result['pages'])}: " + ", ".join(f"{t} {_count(n)}" for t, n in result["pages_by_tier"].items()),
        "text": f"{_count(result['text_tokens'])} tokens, {_count(result['characters'])} characters",
        "hours": ", ".join(f"{stage} {hours:,.4g}" for stage, hours in result["hours"].items())
        + f"; with idle time and losses {result['total_hours']:,.4g} device hours ({result['device']})",
    }
    if result["machines"] is not None:
        values["devices"] = f"{result['machines']:,} for {result['terms']['deadline_hours']:g} h"
    if result["cores_per_device"] is not None:
        values["cores"] = f"{result['cores_per_device']:.2g} to supply one device"
    values["tokens stored"] = storages
    if result["cost"] is not None:
        values["cost"] = (
            f"{result['cost']:,.4g}; {result['cost_per_million_pages']:,.4g} a million pages, "
            f"{result['cost_per_billion_text_tokens']:,.4g} a billion text tokens"
        )
    out.print(pairs(f"plan {result['preset']}: {result['codec']}, {result['grid']}, {result['tiers']}", values))
    if sample := result["sample"]:
        error = sample["pages_standard_error"]
        sure = "the whole corpus" if error == 0 else "one unit: the error is unknown" if error is None else f"pages ± {error:.2%}"
        classes = ", ".join(f"{name} {share(part)}" for name, part in sample["classes"].items())
        line(
            f"sample: {sample['units']} of {sample['of_units']} units, {sample['pages']:,} pages of {sample['documents']:,} "
            f"documents, {sample['characters_per_page']:,.0f} characters a page ({sure}); {classes}"
        )
    for point in result["operating_points"]:
        folded = point["folded_precision"]
        line(
            f"operating point: {point['mode']}, {point['text_class']}: {point['ratio']:.3g}x, "
            f"{'precision' if folded is None else 'folded precision'} {point['precision'] if folded is None else folded:.1%} "
            f"(p5 {point['p5']:.1%}), {point['basis'].upper()} ({point['source'][:80]})"
        )
    for rate in result["rates"]:
        how = f" = {rate['formula']}" if rate["formula"] else ""
        named = " ".join(filter(None, (rate["stage"], rate["mode"])))
        line(f"rate: {named} {rate['pages_per_second']:,.4g} pages/s, {rate['basis'].upper()}{how} ({rate['source']})")
    kinds = []
    for kind in result["kinds"]:
        hours = [NONE if (spent := kind[f"{stage}_hours"]) is None else f"{spent:,.4g}" for stage in ("encode", "verify", "job")]
        devices = NONE if kind["machines"] is None else f"{kind['machines']:,}"
        kinds.append((kind["device"], *hours, f"{kind['total_hours']:,.4g}", devices, kind["basis"]))
    columns = ("device", ">encode h", ">verify h", ">whole job h", ">device hours", ">devices", "rates")
    out.print("", Rows("by kind of device", columns, kinds), sep="\n")
    rows = [
        (
            row["what"],
            _count(row["pages"]),
            f"{row['hours']:,.4g}",
            f"{row['change']:+.2%}",
            NONE if row["machines"] is None else f"{row['machines']:,}",
            size(row["token_bytes"]),
            NONE if row["cost"] is None else f"{row['cost']:,.4g}",
        )
        for row in result["sensitivity"]
    ]
    out.print("", Rows("what if", ("what", ">pages", ">hours", ">change", ">devices", ">tokens stored", ">cost"), rows), sep="\n")
    for said in result["assumed"]:
        line(f"assumed: {said}")


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e7 else f"{number:,.4g}"
