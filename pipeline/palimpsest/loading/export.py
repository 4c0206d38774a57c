"""One snapshot as the data set of another tool: Hugging Face, Lance, WebDataset. Each page is in it once.

Every function raises UsageError for a target that is not empty, and Damaged where a shard is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.corpus.reader import Corpus
from palimpsest.corpus.shards import ShardRecord, parquet_body, read_shard
from palimpsest.errors import UsageError
from palimpsest.schemas import SHARD

COUNTED = ("tier", "status", "text_class", "codec", "codec_revision", "token_dtype")
SHARD_BYTES = 256 << 20  # of a WebDataset tar
_KINDS = {"string": "sc:Text", "large_string": "sc:Text", "bool": "sc:Boolean", "timestamp[us, tz=UTC]": "sc:DateTime"}


def export_hf(corpus: Corpus, target: Path, *, licence: str = "unknown") -> dict[str, Any]:
    """A folder that `datasets.load_dataset` and the Hugging Face hub take: shards by tier, a data card, Croissant metadata.

    The shards are written again, because `datasets` refuses a file with a map column: `extra` becomes a list of keys and values.

    Args:
        licence: of the texts, for the card: an identifier of the hub, as "apache-2.0".
    """
    _empty(target)
    totals = _Totals()
    for shard, table in _tables(corpus, totals):
        into = target / "data" / shard.tier / Path(shard.key).name
        into.parent.mkdir(parents=True, exist_ok=True)
        into.write_bytes(parquet_body(_without_maps(table)))
    (target / "README.md").write_text(_card(corpus, totals, licence), "utf-8")
    (target / "croissant.json").write_text(json.dumps(_croissant(corpus, totals, licence), indent=1) + "\n", "utf-8")
    return totals.facts()


def push_hf(folder: Path, repository: str, *, private: bool = True) -> str:
    """Upload an exported folder to a data set repository of the hub, which is created where it is not there; its URL.

    The endpoint and the token are those of huggingface_hub (HF_ENDPOINT, HF_TOKEN).
    """
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
    api.upload_folder(repo_id=repository, repo_type="dataset", folder_path=str(folder), commit_message="palimpsest export hf")
    return str(url)


def export_lance(corpus: Corpus, target: Path) -> dict[str, Any]:
    """A Lance data set with the columns of the row contract; `extra` is a list of keys and values, because Lance has no maps."""
    import lance

    _empty(target)
    totals = _Totals()

    def batches() -> Iterator[pa.RecordBatch]:
        for _, table in _tables(corpus, totals):
            yield from _without_maps(table).to_batches()

    lance.write_dataset(pa.RecordBatchReader.from_batches(PLAIN, batches()), str(target), schema=PLAIN)
    return totals.facts()


def export_webdataset(corpus: Corpus, target: Path) -> dict[str, Any]:
    """Tars of WebDataset: of each page `json` (the short columns), `txt`, and, of its tokens, `tokens.bin` and `scales.bin`."""
    from webdataset import ShardWriter

    _empty(target)
    target.mkdir(parents=True, exist_ok=True)
    totals = _Totals()
    with ShardWriter(f"{target}/pages-%06d.tar", maxcount=1 << 40, maxsize=SHARD_BYTES, verbose=0) as writer:
        for _, table in _tables(corpus, totals):
            for row in table.to_pylist():
                payload = {"tokens.bin": row.pop("tokens"), "scales.bin": row.pop("token_scales"), "txt": row.pop("text")}
                row["timestamp"] = None if row["timestamp"] is None else row["timestamp"].isoformat()
                parts = {name: value for name, value in payload.items() if value is not None}
                writer.write({"__key__": row["page_id"], "json": row, **parts})
    return totals.facts()


class _Totals:
    """Counts for the card."""

    def __init__(self) -> None:
        self.pages = self.text_tokens = self.context_tokens = self.verified = 0
        self.precision = 0.0
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}

    def add(self, table: pa.Table) -> None:
        self.pages += table.num_rows
        self.text_tokens += pc.sum(table["num_text_tokens"]).as_py() or 0
        self.context_tokens += pc.sum(table["num_context_tokens"]).as_py() or 0
        self.verified += table.num_rows - table["precision"].null_count
        self.precision += pc.sum(table["precision"]).as_py() or 0.0
        for name, counts in self.counts.items():
            counts.update(value for value in table[name].to_pylist() if value is not None)

    def facts(self) -> dict[str, Any]:
        mean = self.precision / self.verified if self.verified else None
        named = {"pages": self.pages, "text_tokens": self.text_tokens, "context_tokens": self.context_tokens}
        return {**named, "verified_pages": self.verified, "mean_precision": mean, **{n: dict(c) for n, c in self.counts.items()}}


def _shards(corpus: Corpus) -> Iterator[ShardRecord]:
    for unit in corpus.snapshot.units:
        yield from unit.shards


def _tables(corpus: Corpus, totals: _Totals) -> Iterator[tuple[ShardRecord, pa.Table]]:
    for shard in _shards(corpus):
        table = read_shard(corpus.store, shard, verify=True)
        table = pa.table([_column(table, field) for field in SHARD], schema=SHARD)
        totals.add(table)
        yield shard, table


def _column(table: pa.Table, field: pa.Field) -> Any:
    """A column as the row contract has it; null where an older shard lacks it."""
    return table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)


def _without_map(field: pa.Field) -> pa.Field:
    if not pa.types.is_map(field.type):
        return field
    entry = pa.struct([pa.field("key", field.type.key_type, nullable=False), pa.field("value", field.type.item_type)])
    return pa.field(field.name, pa.list_(entry))


PLAIN = pa.schema([_without_map(field) for field in SHARD])
"""The row contract without maps, which neither `datasets` nor Lance knows."""


def _without_maps(table: pa.Table) -> pa.Table:
    return pa.table([column.cast(field.type) for column, field in zip(table.columns, PLAIN, strict=True)], schema=PLAIN)


def _empty(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{str(target)!r} is not empty: an export needs a new or empty folder")


def _card(corpus: Corpus, totals: _Totals, licence: str) -> str:
    facts = totals.facts()
    tiers = sorted(totals.counts["tier"])
    configs = ["configs:", "- config_name: all", "  default: true", '  data_files: "data/*/*.parquet"']
    for tier in tiers:
        configs += [f"- config_name: {tier}", f'  data_files: "data/{tier}/*.parquet"']
    ratio = facts["text_tokens"] / facts["context_tokens"] if facts["context_tokens"] else 0.0
    mean = "unverified" if facts["mean_precision"] is None else f"{facts['mean_precision']:.4f}"
    lines = ["---", f"license: {licence}", *configs, "---", "", "# Visual tokens of text pages", ""]
    lines += [
        "Made by [Palimpsest](https://pypi.org/project/palimpsest): text pages as visual tokens, with what can be read of them.",
        "",
    ]
    lines += [f"- snapshot {corpus.snapshot.number}, {totals.pages:,} pages", f"- licence of the texts: {licence}"]
    lines += [f"- {totals.text_tokens:,} text tokens in {totals.context_tokens:,} context tokens ({ratio:.2f}x)"]
    lines += [f"- mean precision of {totals.verified:,} verified pages: {mean}"]
    for name, counts in totals.counts.items():
        lines += [f"- {name}: " + (", ".join(f"{value} {count:,}" for value, count in sorted(counts.items())) or "none")]
    lines += ["", "| column | type |", "|---|---|", *(f"| {field.name} | `{field.type}` |" for field in SHARD), ""]
    return "\n".join(lines)


def _croissant(corpus: Corpus, totals: _Totals, licence: str) -> dict[str, Any]:
    """Metadata by the Croissant format 1.0 (https://docs.mlcommons.org/croissant)."""
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"pages/{field.name}",
            "name": field.name,
            "dataType": _KINDS.get(str(field.type), "sc:Integer" if pa.types.is_integer(field.type) else "sc:Float")
            if not pa.types.is_nested(field.type)
            and not pa.types.is_large_binary(field.type)
            and not pa.types.is_binary(field.type)
            else "sc:Text",
            "source": {"fileSet": {"@id": "shards"}, "extract": {"column": field.name}},
        }
        for field in SHARD
    ]
    files = {"@type": "cr:FileSet", "@id": "shards", "name": "shards", "containedIn": {"@id": "repository"}}
    files |= {"encodingFormat": "application/x-parquet", "includes": "data/*/*.parquet"}
    repository = {"@type": "cr:FileObject", "@id": "repository", "name": "repository", "contentUrl": ".", "sha256": "unknown"}
    repository |= {"encodingFormat": "git+https"}
    return {
        "@context": {
            "@language": "en",
            "@vocab": "https://schema.org/",
            "sc": "https://schema.org/",
            "cr": "http://mlcommons.org/croissant/",
            "conformsTo": "http://purl.org/dc/terms/conformsTo",
            **{name: f"cr:{name}" for name in ("column", "extract", "field", "fileSet", "includes", "recordSet", "source")},
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        },
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "palimpsest-pages",
        "description": f"Visual tokens of {totals.pages:,} text pages, snapshot {corpus.snapshot.number}",
        "license": licence,
        "distribution": [repository, files],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "pages", "name": "pages", "field": fields}],
    }
