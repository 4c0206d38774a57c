"""The schemas of the pipeline: one Arrow schema per boundary, and the check that enforces it.

    plan      -> UNITS         one row per unit; of a re-tiering TOUCHED, one row per shard
    read      -> DOCUMENTS     one row per document
    paginate  -> PAGES         one row per page, its text laid out on the grid
    render    -> IMAGES        PAGES and the page image
    encode    -> TOKENS        the image replaced by visual tokens, as they will be stored
    verify    -> VERDICTS      TOKENS without `blank`, and what the decoder read back
    write     -> WRITTEN       the messages to the driver: shards and counts, no payloads
    commit    -> SHARD         the published row contract (no Ray types, any Parquet reader)
                 QUARANTINE    records that failed, with the reason

Every boundary carries the CARRIER columns. A row whose kind is not "page" passes the later stages untouched, so that nothing
disappears between a source and its commit record. `conform` checks the columns that each kind of row must have.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc


class RowKind(StrEnum):
    """The kinds of rows between the stages, and of messages to the driver."""

    DOCUMENT = "document"
    PAGE = "page"
    QUARANTINED = "quarantined"  # a record that could not be processed
    DUPLICATE = "duplicate"  # a document that another unit, or an earlier row of this one, stores
    UNIT_END = "unit_end"  # the last row of a unit, with the counts in `control`
    POISONED = "poisoned"  # a document that ends its workers; its unit is processed again without it
    WRITTEN = "written"  # message: shards of a unit were written
    FAILED = "failed"  # message: the store cannot be written
    AGAIN = "again"  # message: a unit is processed again, and its arrived rows do not count


SHARD_RECORD = pa.struct(
    [
        pa.field("key", pa.string()),
        pa.field("tier", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
    ]
)

CONTROL = pa.struct(
    [
        *(pa.field(name, pa.int64()) for name in ("documents_in", "documents", "quarantined", "duplicates", "repeated_ids")),
        pa.field("nulled", pa.map_(pa.string(), pa.int64())),  # metadata that could not be used, by reason
        pa.field("present", pa.map_(pa.string(), pa.int64())),  # documents that have an optional field, by field
        pa.field("committed_elsewhere", pa.bool_()),
        pa.field("shard", pa.string()),
        pa.field("pages", pa.int64()),
        pa.field("kept", pa.list_(SHARD_RECORD)),
    ]
)
"""End of a unit: the reader's counts, or that another run has committed the unit; of a re-tiered shard its key, the pages that
follow, and the shards that hold its other pages now."""

UNITS = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("uri", pa.binary(), nullable=False),  # UTF-8 with surrogates: a file name need not be text
        pa.field("key", pa.binary(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("span", pa.list_(pa.int64())),
        pa.field("left_out", pa.list_(pa.string()), nullable=False),
        pa.field("defers_to", pa.list_(pa.string()), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
    ]
)

TOUCHED = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("shard", SHARD_RECORD, nullable=False),
        pa.field(
            "changes", pa.list_(pa.struct([pa.field("page_id", pa.string()), pa.field("tier", pa.string())])), nullable=False
        ),
    ]
)

CARRIER = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # a RowKind
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("record", pa.binary()),  # the offending bytes, bounded by QUARANTINE_BYTES
        pa.field("control", CONTROL),
    ]
)
QUARANTINE_BYTES = 4096

TRIALS = pa.list_(pa.struct([pa.field("mode", pa.string()), pa.field("precision", pa.float32()), pa.field("met", pa.bool_())]))
"""Modes in which rate control had a page read, in that order: precision of the reading, and whether it met the target."""

SPANS = pa.list_(pa.struct([pa.field("start", pa.int32()), pa.field("end", pa.int32())]))
"""Half-open character spans of a page's text; empty ones (start == end) mark characters that were read and are not there."""

ERRATA = pa.list_(pa.struct([pa.field("position", pa.int32()), pa.field("read", pa.string()), pa.field("written", pa.string())]))
"""Corrections of a page: at character `position` of its text, `written` was read as `read`."""

_DOCUMENT = [
    pa.field("doc_id", pa.string()),
    pa.field("source_id", pa.string()),
    pa.field("source_uri", pa.string()),
    pa.field("source_version", pa.string()),
    pa.field("timestamp", pa.timestamp("us", tz="UTC")),
    pa.field("importance", pa.float32()),
    pa.field("text_class", pa.string()),
    pa.field("extra", pa.map_(pa.string(), pa.string())),
]
DOCUMENTS = pa.schema([*CARRIER, *_DOCUMENT, pa.field("text", pa.large_string())])

