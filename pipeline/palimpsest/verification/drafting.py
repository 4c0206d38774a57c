"""Drafts the next tokens of a decoder, from the reference text and from its output so far.

A bad draft costs a forward pass, never a wrong token: `greedy` keeps only tokens that the model itself would have written.

Two ideas make drafts good. A pass over a draft also gives the model's choices *after* its first disagreement. Where they follow
the draft again, further corrections are adopted at once, so a page with many errors does not cost one pass per error (`revised`).
And a draft has the length that pays best: `best_length` weighs the expected agreed tokens against the price of a pass and of a
token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from palimpsest.verification.conventions import Block, Conventions

TAIL = 8  # aligned output tokens: enough to tell a slip from a skip, few enough to forget an old error
JUMP = 3  # cost, in edits, of an alignment that starts far from the expected index, so that one common token causes no jump
REACH = 256  # reference tokens that are searched before and after the expected index
NEAR = 2  # an alignment with at most this many edits is close to the expected index, and no further search is needed
FOLLOWED = 0.5  # share of the draft behind a disagreement that the model must follow for its corrections there to count
UNMENDED = 0.3  # share of the disagreements that remain where corrections were taken over: two in three are plain replacements
FIRST_RUN = 64.0  # tokens between two errors before anything is known
AGAIN = 64  # tokens of the output's own repetition that are drafted
LONGEST = 1 << 14


def align(tail: Sequence[int], reference: np.ndarray, expected: int, reach: int = REACH) -> tuple[int, int]:
    """Find the index in `reference` at which the output continues.

    Approximate matching of `tail` in a window of the reference (Sellers 1980, unit costs; a start away from the expected index
    costs up to JUMP). Ties go to an end that matches the last token, then to the index nearest to `expected`.

    Args:
        tail: the last tokens of the output, at least one.
        reference: token ids `[n]`.
        expected: the index if the last token was a plain substitution.

    Returns:
        The index of the reference token to draft next, in [0, n], and the edits that the alignment needs.
    """
    if _replaces(tail, reference, expected):
        return expected, 1
    near = _align(tail, reference, expected, NEAR + 1)
    return near if near[1] <= NEAR else _align(tail, reference, expected, reach)


def _replaces(tail: Sequence[int], reference: np.ndarray, expected: int) -> bool:
    """True if the last token can only be a substitution, which is nearly always the case."""
    start, last = expected - len(tail), tail[-1]
    return (
        2 <= expected < len(reference)
        and start >= 0
        and last not in reference[expected - 2 : expected + 1].tolist()
        and reference[start : expected - 1].tolist() == list(tail[:-1])
    )


def _align(tail: Sequence[int], reference: np.ndarray, expected: int, reach: int) -> tuple[int, int]:
    low, high = max(0, expected - reach - len(tail)), min(len(reference), expected + reach)
    window = reference[low:high]
    steps = np.arange(len(window) + 1)
    row = np.minimum(np.abs(low + steps - (expected - len(tail))), JUMP)
    first = row[0]
    for count, token in enumerate(tail, 1):
        step = np.minimum(np.concatenate(([first + count], row[:-1] + (window != token))), row + 1)
        row = np.minimum.accumulate(step - steps) + steps
    ends_right = np.concatenate(([False], window == tail[-1]))
    distance = np.abs(low + steps - expected)
    best = int(np.lexsort((distance, ~ends_right, row))[0])
    return low + best, int(row[best])


def repetition(output: Sequence[int], length: int, longest: int = 4) -> list[int]:
    """The tokens after the last earlier occurrence of the output's ending, repeated up to `length` tokens; empty without one.

    The longest ending of at most `longest` and at least two tokens is looked up (prompt lookup, as in assisted generation).
    """
    ids = np.asarray(output)
    for size in range(min(longest, len(ids) - 1), 1, -1):
        matches = np.ones(len(ids) - size, bool)
        for offset in range(size):
            matches &= ids[offset : offset + len(matches)] == ids[len(ids) - size + offset]
        matching = np.flatnonzero(matches)
        if len(matching):
            return np.resize(ids[matching[-1] + size :], length).tolist()
    return []


@lru_cache(maxsize=4096)
def best_length(run: float, pass_cost: int) -> int:
    """The draft length that gives the most tokens for its price, at least one.

    With a mean run of `run` agreed tokens, the model agrees with run · (1 − (run / (1 + run))^n) tokens of a draft of n on
    average. One more token is the model's own, and the pass costs as much as `pass_cost` + n + 1 drafted tokens.
    """
    lengths = np.unique(np.geomspace(1, LONGEST, 120).astype(np.int64))
    gain = 1 + run * (1 - (run / (1 + run)) ** lengths)
    return int(lengths[np.argmax(gain / (pass_cost + lengths + 1))])


def revised(
    draft: np.ndarray,
    chosen: np.ndarray,
    replaced: np.ndarray,
    explained: Mapping[int, Block] = MappingProxyType({}),
    inserts: Set[int] = frozenset(),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A draft with the model's corrections, which are its choices after the draft's own tokens.

    Only the first of several disagreements in a row counts: the others saw a token that the model would not have written. A
    disagreement that another convention explains takes that convention's tokens. A choice that is the draft's next token drops
    the token between. A token that an earlier correction replaced is put back after it. An earlier insertion is inserted again.
    Any other choice replaces the draft's token.

    Args:
        draft: tokens `[n]`.
        chosen: the model's choice for each, given the draft's tokens before it.
        replaced: the token that an earlier correction replaced, or −1.
        explained: the blocks of other conventions, by index in the draft.
        inserts: tokens that this page's model inserted before.

    Returns:
        The new draft, its `replaced`, and the index in `draft` of each of its tokens.
    """
    right = chosen == draft
    corrected = ~right & np.concatenate(([False], right[:-1]))
    corrected[list(explained)] = True
    tokens: list[np.ndarray] = []
    was: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    copied = 0

    def put(values: Sequence[int] | np.ndarray, instead: int, at: int) -> None:
        tokens.append(np.asarray(values, np.int64))
        was.append(np.array([instead, *[-1] * (len(values) - 1)][: len(values)], np.int64))
        kept.append(np.full(len(values), at, np.int64))

    for index in np.flatnonzero(corrected).tolist():
        if index < copied:
            continue
        tokens.append(draft[copied:index])
        was.append(replaced[copied:index])
        kept.append(np.arange(copied, index))
        copied, choice = index, int(chosen[index])
        block = explained.get(index)
        if block is not None and index + block.stop - block.start <= len(draft):
            put(block.tokens, int(draft[index]), index)
            copied = index + block.stop - block.start
        elif index + 1 < len(draft) and choice == draft[index + 1]:
            copied = index + 1
        elif choice == replaced[index - 1]:
            put([choice], -1, index)
        elif choice in inserts:
            put([choice], int(draft[index]), index)
        else:
            put([choice], int(draft[index]), index)
            copied = index + 1
    tokens.append(draft[copied:])
    was.append(replaced[copied:])
    kept.append(np.arange(copied, len(draft)))
    return np.concatenate(tokens), np.concatenate(was), np.concatenate(kept)


