"""How many pages a corpus has, in which modes, and how many tokens: from given numbers, or from a sample of the corpus itself."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import pyarrow.compute as pc

from palimpsest.config import ConfigError, JobConfig
from palimpsest.flow.plan import PlannedUnit, units_table
from palimpsest.flow.stages import Paginate, Read
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.sources.listing import expand
from palimpsest.sources.tables import plan_units
from palimpsest.sources.units import Unit
from palimpsest.tiers.policies.protocol import Policy

TEXT = "text"
CHARACTERS_PER_TOKEN = 4.1  # of English prose in DeepSeek's tokenizer; code and other scripts have fewer
MIB = 1 << 20
UNKNOWN_TIER = "not settled"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A corpus as its pages.

    Attributes:
        documents, characters, text_tokens, text_bytes: of the whole corpus; documents 0 where they are not known.
        tiers: pages by tier; tier `text` has no tokens.
        encodes: pages drawn and encoded by mode; more than `tiers` where a policy tries several.
        assumed: what was not measured on this corpus, in words.
        sample: what was looked at, where a corpus was sampled.
    """

    characters: float
    text_tokens: float
    text_bytes: float
    tiers: Mapping[str, float]
    encodes: Mapping[str, float]
    documents: float = 0.0
    assumed: tuple[str, ...] = ()
    sample: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pages(self) -> float:
        return sum(self.tiers.values())


def given_workload(
    layout: Layout,
    policy: Policy,
    *,
    pages: float = 0.0,
    documents: float = 0.0,
    characters: float = 0.0,
    text_tokens: float = 0.0,
    characters_per_page: float = 0.0,
    tiers: Mapping[str, float] | None = None,
) -> Workload:
    """A workload from numbers.

    Args:
        pages: of the whole corpus; else they follow from `documents` of `characters` each.
        characters: of one document.
        text_tokens: of the whole corpus.
        characters_per_page: of a full page; 0 takes the grid's cells.
        tiers: share of the pages by tier.

    Raises:
        ConfigError: for numbers that do not say how many pages there are.
    """
    assumed = []
    if not characters_per_page:
        characters_per_page = float(layout.capacity)
        assumed.append(
            f"a full page holds {layout.capacity:,} characters, one a cell of {layout} (scripts of wide characters hold half)"
        )
    if pages:
        total = pages * characters_per_page
        assumed.append("all pages are full")
    elif documents and characters:
        total, each = documents * characters, characters / characters_per_page
        pages = documents * max(1.0, each + 0.5)
        assumed.append("the last page of a document is half full")
    else:
        raise ConfigError("how many pages? give --documents with --characters (of one document), or --pages, or --source")
    if not text_tokens:
        text_tokens = total / CHARACTERS_PER_TOKEN
        assumed.append(f"{CHARACTERS_PER_TOKEN} characters make a text token, as in English prose (--text-tokens, or --source)")
    assumed.append("a character is a byte of UTF-8")
    shares = settled_tiers(policy, tiers)
    return Workload(
        documents=documents,
        characters=total,
        text_tokens=text_tokens,
        text_bytes=total,
        tiers={tier: pages * share for tier, share in shares.items()},
        encodes=encodes_of({tier: pages * share for tier, share in shares.items()}, policy),
        assumed=(*assumed, *_about_climbing(policy)),
    )


def settled_tiers(policy: Policy, given: Mapping[str, float] | None) -> dict[str, float]:
    """Share of the pages by tier.

    Raises:
        ConfigError: for a policy that looks at pages and no shares; for shares of unknown tiers, or that do not add up.
    """
    if not given:
        if policy.names != ("fixed",):
            raise ConfigError(
                f"tiers.policy {'+'.join(policy.names)!r}: which tier a page gets depends on the page; give shares "
                "(--tier tiny=0.7 --tier text=0.3), or --source to look at real documents"
            )
        mode = next(iter(policy.modes), None)
        return {mode.name if mode else TEXT: 1.0}
    known = [TEXT, *(mode.name for mode in policy.ladder.modes)]
    for tier, share in given.items():
        if tier not in known or not 0 <= share <= 1:
            raise ConfigError(f"--tier {tier}={share:g}: expected a share from 0 to 1 of one of {', '.join(known)}")
    if abs(sum(given.values()) - 1) > 1e-6:
        raise ConfigError(f"--tier: the shares add up to {sum(given.values()):g}, not to 1")
    return dict(given)


def encodes_of(tiers: Mapping[str, float], policy: Policy) -> dict[str, float]:
    """Pages drawn and encoded, by mode: under a policy that climbs, a page tries every mode below its own, and one that ends as
    text tries all."""
    if not policy.climbs:
        return {tier: pages for tier, pages in tiers.items() if tier != TEXT and pages}
    rungs = [mode.name for mode in sorted(policy.ladder.modes, key=lambda mode: mode.px)]
    tried: Counter[str] = Counter()
    for tier, pages in tiers.items():
        for rung in rungs[: len(rungs) if tier == TEXT else rungs.index(tier) + 1]:
            tried[rung] += pages  # type: ignore[assignment]
    return {rung: pages for rung, pages in tried.items() if pages}


def _about_climbing(policy: Policy) -> tuple[str, ...]:
    if not policy.climbs:
        return ()
    return ("every page climbs from the smallest mode to its own, and is read back in each: a predictor tries fewer",)


