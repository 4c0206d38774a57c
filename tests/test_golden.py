"""Today's behaviour, pinned: fingerprints, ids, rows, pixels, schemas, metrics; commands are in test_golden_commands.py.

What is recorded in tests/golden is the same on every machine with a CPU: what a model computes is pinned by its shape only.
Parquet bytes are those of one version of the library that writes them, and are compared with that version only; what they say
is pinned apart from it. Where a change is meant, record it and read the diff:

    pytest tests/test_golden.py tests/test_golden_commands.py --update-golden
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

# All that this test takes from the package; the rest of the file names no module of it.
from palimpsest.codecs.modes import MODES
from palimpsest.codecs.token_storage import STORAGES
from palimpsest.config import ConfigError, SourceConfig, load, to_json
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.manifest import SCHEMA as MANIFEST
from palimpsest.corpus.shards import write_quarantine, write_shards
from palimpsest.corpus.units import unit_id
from palimpsest.flow.plan import document_ids, make_plan
from palimpsest.flow.recipe import Recipe
from palimpsest.operations.conversations.build import sample_fingerprint
from palimpsest.operations.conversations.settings import MemoryConfig, with_clock
from palimpsest.operations.resolving import identify
from palimpsest.pages.layouts.grid import Grid
from palimpsest.pages.layouts.protocol import page_id
from palimpsest.pages.normalise import normalise
from palimpsest.schemas import DOCUMENTS, IMAGES, PAGES, QUARANTINE, SHARD, TOKENS, VERDICTS
from palimpsest.settings import presets_folder
from palimpsest.sources.documents import Reason, document_id
from palimpsest.sources.listing import expand
from palimpsest.storage.local_store import LocalStore
from palimpsest.telemetry import METRICS
from tests.golden_corpus import Corpus, Pin, corpus, digest, pin, same_versions
from tests.mixed_sources import ARABIC, CHINESE, LONG, TABLE

__all__ = ["corpus", "pin"]  # the fixtures
SCHEMAS = {
    "documents": DOCUMENTS,
    "pages": PAGES,
    "images": IMAGES,
    "tokens": TOKENS,
    "verdicts": VERDICTS,
    "shard": SHARD,
    "quarantine": QUARANTINE,
    "manifest": MANIFEST,
}
GRIDS = ("16x8", "40x20", "64x32", "80x40", "96x48", "100x37", "112x56", "128x64", "256x128")
PRESETS = ("conversations", "cpu-cluster", "demo", "gpu-cluster", "local")  # of jobs; the others train the codec
OVERRIDES = (
    ("layout.grid=80x40",),
    ("layout.alphabet=unicode",),
    ("layout.max_escaped_share=0.5",),
    ("tiers.mode=small",),
    ("tiers.policy=age", "tiers.as_of=2026-01-31"),
    ("tiers.policy=age", "tiers.as_of=2026-01-31", 'tiers.ages=["1h small", "1w tiny"]', "layout.grid=80x40"),
    ("tiers.policy=importance", "tiers.pin_importance=0.8"),
    ("tiers.policy=fidelity", "layout.grid=80x40"),
    ("tiers.policy=age+importance+fidelity", "tiers.as_of=2026-01-31", "layout.grid=80x40"),
    ("tiers.policy=fidelity", "tiers.predictor=none"),
    ("verification.share=0.1",),
    ("verification.reader=generative",),
    ("verification.early_stop=true",),
    ("storage.tokens=bf16",),
    ("codec.dtype=float32",),
    ("codec.fast=off",),
    ("source.format=text",),
    ("storage.row_group_bytes=1000",),
    ("limits.quarantine_share=0.5", "placement.encode_workers=9", "ingest.tries=1", "source.unit_bytes=1000000"),
)
TEXTS = {
    "prose": LONG,
    "table": TABLE,
    "spaces and tabs": "def f(x):\n\treturn x" + " " * 70 + "# done\n\n    end  \n",
    "chinese": CHINESE,
    "arabic": ARABIC,
    "escapes": "caf\u00e9 \U0001f600 na\u00efve \u2603 \u0416",
}
MEASURED = (
    *("tokens", "token_scales", "tokens_sha256", "precision", "folded_precision", "set_precision", "misread", "word_precision"),
    *("decoder_passes", "blank_precision"),
)
"""Columns that depend on what a model computed, whose last bits differ from one kind of CPU to another; so do `exact`,
`decoded_text` and, where there is a target, `status`."""


def fingerprints(preset: str, *overrides: str) -> dict[str, str]:
    """What identifies a job: its fingerprint, its codec and what is drawn; or why there is no such job."""
    memory = preset == "conversations"
    config: Any = load(preset, overrides, MemoryConfig) if memory else load(preset, overrides)
    try:
        prepared: Recipe = identify(with_clock(config) if memory else config)
    except ConfigError as error:
        return {"refused": str(error)}
    found = {
        "fingerprint": prepared.fingerprint,
        "codec": f"{prepared.codec} {prepared.revision}",
        "layout": f"{prepared.layout} {prepared.layout.described}",
        "tiers": prepared.policy.described,
    }
    return found | ({"samples": sample_fingerprint(config, prepared)} if memory else {})


def test_the_presets_have_their_names_settings_and_fingerprints(pin: Pin) -> None:
    pin("preset_names", sorted(path.stem for path in presets_folder().glob("*.toml")))
    kinds: dict[str, Any] = {"conversations": {"kind": MemoryConfig}}
    settings = json.dumps({name: to_json(load(name, **kinds.get(name, {}))) for name in PRESETS})
    pin("preset_settings", json.loads(settings.replace(f"{presets_folder()}/", "")))
    pin("preset_fingerprints", {name: fingerprints(name) for name in PRESETS})


def test_overrides_change_the_fingerprint_as_they_did(pin: Pin) -> None:
    pin("override_fingerprints", {" ".join(overrides): fingerprints("local", *overrides) for overrides in OVERRIDES})


def test_layouts_have_their_fingerprints(pin: Pin) -> None:
    found = {f"{grid} {alphabet}": Grid.parse(grid, alphabet).identity for grid in GRIDS for alphabet in ("unicode", "latin")}
    pin("layout_fingerprints", found)


# pages


def test_texts_have_their_ids_pages_and_pixels(pin: Pin) -> None:
    found: dict[str, Any] = {"documents": {name: document_id(text) for name, text in TEXTS.items()}, "pages": {}}
    for grid in (Grid(64, 32, "latin"), Grid(64, 32), Grid(80, 40, "latin"), Grid(128, 64)):
        for name, text in TEXTS.items():
            pages = list(grid.paginate(normalise(text), "prose"))
            ids = (page_id(document_id(text), number, grid.identity) for number in range(len(pages)))
            layout = [
                [key, page.char_start, page.char_end, page.escaped, digest(page.drawing)]
                for key, page in zip(ids, pages, strict=True)
            ]
            pixels = {
                mode: digest(grid.render([""] * len(pages), [page.drawing for page in pages], MODES[mode].px).tobytes())
                for mode in MODES
            }
            found["pages"][f"{grid} {grid.alphabet}: {name}"] = {"layout": layout, "pixels": pixels}
    pin("pages", found)


def test_units_have_their_ids(pin: Pin) -> None:
    version_, left_out = "sha256:" + "0" * 64, ("d1 u1", "d0 u1")
    found = {
        "whole": unit_id("/data/a.txt", version_, "", "f" * 16),
        "slice": unit_id("/data/a.jsonl", version_, "0-1000", "f" * 16),
        "bucket": unit_id("s3://bucket/a.txt", "etag:1", "", "f" * 16),
        "duplicates": unit_id("/data/\u00e4.txt", version_, "", "f" * 16, left_out),
    }
    pin("unit_ids", found)


# a corpus


def steady(table: pa.Table, corpus: Corpus) -> pa.Table:
    """Rows with all that a model computed replaced by something of its shape, and versions as `Corpus.version` has them."""
    rows = table.to_pylist()
    for row in rows:
        row["source_version"] = corpus.version(row["source_uri"], row["source_version"])
        for name in MEASURED:
            if isinstance(row[name], bytes):
                row[name] = bytes(number % 256 for number in range(len(row[name])))
            elif isinstance(row[name], float):
                row[name] = 0.5
            elif isinstance(row[name], list):
                row[name] = []
        if row["tokens"] is not None:
            row["tokens_sha256"] = digest(row["tokens"])
            row["decoder_passes"] = row["decoder_passes"] and 1
            row["exact"], row["decoded_text"] = row["exact"] and None, None
    return pa.Table.from_pylist(rows, SHARD)


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON: bytes by their size, long text by its hash too."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, bytes):
            found[name] = f"{len(value)} bytes {digest(value)[:16]}"
        elif name == "text":
            found[name] = f"{len(value)} characters {digest(value)}"
        else:
            found[name] = value.isoformat() if hasattr(value, "isoformat") else value
    return found


def test_a_corpus_has_its_counts_and_no_fault(corpus: Corpus, pin: Pin) -> None:
    counts = {name: value for name, value in asdict(corpus.result.counts).items() if name != "bytes"}
    counts |= {
        "units": corpus.result.units_new,
        "snapshot": corpus.result.snapshot,
        "reasons": dict(sorted(corpus.result.reasons.items())),
    }
    pin("corpus_counts", counts)
    assert fsck(LocalStore(corpus.out)) == []


def test_rows_of_a_corpus_are_the_recorded_ones(corpus: Corpus, pin: Pin) -> None:
    """Ids, spans, text, tiers, tokens' shapes, exactly; what is computed has its type, and tokens have the hash that they say."""
    found = []
    for key, table in corpus.shards():
        assert key.startswith("data/") and key.endswith(".parquet")
        for row in table.to_pylist():
            assert row["tokens"] is None or row["tokens_sha256"] == digest(row["tokens"])
            assert row["precision"] is None or (0 <= row["precision"] <= 1 and row["decoder_passes"] >= 1)
            assert row["fingerprint"] == corpus.prepared.fingerprint
        found += [{"folder": key.split("/")[1], **shown(row)} for row in steady(table, corpus).to_pylist()]
    pin("corpus_rows", found)


