"""`palimpsest plan`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palimpsest.cli.console import explained, line, out, pairs, print_json
from palimpsest.report.tables import NONE, Rows, share, size

if TYPE_CHECKING:
    from palimpsest.codecs.presets import CodecPreset
    from palimpsest.config import JobConfig
    from palimpsest.lab.forecast.rates import Rate

PUBLISHED_DIMS = {"deepseek-ocr": 1280, "unlimited-ocr": 1280, "deepseek-ocr-2": 1280}  # where no checkpoint is here to ask


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


def forecast(
    preset: str,
    overrides: list[str],
    *,
    source: list[str],
    sample_megabytes: float,
    numbers: dict[str, float],
    tiers: dict[str, float],
    gpu: str,
    rates: list[str],
    results: Path | None,
    extrapolate: bool,
    tflops: float,
    deadline: str,
    terms: dict[str, Any],
) -> dict[str, Any]:
    """The command's result as names and values.

    Raises:
        ValueError: for numbers, shares or rates that are missing or cannot be; the message says which.
    """
    from palimpsest.codecs.modes import MODES
    from palimpsest.codecs.presets import find_preset
    from palimpsest.config import ConfigError, JobConfig, load
    from palimpsest.lab.forecast.estimate import Speeds, Terms, estimate, sensitivity
    from palimpsest.lab.forecast.workload import given_workload, sampled_workload
    from palimpsest.operations.run import concrete_layout
    from palimpsest.pages.layouts import make_layout
    from palimpsest.tiers.clock import parse_duration
    from palimpsest.tiers.policy import policy_of
    from palimpsest.tiers.published import published_points

    config = load(preset, overrides, JobConfig)
    codec = find_preset(config.codec.name)
    config = config.replace(layout=concrete_layout(config.layout, codec), sources=tuple(source))
    layout = make_layout(config.layout)
    config, policy = policy_of(config, layout, _revision(codec, config))
    given = {name: value for name, value in numbers.items() if value}
    if source:
        if given:
            raise ConfigError(f"--{next(iter(given)).replace('_', '-')}: with --source these numbers come from the sample")
        work = sampled_workload(config, layout, policy, megabytes=sample_megabytes, tiers=tiers)
    else:
        work = given_workload(layout, policy, tiers=tiers, **given)
    checked = config.verification
    supposed = Terms(
        verified=checked.share,
        controlled=checked.control_share,
        deadline_hours=parse_duration(deadline, "--deadline").total_seconds() / 3600 if deadline else 0.0,
        **{**terms, "storage": terms["storage"] or config.storage.tokens},
    )
    device = gpu or "cpu"
    known = _rates(rates, results)
    speeds: Speeds = _speeds(known, list(work.encodes), config, device, extrapolate, tflops)
    modes = {mode.name: mode for mode in (codec.modes or tuple(MODES.values()))}
    dim, dim_from = _token_dim(codec, config)
    found = estimate(work, speeds, supposed, modes, dim)

    def on(kind: str) -> Any:
        there = _speeds(known, list(work.encodes), config, kind, extrapolate, tflops if kind == device else 0.0)
        return there, estimate(work, there, supposed, modes, dim)

    return {
        "preset": preset,
        "codec": codec.name,
        "grid": str(layout),
        "tiers": policy.described,
        "device": device,
        "documents": work.documents,
        "characters": work.characters,
        "pages": work.pages,
        "text_tokens": work.text_tokens,
        "pages_by_tier": dict(work.tiers),
        "encodes_by_mode": dict(work.encodes),
        "sample": dict(work.sample) or None,
        "rates": [used.to_json() for used in speeds.used()],
        "kinds": _kinds(known, config, device, on),
        "terms": {name: getattr(supposed, name) for name in Terms.__dataclass_fields__},
        **found.to_json(),
        "token_dim": dim,
        "operating_points": [asdict(point) for point in published_points(codec.name) if point.mode in work.encodes],
        "sensitivity": sensitivity(work, speeds, supposed, modes, dim),
        "assumed": [*work.assumed, *_assumed(speeds, supposed, dim_from)],
    }


def _kinds(known: list[Rate], config: JobConfig, device: str, on: Callable[[str], Any]) -> list[dict[str, Any]]:
    """The same corpus on every kind of device on which this codec was measured; a given rate is of the named device alone."""
    from palimpsest.lab.forecast.rates import GIVEN, SAME_CODEC, NotMeasured, is_device

    codec = SAME_CODEC.get(config.codec.name, config.codec.name)
    measured = {rate.device for rate in known if rate.codec == codec and rate.stage in ("encode", "verify", "job")}
    others = [] if any(rate.basis == GIVEN for rate in known) else sorted(measured)
    rows: list[dict[str, Any]] = []
    for kind in [device, *(k for k in others if not any(is_device(r, device) for r in known if r.device == k))]:
        try:
            speeds, found = on(kind)
        except NotMeasured:
            continue  # not in these modes, or not with this reader
        bases = {rate.basis for rate in speeds.used() if rate.stage != "supply"}
        hours = {stage: found.hours.get(stage) for stage in ("encode", "verify", "job")}
        rows.append(
            {
                "device": kind,
                **{f"{stage}_hours": spent for stage, spent in hours.items()},
                "total_hours": found.total_hours,
                "machines": found.machines,
                "basis": ", ".join(sorted(bases)),
            }
        )
    return rows


def _shares(given: list[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            shares[name.strip()] = float(number)
        except ValueError:
            raise typer.BadParameter(f"--tier {text!r}: expected TIER=SHARE, for example tiny=0.7") from None
    return shares


def _rates(given: list[str], folder: Path | None) -> list[Rate]:
    from palimpsest.lab.forecast.rates import measured_rates, parse_rate, results_folder

    own = [parse_rate(text) for text in given]
    if folder is None and own and not results_folder().is_dir():
        return own  # installed without the repository: what is given has to do
    return [*measured_rates(folder or results_folder()), *own]


def _speeds(known: list[Rate], modes: list[str], config: JobConfig, device: str, extrapolate: bool, tflops: float) -> Any:
    """Rates by stage where all of them are there, else of whole jobs where these are."""
    from palimpsest.lab.forecast.estimate import Speeds
    from palimpsest.lab.forecast.rates import NotMeasured, find_rate

    checked = config.verification
    wanted: dict[str, Any] = {"codec": config.codec.name, "extrapolate": extrapolate, "tflops": tflops}

    def by_mode(stage: str) -> dict[str, Rate]:
        reader = "" if stage == "encode" else checked.reader
        return {mode: find_rate(known, stage, device, mode=mode, reader=reader, **wanted) for mode in modes}

    cores = [one for one in known if one.stage == "supply"]
    core = cores[-1] if cores else None
    try:
        return Speeds(encode=by_mode("encode"), verify=by_mode("verify") if checked.share else {}, job={}, core=core)
    except NotMeasured as missing:
        try:
            if checked.share != 1:
                raise missing
            return Speeds(encode={}, verify={}, job=by_mode("job"))
        except NotMeasured:
            raise missing from None


def _revision(codec: CodecPreset, config: JobConfig) -> str:
    """Of the checkpoint, where it is here: only rungs that were measured ask for it."""
    from palimpsest.codecs import checkpoint

    try:
        return checkpoint.identify(codec, config.codec.path, revision=config.codec.revision)[1]
    except checkpoint.CheckpointError:
        return codec.revision or ""


def _token_dim(codec: CodecPreset, config: JobConfig) -> tuple[int, str]:
    """Values of a visual token, and where that is known from."""
    import json

    from palimpsest.codecs import checkpoint

    try:
        folder = checkpoint.locate(codec, config.codec.path, config.codec.revision or codec.revision)
    except checkpoint.CheckpointError:
        if codec.name in PUBLISHED_DIMS:
            return PUBLISHED_DIMS[codec.name], "as published; the checkpoint is not on this machine"
        raise
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    return int((settings.get("text_config") or settings)["hidden_size"]), ""


def _assumed(speeds: Any, terms: Any, dim_from: str) -> list[str]:
    said = [f"a device works on pages {terms.utilisation:.0%} of its time (--utilisation); not measured"]
    if speeds.job:
        said.append("only whole jobs were measured: cores, encoder and decoder are not separate; all pages are verified")
    elif terms.verified:
        said.append("drafts are mostly right (the rate of 3 % errors); a decoder that reads worse takes longer" if any(
            rate.tokens for rate in speeds.verify.values()) else "blank-page controls take as long as their pages")  # fmt: skip
    if any(rate.basis == "extrapolated" for rate in speeds.used()):
        said.append("rates marked extrapolated were not measured")
    if dim_from:
        said.append(f"the width of a token is {dim_from}")
    return [*said, "bytes are those of the tokens before Parquet; texts (text_bytes, compressed) and other columns come on top",
            "every device is as fast as the one measured; where the store or the driver become the limit, see "
            "docs/results/scaling_*"]  # fmt: skip


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
        line(
            f"operating point: {point['mode']}, {point['text_class']}: {point['ratio']:.3g}x, folded precision "
            f"{point['folded_precision']:.1%} (p5 {point['p5']:.1%}), {point['basis'].upper()} ({point['source']})"
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
