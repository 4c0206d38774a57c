"""The forecast of a corpus: its workload at measured rates, as names and values for `palimpsest plan`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from palimpsest.codecs import checkpoint
from palimpsest.codecs.modes import MODES
from palimpsest.codecs.presets import CodecPreset, find_preset
from palimpsest.config import ConfigError, JobConfig, load
from palimpsest.lab.forecast.estimate import Speeds, Terms, estimate, sensitivity
from palimpsest.lab.forecast.rates import (
    GIVEN,
    SAME_CODEC,
    NotMeasured,
    Rate,
    find_rate,
    is_device,
    measured_rates,
    parse_rate,
    results_folder,
)
from palimpsest.lab.forecast.workload import given_workload, sampled_workload
from palimpsest.operations.resolving import concrete_layout
from palimpsest.pages.layouts.registry import make_layout
from palimpsest.tiers.clock import parse_duration
from palimpsest.tiers.operating_points.measured import measured_points
from palimpsest.tiers.operating_points.published import published_points
from palimpsest.tiers.policies.protocol import policy_of

PUBLISHED_DIMS = {"deepseek-ocr": 1280, "unlimited-ocr": 1280, "deepseek-ocr-2": 1280}  # where no checkpoint is here to ask


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
    """The forecast as names and values.

    Raises:
        ValueError: for numbers, shares or rates that are missing or cannot be; the message says which.
    """

    config = load(preset, overrides, JobConfig)
    codec = find_preset(config.codec.name)
    config = config.replace(layout=concrete_layout(config.layout, codec), sources=tuple(source))
    layout = make_layout(config.layout)
    revision, named = _revision(codec, config), config.tiers.predictor
    config, policy = policy_of(config, layout, revision)
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
    estimated = estimate(work, speeds, supposed, modes, dim)

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
        **estimated.to_json(),
        "token_dim": dim,
        "operating_points": [
            asdict(point)
            for point in (*published_points(codec.name), *measured_points(named, revision, layout))
            if point.mode in work.encodes
        ],
        "sensitivity": sensitivity(work, speeds, supposed, modes, dim),
        "assumed": [*work.assumed, *_assumed(speeds, supposed, dim_from)],
    }


def _kinds(known: list[Rate], config: JobConfig, device: str, on: Callable[[str], Any]) -> list[dict[str, Any]]:
    """The same corpus on every kind of device on which this codec was measured; a given rate is of the named device alone."""

    codec = SAME_CODEC.get(config.codec.name, config.codec.name)
    measured = {rate.device for rate in known if rate.codec == codec and rate.stage in ("encode", "verify", "job")}
    others = [] if any(rate.basis == GIVEN for rate in known) else sorted(measured)
    rows: list[dict[str, Any]] = []
    for kind in [device, *(k for k in others if not any(is_device(r, device) for r in known if r.device == k))]:
        try:
            speeds, estimated = on(kind)
        except NotMeasured:
            continue  # not in these modes, or not with this reader
        bases = {rate.basis for rate in speeds.used() if rate.stage != "supply"}
        hours = {stage: estimated.hours.get(stage) for stage in ("encode", "verify", "job")}
        rows.append(
            {
                "device": kind,
                **{f"{stage}_hours": spent for stage, spent in hours.items()},
                "total_hours": estimated.total_hours,
                "machines": estimated.machines,
                "basis": ", ".join(sorted(bases)),
            }
        )
    return rows


def _rates(given: list[str], folder: Path | None) -> list[Rate]:

    own = [parse_rate(text) for text in given]
    if folder is None and own and not results_folder().is_dir():
        return own  # installed without the repository: what is given has to do
    return [*measured_rates(folder or results_folder()), *own]


def _speeds(known: list[Rate], modes: list[str], config: JobConfig, device: str, extrapolate: bool, tflops: float) -> Any:
    """Rates by stage where all of them are there, else of whole jobs where these are."""

    checked = config.verification
    requested: dict[str, Any] = {"codec": config.codec.name, "extrapolate": extrapolate, "tflops": tflops}

    def by_mode(stage: str) -> dict[str, Rate]:
        reader = "" if stage == "encode" else checked.reader
        return {mode: find_rate(known, stage, device, mode=mode, reader=reader, **requested) for mode in modes}

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

    try:
        return checkpoint.identify(codec, config.codec.path, revision=config.codec.revision)[1]
    except checkpoint.CheckpointError:
        return codec.revision or ""


def _token_dim(codec: CodecPreset, config: JobConfig) -> tuple[int, str]:
    """Values of a visual token, and where that is known from."""

    try:
        folder = checkpoint.locate(codec, config.codec.path, config.codec.revision or codec.revision)
    except checkpoint.CheckpointError:
        if codec.name in PUBLISHED_DIMS:
            return PUBLISHED_DIMS[codec.name], "as published; the checkpoint is not on this machine"
        raise
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    return int((settings.get("text_config") or settings)["hidden_size"]), ""


def _assumed(speeds: Any, terms: Any, dim_from: str) -> list[str]:
    notes = [f"a device works on pages {terms.utilisation:.0%} of its time (--utilisation); not measured"]
    if speeds.job:
        notes.append("only whole jobs were measured: cores, encoder and decoder are not separate; all pages are verified")
    elif terms.verified:
        notes.append("drafts are mostly right (the rate of 3 % errors); a decoder that reads worse takes longer" if any(
            rate.tokens for rate in speeds.verify.values()) else "blank-page controls take as long as their pages")  # fmt: skip
    if any(rate.basis == "extrapolated" for rate in speeds.used()):
        notes.append("rates marked extrapolated were not measured")
    if dim_from:
        notes.append(f"the width of a token is {dim_from}")
    return [*notes, "bytes are those of the tokens before Parquet; texts (text_bytes, compressed) and other columns come on top",
            "every device is as fast as the one measured; where the store or the driver become the limit, see "
            "docs/results/scaling_*"]  # fmt: skip