def test_the_quarantine_of_a_corpus_is_the_recorded_one(corpus: Corpus, pin: Pin) -> None:
    found = []
    for table in corpus.quarantines():
        for row in table.to_pylist():
            row["source_version"] = corpus.version(row["source_uri"], row["source_version"])
            found.append(shown({name: value for name, value in row.items() if name != "unit_id"}))
    pin("corpus_quarantine", found)


def test_a_plan_gives_units_their_ids_and_duplicates_their_owners(corpus: Corpus, pin: Pin) -> None:
    """With the keys that the sources would have in /data; the ids of the run itself are made of where they lay."""
    config, fingerprint, store = SourceConfig(), corpus.prepared.fingerprint, LocalStore(corpus.base / "nothing")
    real = {item.uri: item for item in expand(["sources"], config)}
    ours = make_plan(
        store,
        None,
        real.values(),
        config,
        fingerprint,
        lambda units, config: iter([document_ids(unit, config) for unit in units]),
    )
    assert {planned.unit_id for planned in ours.todo} == {unit.unit_id for unit in corpus.snapshot.units}
    items = [replace(item, key=f"/data/{item.uri}", version=corpus.version(item.uri, item.version)) for item in real.values()]
    plan = make_plan(
        store, None, items, config, fingerprint,
        lambda units, config: iter([document_ids(replace(unit, object=real[unit.object.uri]), config) for unit in units]),
    )  # fmt: skip
    found = {
        planned.unit.object.uri: {"id": planned.unit_id, "left_out": planned.left_out, "defers_to": planned.defers_to}
        for planned in plan.todo
    }
    pin("planned_units", found)


