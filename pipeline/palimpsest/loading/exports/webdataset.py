"""Tars of WebDataset: of each page `json` (the short columns), `txt`, and, of its tokens, `tokens.bin` and `scales.bin`."""

from __future__ import annotations

from pathlib import Path

from palimpsest.loading.exports.snapshot_pages import SnapshotPages

SHARD_BYTES = 256 << 20  # of a tar


def write(pages: SnapshotPages, target: Path) -> None:
    """Write the tars."""
    from webdataset import ShardWriter

    with ShardWriter(f"{target}/pages-%06d.tar", maxcount=1 << 40, maxsize=SHARD_BYTES, verbose=0) as writer:
        for row in pages.rows():
            payload = {"tokens.bin": row.pop("tokens"), "scales.bin": row.pop("token_scales"), "txt": row.pop("text")}
            row["timestamp"] = None if row["timestamp"] is None else row["timestamp"].isoformat()
            parts = {name: value for name, value in payload.items() if value is not None}
            writer.write({"__key__": row["page_id"], "json": row, **parts})