_PAGE = [
    pa.field("page_id", pa.string()),
    *_DOCUMENT,
    pa.field("page_number", pa.int32()),
    pa.field("num_pages", pa.int32()),
    pa.field("char_start", pa.int64()),
    pa.field("char_end", pa.int64()),
    pa.field("text", pa.large_string()),
    pa.field("num_text_tokens", pa.int32()),
    pa.field("text_tokenizer", pa.string()),
    pa.field("tier", pa.string()),
    pa.field("mode", pa.string()),
    pa.field("image_px", pa.int32()),
    pa.field("grid_h", pa.int32()),
    pa.field("grid_w", pa.int32()),
    pa.field("layout", pa.string()),
    pa.field("tried", TRIALS),
]
PAGES = pa.schema(
    [
        *CARRIER,
        *_PAGE,
        pa.field("drawing", pa.binary()),  # what its layout needs to draw the page, besides the text
        pa.field("stored_tier", pa.string()),  # of a published page that rate control looks at again
    ]
)
IMAGES = pa.schema([*CARRIER, *_PAGE, pa.field("image", pa.large_binary())])

_TOKENS = [
    pa.field("num_vision_tokens", pa.int32()),
    pa.field("num_context_tokens", pa.int32()),
    pa.field("tokens", pa.large_binary()),
    pa.field("token_dim", pa.int32()),
    pa.field("token_dtype", pa.string()),
    pa.field("token_scales", pa.binary()),
    pa.field("tokens_sha256", pa.string()),
    pa.field("codec", pa.string()),
    pa.field("codec_revision", pa.string()),
    pa.field("fingerprint", pa.string()),
]
BLANK = pa.struct([pa.field("tokens", pa.large_binary()), pa.field("scales", pa.binary())])
"""An empty page of the row's mode in the token storage, for pages whose blank-page control is decoded too."""
TOKENS = pa.schema([*CARRIER, *_PAGE, *_TOKENS, pa.field("blank", BLANK)])

_VERDICT = [
    pa.field("precision", pa.float32()),
    pa.field("folded_precision", pa.float32()),
    pa.field("set_precision", pa.float32()),
    pa.field("word_precision", pa.float32()),
    pa.field("exact", pa.bool_()),
    pa.field("decoder_passes", pa.int32()),
    pa.field("blank_precision", pa.float32()),
    pa.field("decoded_text", pa.large_string()),
    pa.field("misread", SPANS),
    pa.field("errata", ERRATA),
    pa.field("status", pa.string()),
]
VERDICTS = pa.schema([*CARRIER, *_PAGE, *_TOKENS, *_VERDICT])

# The row contract (docs/architecture.md): this order, and the types that the columns have on their way.
_SHARD_COLUMNS = (
    *("page_id", "doc_id", "source_uri", "source_version", "source_id", "page_number", "num_pages", "char_start", "char_end"),
    *("text", "num_text_tokens", "text_tokenizer", "tier", "mode", "image_px", "grid_h", "grid_w", "layout"),
    *(column.name for column in _TOKENS),
    *(column.name for column in _VERDICT),
    *("reason", "tried", "timestamp", "importance", "text_class", "extra"),
)
SHARD = pa.schema([VERDICTS.field(name) for name in _SHARD_COLUMNS])

QUARANTINE = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("source_uri", pa.string()),
        pa.field("source_version", pa.string()),
        pa.field("source_id", pa.string()),
        pa.field("doc_id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("record", pa.binary()),
    ]
)


PAGE_COUNTS = ("first_pages", "pages_expected", "pages", "text_tokens", "context_tokens", "tokens_as_text", "text_bytes")
"""Sums over the pages of a message: first pages of a document, the pages of these documents, pages, tokens, bytes of text."""

WRITTEN = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("source_uri", "source_version", "source_id", "doc_id", "reason", "detail")),
        pa.field("record", pa.binary()),
        pa.field("rows", pa.int64()),  # of kind duplicate
        pa.field("shards", pa.list_(SHARD_RECORD)),
        pa.field("counts", pa.struct([pa.field(name, pa.int64()) for name in PAGE_COUNTS])),
        pa.field(
            "statuses",
            pa.list_(pa.struct([pa.field("tier", pa.string()), pa.field("status", pa.string()), pa.field("pages", pa.int64())])),
        ),
        pa.field("precision", pa.struct([pa.field("total", pa.float64()), pa.field("pages", pa.int64())])),
        pa.field("control", CONTROL),
    ]
)

