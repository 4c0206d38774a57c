"""The words of the pipeline: one Arrow schema per boundary, and the check that enforces it.

    read      -> DOCUMENTS     one row per document
    paginate  -> PAGES         one row per page, its text laid out on the grid
    render    -> IMAGES        PAGES and the page image
    encode    -> TOKENS        the image replaced by visual tokens, as they will be stored
    verify    -> VERDICTS      TOKENS and what the decoder read back
    commit    -> SHARD         the published row contract (no Ray types, any Parquet reader)
                 QUARANTINE    what could not be processed, with its reason

Every boundary carries the CARRIER columns. A row of the kind "quarantined" is a record that could not be processed: each later
stage passes it on untouched, so that nothing disappears between a source and its commit record.
"""

from __future__ import annotations

import pyarrow as pa

CARRIER = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # document, page, quarantined, duplicate or unit_end
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("record", pa.binary()),  # the offending bytes, bounded by QUARANTINE_BYTES
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
DOCUMENTS = pa.schema([*CARRIER, *_DOCUMENT, pa.field("text", pa.large_string()), pa.field("counts", pa.string())])

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
        pa.field("cells", pa.binary()),
        pa.field("lines", pa.binary()),
        pa.field("stored_tier", pa.string()),  # of a published page that rate control looks at again
        pa.field("counts", pa.string()),
    ]
)
IMAGES = pa.schema([*CARRIER, *_PAGE, pa.field("image", pa.large_binary()), pa.field("counts", pa.string())])

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
TOKENS = pa.schema([*CARRIER, *_PAGE, *_TOKENS, pa.field("counts", pa.string())])

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
VERDICTS = pa.schema([*CARRIER, *_PAGE, *_TOKENS, *_VERDICT, pa.field("counts", pa.string())])

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


class SchemaMismatch(TypeError):
    """A table does not have the schema of its boundary; the message shows both sides."""


def conform(table: pa.Table, schema: pa.Schema, boundary: str) -> pa.Table:
    """Return `table` with exactly the columns and types of `schema`.

    Columns of type null are cast (a batch of only missing values has no type of its own); columns that are absent from the table
    and nullable in the schema are filled with nulls.

    Raises:
        SchemaMismatch: for an unknown column, a missing required one, or a type that differs.
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
    return pa.table(columns, schema=schema)


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
        pa.field("num_text_tokens", pa.int32(), nullable=False),  # of all that was said before, kept or not
        pa.field("dropped_text_tokens", pa.int32(), nullable=False),
        pa.field("segments", pa.list_(SEGMENT), nullable=False),
    ]
)