class Drafter:
    """Follows one page's output along its reference and drafts the continuation.

    Args:
        reference: ids of the page's text.
        conventions: ids of the same text in other conventions (`conventions.py`).
        pass_cost: price of a forward pass in drafted tokens.
        revise: adopt the model's own corrections.
    """

    def __init__(
        self,
        reference: Sequence[int],
        conventions: Sequence[Sequence[int]] = (),
        *,
        pass_cost: int = 128,
        revise: bool = True,
    ) -> None:
        self.conventions = Conventions([reference, *conventions])
        self.output: list[int] = []
        self.disagreements = 0
        self._pass_cost, self._revise = pass_cost, revise
        self._inserted: set[int] = set()
        self._displaced: tuple[int, int] | None = None  # the model's token and the drafted one at the last disagreement
        self._draft_again(self.conventions.reference)
        self._upheld, self._refuted, self._trusted = 0, 0, True
        self._at, self._lost, self._own = 0, False, False
        self._run = FIRST_RUN
        self.draft = self._tokens

    def accept(self, tokens: Sequence[int], agreed: int, chosen: np.ndarray) -> None:
        """Append the model's tokens and draft again.

        Args:
            tokens: its tokens of this pass.
            agreed: number of leading draft tokens that it agreed with.
            chosen: its choice after each prefix of the draft, the empty one included; `chosen[agreed + 1:]` are its choices after
                the disagreement.
        """
        self._tell_insertions(tokens[0])
        differs = len(tokens) > agreed < len(self.draft) and tokens[agreed] != int(self.draft[agreed])
        self.draft = self.draft[: len(chosen) - 1]  # a page near its limit received only a part of it
        self.disagreements += differs
        if not self._own:
            self._count_corrections(agreed, differs)
        self.output.extend(tokens)
        shown = differs and agreed < len(self.draft)
        self._displaced = (tokens[agreed], int(self.draft[agreed])) if shown and not self._own else None
        share = self._learn(agreed, chosen) if shown and self._revise and not self._own else None
        self._measure_run(agreed, differs, share)
        self._follow(len(tokens))
        self.draft = self._next()

    def _tell_insertions(self, token: int) -> None:
        """Learn from the token after a disagreement whether the token before it was an insertion or a replacement."""
        if self._displaced is not None:
            written, drafted = self._displaced
            if token == drafted:
                self._inserted.add(written)
            else:
                self._inserted.discard(written)

    def _draft_again(self, reference: np.ndarray) -> None:
        """Draft `reference` without corrections."""
        self._tokens = reference
        self._replaced = np.full(len(reference), -1, np.int64)
        self._origin = np.arange(len(reference))

    def _follow(self, count: int) -> None:
        """Advance the index by `count` new tokens of output, or search for it if they left the reference."""
        followed = self._at + count
        if not self._lost and followed <= len(self._tokens) and self._tokens[followed - 1] == self.output[-1]:
            self._at = followed
            return
        tail = self.output[-TAIL:]
        self._at, edits = align(tail, self._tokens, min(followed, len(self._tokens)))
        self._lost = 2 * edits > len(tail) and len(tail) == TAIL

    def _learn(self, agreed: int, chosen: np.ndarray) -> float | None:
        """Adopt the model's choices at and after its disagreement, if it followed the draft again.

        Returns:
            The share of the draft that it did not follow there, or None if nothing was adopted.
        """
        first, count = self._at, len(self.draft)
        start, stop = first + agreed, first + count
        choices, right = chosen[:count], chosen[:count] == self.draft
        asked = np.concatenate(([True], right[:-1]))
        explained = self.conventions.explain(self._origin[first:stop], self.draft, choices, asked)
        if (other := self.conventions.better()) is not None:
            odd = [index for index in np.flatnonzero(asked & ~right).tolist() if index > agreed and index not in explained]
            return self._switch(other, agreed, {int(self._origin[first + index]): int(choices[index]) for index in odd})
        if not self._trusted:
            return None
        later = right[agreed + 1 :]
        share = float(np.mean(~later)) if len(later) else 1.0
        followed = share <= 1 - FOLLOWED
        blocks = {index - agreed: block for index, block in explained.items() if index == agreed or (followed and index > agreed)}
        if not followed:
            choices = np.where(np.arange(count) > agreed, self.draft, choices)
        self._rewrite(
            start, stop, *revised(self.draft[agreed:], choices[agreed:], self._replaced[start:stop], blocks, self._inserted)
        )
        return share if followed else None

    def _switch(self, other: int, agreed: int, odd: Mapping[int, int]) -> float:
        """Draft another convention from the disagreement on, with the corrections that it does not explain.

        Args:
            odd: the model's choices that it does not explain, by index in the old reference.

        Returns:
            The share of the new draft that the model will probably not follow.
        """
        old, at = self.conventions.reference, self._at + agreed
        start = int(self._origin[at]) if at < len(self._origin) else len(old)
        moved = self.conventions.switch(other)
        self._draft_again(self.conventions.reference)
        start = int(moved[start])
        draft = self._tokens[start:]
        chosen = draft.copy()
        for index, choice in odd.items():
            moved_to = int(moved[index]) - start
            if 0 < moved_to < len(draft) and draft[moved_to] == old[index]:
                chosen[moved_to] = choice
        self._rewrite(start, start + len(draft), *revised(draft, chosen, self._replaced[start:], {}, self._inserted))
        self._at = start - agreed
        return len(odd) / max(1, len(draft))

    def _rewrite(self, start: int, stop: int, tokens: np.ndarray, replaced: np.ndarray, kept: np.ndarray) -> None:
        """Replace the tokens from `start` to `stop` by the result of `revised`."""
        self._tokens = np.concatenate((self._tokens[:start], tokens, self._tokens[stop:]))
        self._replaced = np.concatenate((self._replaced[:start], replaced, self._replaced[stop:]))
        self._origin = np.concatenate((self._origin[:start], self._origin[start:stop][kept], self._origin[stop:]))

    def _count_corrections(self, agreed: int, differs: bool) -> None:
        """Count right and wrong corrections; after too many wrong ones, draft the reference itself again."""
        self._upheld += int(np.count_nonzero(self._replaced[self._at : self._at + agreed] >= 0))
        at = self._at + agreed
        if not (differs and at < len(self._replaced) and self._replaced[at] >= 0):
            return
        self._refuted += 1
        if self._trusted and self._refuted > 1 + self._upheld // 4:
            self._trusted = False
            origin = self._origin[at]
            reference = self.conventions.reference
            self._tokens = np.concatenate((self._tokens[:at], reference[origin:]))
            self._replaced = np.full(len(self._tokens), -1, np.int64)
            self._origin = np.concatenate((self._origin[:at], np.arange(origin, len(reference))))

    def _measure_run(self, agreed: int, differs: bool, share: float | None) -> None:
        """Update the expected mean run of the next draft."""
        if not differs:
            self._run = 2.0 * max(self._run, len(self.draft))
            return
        self._run = (min(self._run, 16.0 * (agreed + 4)) + agreed) / 2
        if share is not None and not self._upheld + self._refuted:  # the first corrections: earlier runs predict nothing
            self._run = max(self._run, 1 / (UNMENDED * share + 1 / LONGEST))

    def _next(self) -> np.ndarray:
        whole = (len(self.output) + FIRST_RUN) / (self.disagreements + 1)  # of the page so far: errors come in bursts
        run = max(self._run, (self._run * whole) ** 0.5)
        room = best_length(round(run, 1 if run < 10 else None), self._pass_cost)
        self._own = False
        if self._lost or self._at == len(self._tokens):
            again = repetition(self.output, min(AGAIN, room))
            if again:
                self._own = True
                return np.asarray(again, np.int64)
        return self._tokens[self._at : self._at + room]
