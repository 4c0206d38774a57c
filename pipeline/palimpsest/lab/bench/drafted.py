"""Plain and drafted decoding of the same pages, on any device: shared by `bench verify` and the sections of `bench gpu`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import Codec
    from palimpsest.verification.reading import Decoded


@dataclass(frozen=True)
class EncodedPages:
    """Encoded pages, and the two ways of decoding them.

    Args:
        features: of each page, as the decoder takes them.
        prompts: ids of each page's prompt.
        limit: tokens after which both ways stop a page.
    """

    codec: Codec
    features: Sequence[Any]
    prompts: Sequence[list[int]]
    limit: int

    def generate(self, batch: int = 0) -> list[list[int]]:
        """Plain greedy decoding, `batch` pages at a time; 0 takes all at once."""
        return [
            ids
            for some in self._slices(batch)
            for ids in self.codec.generate(self.features[some], self.prompts[some], self.limit)
        ]

    def draft(self, drafts: Sequence[Sequence[int]], batch: int = 0, revise: bool = True) -> list[Decoded]:
        """Drafted decoding. Without `revise` the decoder's own choices behind a disagreement are not taken over."""
        from palimpsest.verification.greedy import decode
        from palimpsest.verification.reading import DraftedPage

        read: list[Decoded] = []
        for some in self._slices(batch):
            inputs = zip(self.features[some], self.prompts[some], drafts[some], strict=True)
            pages = [DraftedPage(features=f, prompt_ids=p, draft_ids=d, max_new_tokens=self.limit) for f, p, d in inputs]
            read += decode(self.codec, pages, revise=revise)
        return read

    def _slices(self, batch: int) -> list[slice]:
        step = batch or len(self.features)
        return [slice(start, start + step) for start in range(0, len(self.features), step)]


def compared(read: Sequence[Decoded], greedy: Sequence[list[int]], seconds: float, plain_seconds: float) -> dict[str, Any]:
    """Drafted decoding, which took `seconds`, against the ids that plain decoding wrote in `plain_seconds`."""
    pages = len(read)
    return {
        "pages": pages,
        "identical": sum(list(page.ids) == ids for page, ids in zip(read, greedy, strict=True)),
        "near_ties": sum(page.near_ties for page in read),
        "disagreements_per_page": sum(page.disagreements for page in read) / pages,
        "passes_per_page": sum(page.passes for page in read) / pages,
        "most_passes": max(page.passes for page in read),
        "pages_per_second": pages / seconds,
        "generate_pages_per_second": pages / plain_seconds,
        "ratio": plain_seconds / seconds,
    }
