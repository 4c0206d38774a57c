"""The types of decoding: the input of a page, its output, and the watches that may end it early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Stop = Literal["eos", "length", "early"]
MAX_NEW_TOKENS = 8192  # bound of the default length limit, the context that DeepSeek-OCR was trained for


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The end of a page's output before the model ended it, and the reason.

    Attributes:
        length: number of tokens kept.
        reason: one word for the row's `reason` column ("loop", "early_stop", "length").
        detail: the evidence, for people.
        precision_bound: a proven upper bound of the page's precision, if the cut relies on one.
    """

    length: int
    reason: str
    detail: str = ""
    precision_bound: float | None = None


Watch = Callable[[Sequence[int]], Cut | None]
"""Called with all tokens of a page so far, after every pass and at its end; a `Cut` ends the page there.

A watch has state, so every page has its own. Its cut must depend only on the tokens, never on how many of them arrived in one
pass.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftedPage:
    """A page to decode.

    Attributes:
        features: visual tokens `[T, D]`, as the decoder's `get_image_features` gives them (newline and separator rows included).
        prompt_ids: the prompt, with exactly T image token ids.
        draft_ids: token ids of the reference text, the end-of-sequence id last; may be empty or wrong, then decoding is slower.
        conventions: ids of the same text as the model may also write it, such as with its lines joined, each with the
            end-of-sequence id last; they save passes, and change nothing else.
        max_new_tokens: limit of the output; by default 1.25 times the draft plus 32, at most MAX_NEW_TOKENS.
        watches: may end the page early.
    """

    features: Tensor
    prompt_ids: Sequence[int]
    draft_ids: Sequence[int]
    conventions: Sequence[Sequence[int]] = ()
    max_new_tokens: int | None = None
    watches: tuple[Watch, ...] = ()

    @property
    def limit(self) -> int:
        """Tokens after which decoding stops."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return min(len(self.draft_ids) * 5 // 4 + 32, MAX_NEW_TOKENS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """The output of a page.

    Attributes:
        ids: the greedy output, as `generate(do_sample=False)` would return it, with the end-of-sequence token if there is one.
        passes: forward passes that included the page.
        disagreements: number of tokens that differed from the draft. `passes == 1 + disagreements`, unless a draft ran out before
            the page ended (one more pass each), or the last disagreement ended the page (one pass less).
        stopped: "eos", "length" (the limit was reached) or "early" (a watch cut the page).
        cut: the cut, unless stopped is "eos".
        min_margin: smallest difference between the best and the second best logit over the output.
        near_tie_indices: indices in `ids` of the tokens whose margin is within the rounding error of the dtype: a decode of one
            token at a time in the same dtype may choose differently there.
    """

    ids: tuple[int, ...]
    passes: int
    disagreements: int
    stopped: Stop
    cut: Cut | None = None
    min_margin: float = float("inf")
    near_tie_indices: tuple[int, ...] = ()

    @property
    def near_ties(self) -> int:
        """The number of near ties."""
        return len(self.near_tie_indices)
