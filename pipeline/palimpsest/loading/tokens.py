"""Stored tokens to tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from palimpsest.codecs.token_storage import NONE, DamagedTokens, PackedTokens, unpack
from palimpsest.corpus.page import encoded_again
from palimpsest.errors import UsageError
from palimpsest.loading.shard_rows import AGAIN

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import Codec


def give_tokens(row: dict[str, Any], *, as_stored: bool, codec: Codec | None = None) -> dict[str, Tensor]:
    """The tokens of a row with its payload.

    Args:
        row: as `ShardRows.read` gives it with its payload.
        codec: encodes such a page again; None means the one that comes with Palimpsest.
        as_stored: `tokens` int8 `[T, dim]` and `scales` float32 `[T]`; else `tokens` bfloat16 `[T, dim]`.

    Raises:
        UsageError: stored otherwise than int8, and asked for as int8.
        DamagedTokens: of the wrong length.
        CodecMismatch: not stored, and of another codec or revision.
    """
    kind, count, dim = row["token_dtype"], row["num_vision_tokens"], row["token_dim"]
    payload, scales = row["tokens"], row["token_scales"]
    if kind != "int8":
        if as_stored:
            raise UsageError(f"give = 'int8': page {row['page_id']} is stored as {kind!r}; choose 'tokens'")
        if kind == NONE:
            return {"tokens": encoded_again(row[AGAIN], codec)}
        return {"tokens": unpack(kind, [PackedTokens(payload, scales)], count, dim)[0]}
    if len(payload) != count * dim or scales is None or len(scales) != 4 * count:
        found = f"{len(payload)} bytes and {len(scales or b'')} of scales"
        raise DamagedTokens(f"page {row['page_id']} has {found}, {count} x {dim} int8 take {count * dim} and {4 * count}")
    steps = torch.frombuffer(payload, dtype=torch.int8).view(count, dim)
    factors = torch.frombuffer(bytearray(scales), dtype=torch.float32)
    if as_stored:
        return {"tokens": steps, "scales": factors}
    return {"tokens": (steps * factors[:, None]).bfloat16()}  # int8 × float32 rounds to bfloat16 half to even, as `unpack` does