@dataclass
class _Seen:
    """Of one sampled unit."""

    size: int
    rows: Counter[str] = field(default_factory=Counter)
    tiers: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)


def sampled_workload(
    config: JobConfig, layout: Layout, policy: Policy, *, megabytes: float = 8.0, tiers: Mapping[str, float] | None = None
) -> Workload:
    """A workload from a sample of the real sources: whole units, drawn at random, read and laid out as a run does it.

    What a stored byte makes of pages, tokens and characters in the sample is taken for all bytes (a ratio estimate); the standard
    error of the pages is known where more than one unit was read. Repeated documents count once within a unit, as in a run; those
    that several units hold count more than once.

    Args:
        megabytes: of stored bytes that are read at most; a first unit that is bigger is read whole.

    Raises:
        ValueError: for sources that do not exist, or a sample without a page.
    """
    units = [(unit, max(1, item.size // len(parts))) for item in expand(config.sources, config.source)
             for parts in [plan_units(item, config.source)] for unit in parts]  # fmt: skip
    whole, seen = sum(size for _, size in units), []
    for unit, size in _drawn(units, int(megabytes * MIB)):
        seen.append(_look(unit, size, config, layout, policy))
    read = sum(unit.size for unit in seen)
    rows: Counter[str] = sum((unit.rows for unit in seen), Counter())
    found: Counter[str] = sum((unit.tiers for unit in seen), Counter())
    if not rows["pages"]:
        raise ConfigError(
            f"the sample ({len(seen)} of {len(units)} units, {read:,} bytes) holds no page; raise --sample-megabytes"
        )
    scale = whole / read
    unsettled = found.pop(UNKNOWN_TIER, 0)
    if unsettled:
        for tier, share in settled_tiers(policy, tiers).items():
            found[tier] += unsettled * share  # type: ignore[assignment]
    elif tiers:
        raise ConfigError("--tier: the sample says which tiers the pages get; leave it out, or leave --source out")
    settled = {tier: pages * scale for tier, pages in sorted(found.items())}
    classes: Counter[str] = sum((unit.classes for unit in seen), Counter())
    error = _relative_error([unit.size for unit in seen], [unit.rows["pages"] for unit in seen], len(units))
    exact = read == whole
    return Workload(
        documents=rows["documents"] * scale,
        characters=rows["characters"] * scale,
        text_tokens=rows["text_tokens"] * scale,
        text_bytes=rows["text_bytes"] * scale,
        tiers=settled,
        encodes=encodes_of(settled, policy),
        assumed=(*(() if exact else ("the other units are like those of the sample",)), *_about_climbing(policy)),
        sample={
            "units": len(seen), "of_units": len(units), "bytes": read, "of_bytes": whole,
            "documents": rows["documents"], "pages": rows["pages"], "quarantined": rows["quarantined"],
            "duplicates": rows["duplicates"],
            "pages_per_document": rows["pages"] / max(1, rows["documents"]),
            "characters_per_document": rows["characters"] / max(1, rows["documents"]),
            "characters_per_page": rows["characters"] / rows["pages"],
            "text_tokens_per_page": rows["text_tokens"] / rows["pages"],
            "classes": {name: pages / rows["pages"] for name, pages in classes.most_common()},
            "pages_standard_error": 0.0 if exact else error,
        },
    )  # fmt: skip


def _drawn(units: list[tuple[Unit, int]], limit: int) -> Iterator[tuple[Unit, int]]:
    """Units in random order, always the same, as long as their bytes stay within the limit; at least one."""
    taken = 0
    for place, (unit, size) in enumerate(random.Random(0).sample(units, len(units))):
        if place and taken + size > limit:
            return
        taken += size
        yield unit, size


def _look(unit: Unit, size: int, config: JobConfig, layout: Layout, policy: Policy) -> _Seen:
    read, paginate, seen = Read(config.source), Paginate(config, layout, policy), _Seen(size)
    table = units_table([PlannedUnit(unit=unit, unit_id="sample")])
    for documents in read(table):
        for rows in paginate(documents):
            kinds = Counter(rows["kind"].to_pylist())
            pages = rows.filter(pc.equal(rows["kind"], "page"))
            texts = pages["text"].to_pylist()
            seen.rows.update(
                pages=pages.num_rows,
                documents=sum(number == 0 for number in pages["page_number"].to_pylist()),
                quarantined=kinds["quarantined"],
                duplicates=kinds["duplicate"],
                characters=sum(map(len, texts)),
                text_bytes=sum(len(text.encode("utf-8", "replace")) for text in texts),
                text_tokens=sum(pages["num_text_tokens"].to_pylist()),
            )
            seen.tiers.update(tier or UNKNOWN_TIER for tier in pages["tier"].to_pylist())
            seen.classes.update(pages["text_class"].to_pylist())
    return seen


def _relative_error(sizes: list[int], pages: list[int], units: int) -> float | None:
    """Standard error of pages per byte over its value, of a ratio estimate from whole units; None for one unit."""
    count = len(sizes)
    if count < 2:
        return None
    ratio, mean = sum(pages) / sum(sizes), sum(sizes) / count
    spread = sum((page - ratio * size) ** 2 for page, size in zip(pages, sizes, strict=True)) / (count - 1)
    return sqrt((1 - count / units) * spread / count) / mean / ratio