def test_shards_have_their_bytes(corpus: Corpus, pin: Pin) -> None:
    """Steady rows written as shards; their sizes and hashes are those of one version of the library that writes Parquet."""
    store, unit, attempt = LocalStore(corpus.base / "steady"), "0" * 24, "1" * 12
    rows = pa.concat_tables(steady(table, corpus) for _, table in corpus.shards())
    shards = write_shards(store, rows, unit_id=unit, attempt=attempt, row_group_bytes=20_000)
    bad = pa.concat_tables(corpus.quarantines()).to_pylist()
    bad = [{**row, "unit_id": unit, "source_version": corpus.version(row["source_uri"], row["source_version"])} for row in bad]
    quarantine = write_quarantine(store, pa.Table.from_pylist(bad, QUARANTINE), unit_id=unit, attempt=attempt)
    assert quarantine is not None
    records = [asdict(shard) for shard in (*shards, quarantine)]
    pin("shard_records", [{name: record[name] for name in ("key", "tier", "rows")} for record in records])
    same_versions(pin, "shard_bytes", ("pyarrow",), records)


# contracts


def test_schemas_are_the_recorded_ones(pin: Pin) -> None:
    found = {name: [[field.name, str(field.type), field.nullable] for field in schema] for name, schema in SCHEMAS.items()}
    pin("schemas", found)


def test_names_that_people_and_machines_rely_on_are_the_recorded_ones(pin: Pin) -> None:
    pin("names", {"reasons": list(Reason), "modes": {n: asdict(m) for n, m in MODES.items()}, "storages": sorted(STORAGES)})


def test_metrics_are_the_recorded_ones(pin: Pin) -> None:
    pin("metrics", {name: {**asdict(metric), "exported": metric.exported(name)} for name, metric in METRICS.items()})