REQUIRED: Mapping[RowKind, tuple[str, ...]] = {
    RowKind.DOCUMENT: ("doc_id", "source_uri", "source_version", "text"),
    RowKind.PAGE: (
        *("page_id", "doc_id", "source_uri", "source_version", "page_number", "num_pages", "char_start", "char_end", "text"),
        *("num_text_tokens", "text_tokenizer", "layout", "tier", "num_context_tokens", "fingerprint", "status"),
    ),
    RowKind.QUARANTINED: ("source_uri", "reason"),
    RowKind.DUPLICATE: ("doc_id",),
    RowKind.UNIT_END: ("control",),
    RowKind.POISONED: ("doc_id", "detail"),
}
"""Columns that a row of a kind must have, at the boundaries that know them. In PAGES the tier of a page may still be open."""

REQUIRED_WRITTEN: Mapping[RowKind, tuple[str, ...]] = {
    **REQUIRED,
    RowKind.DUPLICATE: ("rows",),
    RowKind.WRITTEN: ("shards", "counts", "statuses", "precision"),
    RowKind.FAILED: ("detail",),
    RowKind.AGAIN: ("detail",),
}


class SchemaMismatch(TypeError):
    """A table does not have the schema of its boundary; the message shows both sides."""


def conform(table: pa.Table, schema: pa.Schema, boundary: str) -> pa.Table:
    """Return `table` with exactly the columns and types of `schema`.

    Columns of type null are cast (a batch of only missing values has no type of its own); columns that are absent from the table
    and nullable in the schema are filled with nulls. Then every row must have the columns that its kind requires.

    Raises:
        SchemaMismatch: for an unknown column, a missing required one, a type that differs, an unknown kind of row, or a null in a
            column that its kind requires.
    """
    unknown = [name for name in table.column_names if name not in schema.names]
    if unknown:
        raise SchemaMismatch(f"{boundary}: unknown columns {unknown}; the boundary has {schema.names}")
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            if not field.nullable:
                has = table.column_names
                raise SchemaMismatch(f"{boundary}: column {field.name!r} ({field.type}) is missing; the table has {has}")
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        if pa.types.is_null(column.type):
            column = column.cast(field.type)
        if column.type != field.type:
            raise SchemaMismatch(f"{boundary}: column {field.name!r} is {column.type}, the boundary declares {field.type}")
        columns.append(column)
    table = pa.table(columns, schema=schema)
    if "kind" in schema.names:
        _check_kinds(table, boundary)
    return table


def _check_kinds(table: pa.Table, boundary: str) -> None:
    names = table.column_names
    required = REQUIRED_WRITTEN if "shards" in names else REQUIRED
    still_open = ("tier",) if "drawing" in names else ()
    for kind in pc.unique(table["kind"]).to_pylist():
        if kind not in set(RowKind):
            raise SchemaMismatch(f"{boundary}: a row of kind {kind!r}; the kinds are {[str(known) for known in RowKind]}")
        rows = pc.equal(table["kind"], kind)
        for name in required.get(RowKind(kind), ()):
            if name in names and name not in still_open and pc.any(pc.and_(rows, pc.is_null(table[name]))).as_py():
                raise SchemaMismatch(
                    f"{boundary}: a row of kind {kind!r} has no {name!r}; required are {required[RowKind(kind)]}"
                )


VISUAL, TEXT = "visual", "text"

SEGMENT = pa.struct(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("tier", pa.string(), nullable=False),
        pa.field("page_id", pa.string()),
        pa.field("tokens_sha256", pa.string()),
        pa.field("page_shard", pa.int32()),
        pa.field("page_row", pa.int64()),
        pa.field("text", pa.large_string()),
        pa.field("char_start", pa.int64(), nullable=False),
        pa.field("char_end", pa.int64(), nullable=False),
        pa.field("first_turn", pa.int32(), nullable=False),
        pa.field("last_turn", pa.int32(), nullable=False),
        pa.field("num_text_tokens", pa.int32(), nullable=False),
        pa.field("num_context_tokens", pa.int32(), nullable=False),
        pa.field("age_seconds", pa.float64()),
        pa.field("precision", pa.float32()),
    ]
)

SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("source_id", pa.string()),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("source_version", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("codec_revision", pa.string(), nullable=False),
        pa.field("target_turn", pa.int32(), nullable=False),
        pa.field("target_text", pa.large_string(), nullable=False),
        pa.field("num_target_tokens", pa.int32(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC")),
        pa.field("aged_by", pa.string(), nullable=False),  # time or turns
        pa.field("budget", pa.int32(), nullable=False),
        pa.field("num_context_tokens", pa.int32(), nullable=False),
        pa.field("num_text_tokens", pa.int32(), nullable=False),  # of all earlier turns, kept or not
        pa.field("dropped_text_tokens", pa.int32(), nullable=False),
        pa.field("segments", pa.list_(SEGMENT), nullable=False),
    ]
)
