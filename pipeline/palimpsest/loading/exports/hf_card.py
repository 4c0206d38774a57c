"""The data card of a Hugging Face data set, with a configuration per tier, and its Croissant metadata."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from palimpsest.loading.exports.snapshot_pages import SnapshotPages
from palimpsest.schemas import SHARD

_KINDS = {"string": "sc:Text", "large_string": "sc:Text", "bool": "sc:Boolean", "timestamp[us, tz=UTC]": "sc:DateTime"}


def card(pages: SnapshotPages, licence: str) -> str:
    """README.md: `configs:` for the hub, then counts, precision, codec and columns."""
    facts = pages.facts()
    tiers = sorted(pages.counts["tier"])
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
    lines += [f"- snapshot {pages.corpus.snapshot.number}, {pages.pages:,} pages", f"- licence of the texts: {licence}"]
    lines += [f"- {pages.text_tokens:,} text tokens in {pages.context_tokens:,} context tokens ({ratio:.2f}x)"]
    lines += [f"- mean precision of {pages.verified:,} verified pages: {mean}"]
    for name, counts in pages.counts.items():
        lines += [f"- {name}: " + (", ".join(f"{value} {count:,}" for value, count in sorted(counts.items())) or "none")]
    lines += ["", "| column | type |", "|---|---|", *(f"| {field.name} | `{field.type}` |" for field in SHARD), ""]
    return "\n".join(lines)


def croissant(pages: SnapshotPages, licence: str) -> dict[str, Any]:
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
        "description": f"Visual tokens of {pages.pages:,} text pages, snapshot {pages.corpus.snapshot.number}",
        "license": licence,
        "distribution": [repository, files],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "pages", "name": "pages", "field": fields}],
    }
