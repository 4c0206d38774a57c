"""The blank-page control: reading or guessing?

A sample of pages is decoded a second time from the visual tokens of an *empty* page. Decoding is exact, so the draft cannot leak
the reference into that text. Its score against the reference is the part that the language model can guess without an image. The
gain of `precision` over `blank_precision` is the part that was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from palimpsest.errors import UsageError
from palimpsest.verification.reading import DraftedPage, Watch

if TYPE_CHECKING:
    from torch import Tensor


def is_sampled(page_id: str, share: float) -> bool:
    """True if the page belongs to the control sample, decided by a hash of its id alone.

    The same on every machine and in every run; a page sampled at one share is sampled at every larger one.

    Raises:
        ValueError: the share is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise UsageError(f"blank-page share is {share}; it must lie in [0, 1]")
    number = int.from_bytes(
        blake2b(page_id.encode("utf-8", "surrogatepass"), digest_size=8, person=b"blank page").digest(), "big"
    )
    return number < share * 2**64


def sampled(page_ids: Sequence[str], share: float) -> list[int]:
    """Indices of the pages in the control sample, in order."""
    return [index for index, page_id in enumerate(page_ids) if is_sampled(page_id, share)]


def blanked(page: DraftedPage, blank_features: Tensor, watches: tuple[Watch, ...] = ()) -> DraftedPage:
    """The page, with the visual tokens of an empty page of the same mode instead of its own.

    Watches have state and are not copied; pass new ones (a loop watch: blank pages often loop).

    Raises:
        ValueError: the blank page has another number of tokens or another width.
    """
    if blank_features.shape != page.features.shape:
        raise UsageError(
            f"the blank page has tokens {tuple(blank_features.shape)}, the page {tuple(page.features.shape)}; "
            "encode the blank page in the page's own mode"
        )
    return replace(page, features=blank_features, watches=watches)
