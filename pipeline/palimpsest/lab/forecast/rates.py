"""Rates that were measured, each with the file that says so; others are refused, or extrapolated by a formula that is named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palimpsest.codecs.modes import MODES

MEASURED, GIVEN, EXTRAPOLATED = "measured", "given", "extrapolated"
PLANTED = "3%"  # errors in the drafts of the verification rate that counts: what a codec near its target makes
SAME_CODEC = {"unlimited-ocr": "deepseek-ocr"}  # another checkpoint of the same architecture and size
HOW = {
    "encode": "palimpsest bench encode --write docs/results, or bench gpu",
    "verify": "palimpsest bench verify --write docs/results, or bench gpu",
    "job": "palimpsest bench run --write docs/results",
}


class NotMeasured(ValueError):
    """An unmeasured rate on this kind of device; the message names the measured ones and what to do."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Pages per second of one device.

    Attributes:
        stage: encode, verify; job (all stages of a machine together); render, supply (of one core).
        device: as the result's file name says it: "h100-80gb-hbm3", "xeon-2-cores".
        codec, mode, reader: that it was measured with; "" where they do not matter.
        basis: measured, given or extrapolated.
        source: the file, or who gave it.
        formula: how it was extrapolated.
        tokens: text tokens of a page as it was measured; 0 where they do not matter.
        tflops: bfloat16 matmul rate of the device in the same run.
    """

    stage: str
    device: str
    pages_per_second: float
    codec: str = ""
    mode: str = ""
    reader: str = ""
    basis: str = MEASURED
    source: str = ""
    formula: str = ""
    tokens: float = 0.0
    tflops: float = 0.0

    def to_json(self) -> dict[str, Any]:
        named = {"stage": self.stage, "mode": self.mode or None, "device": self.device, "pages_per_second": self.pages_per_second}
        return {**named, "basis": self.basis, "source": self.source, "formula": self.formula or None}


def results_folder() -> Path:
    """`docs/results` of a clone of the repository."""
    return Path(__file__).parents[4] / "docs" / "results"


def measured_rates(folder: Path) -> list[Rate]:
    """The rates in a folder of results, the newest last.

    Raises:
        ValueError: for a folder that is not there, or a result that is no JSON.
    """
    if not folder.is_dir():
        raise ValueError(
            f"--results {str(folder)!r}: no such folder; name one with results of `palimpsest bench`, or give --rate"
        )
    found: list[Rate] = []
    for path in sorted(folder.glob("*_*_*.json"), key=lambda path: path.stem.rpartition("_")[2]):
        theme, device, _ = path.stem.split("_", 2)
        reader = _READERS.get(theme)
        if reader is None:
            continue
        try:
            payload = json.loads(path.read_text("utf-8"))
            rates = [rate for rate in reader(payload) if rate.pages_per_second > 0]
            tflops = float((payload.get("machine") or {}).get("bf16_matmul_tflops") or 0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: no result of `palimpsest bench {theme}`: {type(error).__name__} {error}") from error
        found += [replace(rate, device=device, source=path.name, tflops=tflops) for rate in rates]
    return found


def parse_rate(text: str) -> Rate:
    """`--rate STAGE[/MODE]=PAGES_PER_SECOND`.

    Raises:
        ValueError: with the choices.
    """
    name, equals, number = text.partition("=")
    stage, _, mode = name.strip().partition("/")
    try:
        rate = float(number)
    except ValueError:
        rate = 0.0
    if not equals or stage not in HOW or not 0 < rate < float("inf") or (mode and mode not in MODES):
        raise ValueError(
            f"--rate {text!r}: expected STAGE=PAGES_PER_SECOND of one device, or STAGE/MODE=…; stages: {', '.join(HOW)}; "
            f"modes: {', '.join(MODES)}"
        )
    return Rate(stage=stage, device="", mode=mode, pages_per_second=rate, basis=GIVEN, source="--rate")


def find_rate(
    rates: Sequence[Rate],
    stage: str,
    device: str,
    *,
    codec: str,
    mode: str,
    reader: str = "",
    extrapolate: bool = False,
    tflops: float = 0.0,
) -> Rate:
    """The rate of a stage on a kind of device: given, else measured, else (if asked) extrapolated from the nearest that was.

    Args:
        device: a word of the device's name, for example h100; "cpu" for a machine without a GPU.
        tflops: bfloat16 matmul TFLOP/s of a device on which nothing was measured.

    Raises:
        NotMeasured: with what was measured, and how to measure.
    """
    for rate in rates:
        if rate.basis == GIVEN and rate.stage == stage and rate.mode in ("", mode):
            return replace(rate, device=device, mode=mode)
    codec = SAME_CODEC.get(codec, codec)
    like = [rate for rate in rates if rate.stage == stage and rate.codec == codec and rate.reader in ("", reader)]
    like = [rate for rate in like if rate.basis == MEASURED]
    here = [rate for rate in like if is_device(rate, device)]
    for rate in reversed(here):
        if rate.mode == mode:
            return rate
    if extrapolate and stage != "job":
        nearest = sorted(reversed(here or like), key=lambda rate: abs(MODES[rate.mode].px - MODES[mode].px))
        for rate in nearest:
            if made := _extrapolated(rate, device, mode, rates, tflops, other_device=not here):
                return made
    known = sorted({f"{rate.stage} {rate.mode} on {rate.device}" for rate in rates if rate.codec == codec and rate.stage in HOW})
    raise NotMeasured(
        f"{stage} of codec {codec!r}{f', reader {reader}' if reader else ''} in mode {mode!r} was never measured on {device!r}. "
        f"Measured of this codec: {', '.join(known) or 'nothing'}. Measure it there ({HOW[stage]}), give --rate {stage}=…"
        + (", or name --tflops of the device for --extrapolate" if extrapolate else ", or let --extrapolate guess")
    )


def is_device(rate: Rate, device: str) -> bool:
    """Whether a rate was measured on a device of this kind."""
    if device == "cpu":
        return rate.device.endswith("-cores")
    return device in rate.device.split("-") or device == rate.device


def _extrapolated(rate: Rate, device: str, mode: str, rates: Iterable[Rate], tflops: float, *, other_device: bool) -> Rate | None:
    factor, formula = 1.0, f"{rate.pages_per_second:.4g} pages/s measured in {rate.mode} on {rate.device}"
    if rate.mode != mode and rate.tokens:  # a decoder's pass: the context and the text
        before, after = (MODES[name].num_context_tokens + rate.tokens for name in (rate.mode, mode))
        factor *= before / after
        formula += f" x ({before:,.0f} tokens / {after:,.0f} tokens of context and text)"
    elif rate.mode != mode:
        before, after = MODES[rate.mode].px, MODES[mode].px
        factor *= (before / after) ** 2
        formula += f" x ({before} px / {after} px)^2"
    if other_device:
        there = tflops or next((other.tflops for other in rates if is_device(other, device) and other.tflops), 0.0)
        if not (there and rate.tflops):
            return None
        factor *= there / rate.tflops
        formula += f" x {there:.4g} / {rate.tflops:.4g} bf16 matmul TFLOP/s"
    guessed = rate.pages_per_second * factor
    return replace(rate, device=device, mode=mode, pages_per_second=guessed, basis=EXTRAPOLATED, formula=formula)


def _codec(payload: dict[str, Any]) -> str:
    return str(payload["codec"]).split()[0]


def _encode(payload: dict[str, Any]) -> list[Rate]:
    best: dict[str, float] = {}
    for row in payload["rows"]:
        best[row["mode"]] = max(best.get(row["mode"], 0.0), row["pages_per_second"])
    return [Rate(stage="encode", device="", codec=_codec(payload), mode=m, pages_per_second=rate) for m, rate in best.items()]


def _verify(payload: dict[str, Any]) -> list[Rate]:
    if payload["greedy_tokens_per_page"] >= payload["max_new_tokens"]:
        return []  # the pages were cut off: how long a whole one takes is not known
    made = Rate(stage="verify", device="", codec=_codec(payload), mode=payload["mode"], reader="generative", pages_per_second=0.0)
    made = replace(made, tokens=payload["greedy_tokens_per_page"])
    rows = [row for row in payload["rows"] if row["planted_errors"] == PLANTED]
    return [replace(made, pages_per_second=row["pages_per_second"]) for row in rows[:1]]


def _gpu(payload: dict[str, Any]) -> list[Rate]:
    if payload["model"] != "DeepSeek-OCR":
        return []
    made = Rate(stage="encode", device="", codec="deepseek-ocr", pages_per_second=0.0)
    rows = payload.get("encode", ())
    found = [replace(made, mode=row["mode"], pages_per_second=row["fast_pages_per_second"]) for row in rows]
    made = replace(made, stage="verify", mode="small", reader="generative", tokens=payload.get("verify_tokens_per_page", 0))
    for row in payload.get("verify", ()):
        if row["planted_errors"] == PLANTED and row["corrections"]:
            found.append(replace(made, pages_per_second=row["pages_per_second"]))
    return found


def _run(payload: dict[str, Any]) -> list[Rate]:
    verified, rate = payload["config"]["verification"], payload["rows"][0]["pages_per_second"]
    if verified["share"] != 1 or rate is None:
        return []
    made = Rate(stage="job", device="", codec=_codec(payload), mode=payload["mode"], pages_per_second=rate)
    return [replace(made, reader=verified["reader"])]


def _render(payload: dict[str, Any]) -> list[Rate]:
    rows = [row for row in payload["rows"] if row["script"] == "latin"]
    return [Rate(stage="render", device="", mode=row["mode"], pages_per_second=row["ours"]) for row in rows]


def _scaling(payload: dict[str, Any]) -> list[Rate]:
    return [Rate(stage="supply", device="", mode=payload["mode"], pages_per_second=payload["supply_pages_per_core_second"])]


_READERS = {"encode": _encode, "verify": _verify, "gpu": _gpu, "run": _run, "render": _render, "scaling": _scaling}
