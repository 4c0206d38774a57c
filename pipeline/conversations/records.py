"""The row of a memory sample: plain Parquet, one declared schema, no payloads.

A segment with kind "visual" stands for the tokens of page `page_id` in mode `tier`: row `page_row` of the unit's page shard
number `page_shard` (`_units/<unit_id>.json`, "pages"); `tokens_sha256` is that row's column of the same name, so a join finds it
too. A segment with kind "text" carries its text. `char_start` and `char_end` are its span in the transcript, whose hash is
`conversation_id`; a gap between two segments is what was dropped.
"""

from __future__ import annotations

import pyarrow as pa

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
