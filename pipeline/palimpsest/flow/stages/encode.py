"""Images to visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from palimpsest.flow.stages.model import Model
from palimpsest.flow.stages.tables import TEXT_TIER, by_mode, page_image, token_columns, with_columns
from palimpsest.schemas import TOKENS, RowKind, conform

if TYPE_CHECKING:
    from palimpsest.codecs.modes import Mode
    from palimpsest.codecs.token_storage import PackedTokens


class Encode(Model):
    """IMAGES -> TOKENS, as they will be stored. Pages of the control sample also get the tokens of an empty page."""

    parts = "encoder"

    def __call__(self, table: pa.Table) -> pa.Table:
        from palimpsest.codecs.token_storage import pack
        from palimpsest.verification.control import is_sampled

        rows, share = table.num_rows, self.config.verification.share
        ids = table["page_id"].to_pylist()
        columns: dict[str, list[Any]] = {name: [None] * rows for name in token_columns()}
        for name, indices in by_mode(table):
            mode = self.codec.mode(name)

            def packed(some: Sequence[int], mode: Mode = mode) -> list[PackedTokens]:
                images = np.stack([page_image(table["image"][index], mode.px) for index in some])
                return pack(self.storage, self.codec.encode(images, mode))

            for index, page in zip(indices, self.batched.over(name, indices, packed), strict=True):
                values = {
                    "num_vision_tokens": mode.num_vision_tokens,
                    "num_context_tokens": mode.num_context_tokens,
                    "tokens": page.payload,
                    "token_dim": self.codec.token_dim,
                    "token_dtype": self.storage,
                    "token_scales": page.scales,
                    "tokens_sha256": page.sha256,
                    "codec": self.codec.id,
                    "codec_revision": self.codec.revision,
                }
                for key, value in values.items():
                    columns[key][index] = value
            verified = [index for index in indices if is_sampled(f"verify {ids[index]}", share)]
            for index, blank in zip(verified, self.blanks([ids[index] for index in verified], name), strict=True):
                columns["blank"][index] = blank
        tiers, text_tokens = table["tier"].to_pylist(), table["num_text_tokens"].to_pylist()
        for index, tier in enumerate(tiers):
            if tier == TEXT_TIER:
                columns["num_context_tokens"][index] = text_tokens[index]
        columns["fingerprint"] = [self.fingerprint if kind == RowKind.PAGE else None for kind in table["kind"].to_pylist()]
        tokens = {name: pa.array(values, TOKENS.field(name).type) for name, values in columns.items()}
        return conform(with_columns(table.drop_columns(["image"]), tokens), TOKENS, "encode")

    def blanks(self, page_ids: Sequence[str], mode_name: str) -> list[dict[str, bytes | None] | None]:
        """The column `blank` of pages of one mode: null for pages outside the control sample."""
        from palimpsest.verification.control import sampled

        blanks: list[dict[str, bytes | None] | None] = [None] * len(page_ids)
        for position in sampled(page_ids, self.config.verification.control_share):
            blanks[position] = self._blank(mode_name)
        return blanks

    def _blank(self, mode_name: str) -> dict[str, bytes | None]:
        """An empty page through the token storage like any other, encoded once per mode."""
        from palimpsest.codecs.token_storage import pack

        if mode_name not in self._encoded_blanks:
            mode = self.codec.mode(mode_name)
            empty = np.full((1, mode.px, mode.px), 255, np.uint8)
            (page,) = pack(self.storage, self.codec.encode(empty, mode))
            self._encoded_blanks[mode_name] = {"tokens": page.payload, "scales": page.scales}
        return self._encoded_blanks[mode_name]

    @cached_property
    def _encoded_blanks(self) -> dict[str, dict[str, bytes | None]]:
        return {}
