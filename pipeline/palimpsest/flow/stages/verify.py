"""Visual tokens to verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from palimpsest.codecs.token_storage import NONE
from palimpsest.codecs.token_storage.rows import stored_tokens
from palimpsest.flow.stages.exact import cheaper_as_text, with_errata
from palimpsest.flow.stages.model import Model
from palimpsest.flow.stages.tables import TEXT_TIER, by_mode, verdict_columns, with_columns
from palimpsest.schemas import VERDICTS, RowKind, conform

if TYPE_CHECKING:
    from palimpsest.codecs.modes import Mode
    from palimpsest.verification.reading import Decoded


class Verify(Model):
    """TOKENS -> VERDICTS: read back what is stored and compare.

    Attributes:
        settles: a page whose errata cost more than its tokens save becomes text; else the caller decides.
    """

    parts = "decoder"
    settles = True

    def __call__(self, table: pa.Table) -> pa.Table:
        from palimpsest.verification.control import is_sampled

        settings = self.config.verification
        tiers, ids = table["tier"].to_pylist(), table["page_id"].to_pylist()
        kinds = table["kind"].to_pylist()
        columns: dict[str, list[Any]] = {name: [None] * table.num_rows for name in verdict_columns()}
        for index, (kind, tier) in enumerate(zip(kinds, tiers, strict=True)):
            if kind == RowKind.PAGE:
                columns["status"][index] = "text" if tier == TEXT_TIER else "unverified"
        reasons, details = table["reason"].to_pylist(), table["detail"].to_pylist()
        for name, indices in by_mode(table):
            chosen = [index for index in indices if is_sampled(f"verify {ids[index]}", settings.share)]

            def judged(some: Sequence[int], name: str = name) -> Sequence[Any]:
                return self.verdicts(table.take(some), name)

            for index, verdict in zip(chosen, self.batched.over(name, chosen, judged), strict=True):
                values = asdict(verdict)
                reasons[index], details[index] = values.pop("reason"), values.pop("detail")
                for key, value in values.items():
                    columns[key][index] = value
        table = table.drop_columns(["blank"])
        verdicts = {key: pa.array(values, VERDICTS.field(key).type) for key, values in columns.items()}
        carried = {"reason": pa.array(reasons, pa.string()), "detail": pa.array(details, pa.string())}
        judged = conform(with_columns(with_columns(table, carried), verdicts), VERDICTS, "verify")
        judged = with_errata(judged, self.config.tiers.exact)
        if self.config.storage.tokens == NONE:
            judged = without_tokens(judged)
        return cheaper_as_text(judged) if self.settles else judged

    def verdicts(self, table: pa.Table, mode_name: str) -> Sequence[Any]:
        """Verdicts on rows of TOKENS, all of one mode."""
        from palimpsest.verification.control import sampled
        from palimpsest.verification.verdict import judge

        settings, mode = self.config.verification, self.codec.mode(mode_name)
        tokens = stored_tokens(table, mode, self.codec)
        controlled = sampled(table["page_id"].to_pylist(), settings.control_share)
        blank = self._blank(table["blank"][controlled[0]].as_py(), mode) if controlled else None  # one for all pages of a mode
        texts = table["text"].to_pylist()
        grids = list(zip(table["grid_w"].to_pylist(), table["grid_h"].to_pylist(), strict=True))
        read_back = self._read_cells if settings.reader == "cells" else self._read_generative
        read, controls = read_back(tokens, blank, mode, texts, grids, controlled)
        blanks: list[str | None] = [None] * len(texts)
        for index, page in zip(controlled, controls, strict=True):
            blanks[index] = self.codec.decode_ids(page.ids)
        decoded = [self.codec.decode_ids(page.ids) for page in read]
        return judge(
            texts,
            decoded,
            read,
            target_precision=settings.target_precision,
            blank_texts=blanks,
            dialect=self.codec.dialect,
            score=self.codec.preset.score if settings.score == "auto" else settings.score,
        )

    def _read_generative(
        self, tokens: Any, blank: Any, mode: Mode, texts: list[str], grids: list[tuple[int, int]], controlled: list[int]
    ) -> tuple[list[Decoded], list[Decoded]]:
        """The decoder's output for each page, and for controlled pages also the output from an empty page's tokens."""
        from palimpsest.verification.control import blanked
        from palimpsest.verification.early_stop import EarlyStop, stable_prefix
        from palimpsest.verification.greedy import decode
        from palimpsest.verification.loops import LoopWatch
        from palimpsest.verification.reading import DraftedPage

        codec, settings = self.codec, self.config.verification
        pages = []
        for text, features, grid in zip(texts, codec.features(tokens, mode), grids, strict=True):
            draft, prompt = codec.encode_text(text, mode, grid), codec.prompt_ids(mode, grid)
            watches: tuple[Any, ...] = (LoopWatch(draft),)
            if settings.early_stop and settings.target_precision:
                watches += (EarlyStop(text, settings.target_precision, lambda ids: stable_prefix(codec.decode_ids(ids))),)
            others = codec.conventions(text, mode, grid)
            pages.append(
                DraftedPage(
                    features=features,
                    prompt_ids=prompt,
                    draft_ids=draft,
                    conventions=others,
                    max_new_tokens=codec.preset.max_new_tokens,
                    watches=watches,
                )
            )
        controls = []
        for index in controlled:
            watch = LoopWatch(pages[index].draft_ids)
            controls.append(blanked(pages[index], codec.features(blank, mode)[0], (watch,)))
        read = decode(codec, [*pages, *controls])
        return read[: len(pages)], read[len(pages) :]

    def _read_cells(
        self, tokens: Any, blank: Any, mode: Mode, texts: list[str], grids: list[tuple[int, int]], controlled: list[int]
    ) -> tuple[list[Decoded], list[Decoded]]:
        """The same by the codec's cell reader: one pass for all cells of a page, and nothing to draft."""
        from palimpsest.verification.reading import Decoded

        def read(tokens: Any, indices: Sequence[int]) -> list[Decoded]:
            ids: dict[int, list[int]] = {}
            for grid in {grids[index] for index in indices}:
                some = [at for at, index in enumerate(indices) if grids[index] == grid]
                ids.update(zip(some, self.codec.read_cells(tokens[some], grid), strict=True))
            return [Decoded(ids=tuple(ids[at]), passes=1, disagreements=0, stopped="eos") for at in range(len(indices))]

        controls = read(blank.expand(len(controlled), -1, -1), controlled) if controlled else []
        return read(tokens, range(len(texts))), controls

    def _blank(self, stored: Mapping[str, bytes | None] | None, mode: Mode) -> Any:
        """The column `blank` of a page as tokens, bfloat16 `[1, num_vision_tokens, token_dim]`."""
        from palimpsest.codecs.token_storage import PackedTokens, unpack

        assert stored is not None and stored["tokens"] is not None, "a page of the control sample has no tokens of an empty page"
        page = PackedTokens(payload=stored["tokens"], scales=stored["scales"])
        return unpack(self.storage, [page], mode.num_vision_tokens, self.codec.token_dim)


def without_tokens(table: pa.Table) -> pa.Table:
    """VERDICTS of a corpus that keeps no tokens. `tokens_sha256` stays: of the bfloat16 tokens that were read."""
    kinds = [None if dtype is None else NONE for dtype in table["token_dtype"].to_pylist()]
    empty = {name: pa.nulls(table.num_rows, VERDICTS.field(name).type) for name in ("tokens", "token_scales")}
    return with_columns(table, {**empty, "token_dtype": pa.array(kinds, VERDICTS.field("token_dtype").type)})
