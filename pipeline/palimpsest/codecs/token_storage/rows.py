"""Tokens of rows of a corpus, checked before they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from palimpsest.codecs.token_storage import unpack
from palimpsest.codecs.token_storage.protocol import DamagedTokens, PackedTokens
from palimpsest.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.codecs.adapter import Codec
    from palimpsest.codecs.modes import Mode


class CodecMismatch(UsageError):
    """Tokens of one codec were about to be read with another."""


def refuse_other_codec(stored: tuple[str, str], reading: tuple[str, str]) -> None:
    """Let only the codec that wrote tokens read them; both are (codec, codec_revision).

    Raises:
        CodecMismatch: when they differ.
    """
    if stored != reading:
        raise CodecMismatch(
            f"the tokens were written by codec {stored[0]!r} at revision {stored[1]!r} and cannot be read with "
            f"{reading[0]!r} at revision {reading[1]!r}; set codec.name, codec.revision or codec.path to the first"
        )


def stored_tokens(table: pa.Table, mode: Mode, codec: Codec) -> Tensor:
    """The visual tokens of rows of one mode and one storage, bfloat16 `[n, num_vision_tokens, token_dim]`.

    Raises:
        CodecMismatch: for tokens of another codec or revision.
        DamagedTokens: for a payload of the wrong length or hash.
    """
    pages = []
    for row in table.select(["page_id", "tokens", "token_scales", "tokens_sha256", "codec", "codec_revision"]).to_pylist():
        refuse_other_codec((row["codec"], row["codec_revision"]), (codec.id, codec.revision))
        page = PackedTokens(payload=row["tokens"], scales=row["token_scales"])
        if page.sha256 != row["tokens_sha256"]:
            recorded = row["tokens_sha256"]
            raise DamagedTokens(f"page {row['page_id']}: its tokens have sha256 {page.sha256}, the row says {recorded}")
        pages.append(page)
    return unpack(table["token_dtype"][0].as_py(), pages, mode.num_vision_tokens, codec.token_dim)
