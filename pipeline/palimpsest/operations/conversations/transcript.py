"""A conversation as one text, and the pages of that text.

    user: Where were we?
    assistant: At the harbour.

Each turn is its speaker or role, a colon, its text and a line end. The transcript is laid out once: turns share pages, and a page
ends where it is full, wherever in a turn that is; what comes later never moves it. So a page has one id, and one row of tokens in
each mode, however many samples show it; what follows the last page that was full when a reply was due is the *tail*, which
stays text.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta

from palimpsest.config import ConfigError
from palimpsest.flow.stages.paginate import why_not_covered
from palimpsest.operations.conversations.turns import Conversation
from palimpsest.pages.layouts.protocol import Layout, page_id
from palimpsest.pages.text_class import classify
from palimpsest.sources.documents import document_id


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptPage:
    """One page.

    Attributes:
        uncovered: why the codec cannot read it; "" where it can.
        first_turn, last_turn: of which it shows a part.
        importance: the highest of these turns'.
    """

    page_id: str
    number: int
    char_start: int
    char_end: int
    text_tokens: int
    uncovered: str
    first_turn: int
    last_turn: int
    importance: float | None


@dataclass(frozen=True)
class Transcript:
    """A conversation and its text.

    Attributes:
        doc_id: hash of the text.
        starts: where each turn begins, its role included; `contents`: where its text begins. Characters.
        pages: that end at or before the last target.
    """

    conversation: Conversation
    doc_id: str
    text: str
    starts: tuple[int, ...]
    contents: tuple[int, ...]
    pages: tuple[TranscriptPage, ...]

    def turn_at(self, char: int) -> int:
        """The turn that a character belongs to."""
        return bisect_right(self.starts, char) - 1

    def pages_before(self, target: int) -> tuple[TranscriptPage, ...]:
        """The pages that were full when the reply `target` was due."""
        return self.pages[: bisect_right(self.pages, self.starts[target], key=lambda page: page.char_end)]

    def age(self, last_turn: int, target: int, age_per_turn: timedelta) -> timedelta:
        """How old a page whose newest turn is `last_turn` is when the reply `target` is due.

        By the dates of the two, where every turn of the conversation has one; else `age_per_turn` for each turn between them.
        """
        turns = self.conversation.turns
        then, now = turns[last_turn].timestamp, turns[target].timestamp
        if not self.conversation.dated or then is None or now is None:
            return (target - last_turn) * age_per_turn
        return max(now - then, timedelta(0))

    def newest(self, page: TranscriptPage) -> datetime | None:
        return self.conversation.turns[page.last_turn].timestamp


def transcribe(conversation: Conversation, layout: Layout, max_escaped_share: float) -> Transcript:
    """Write a conversation down and lay it out; the last target's own text is not laid out.

    Raises:
        ConfigError: for a layout that chooses between grids: turns share pages, which must not change when a turn is added.
    """
    if len(layout.sizes) > 1:
        raise ConfigError(f"layout.grid = '{layout}': pages of a conversation stay the same as it grows; name one grid")
    from palimpsest.codecs.text_tokens import count_tokens

    parts: list[str] = []
    starts, contents, size = [], [], 0
    for turn in conversation.turns:
        head = f"{turn.speaker or turn.role}: "
        starts.append(size)
        contents.append(size + len(head))
        parts += [head, turn.text, "\n"]
        size += len(head) + len(turn.text) + 1
    text = "".join(parts)
    doc_id = document_id(text)
    end = starts[conversation.targets[-1]]
    pages: list[TranscriptPage] = []
    identity = layout.identity
    for number, page in enumerate(layout.paginate(text[:end], classify(text))):
        first, last = bisect_right(starts, page.char_start) - 1, bisect_right(starts, page.char_end - 1) - 1
        known = [turn.importance for turn in conversation.turns[first : last + 1] if turn.importance is not None]
        pages.append(
            TranscriptPage(
                page_id=page_id(doc_id, number, identity),
                number=number,
                char_start=page.char_start,
                char_end=page.char_end,
                text_tokens=count_tokens([text[page.char_start : page.char_end]])[0],
                uncovered=why_not_covered(page, text[page.char_start : page.char_end], layout, max_escaped_share),
                first_turn=first,
                last_turn=last,
                importance=max(known, default=None),
            )
        )
    if pages and pages[-1].char_end == end:  # not full, as a rule: it is the last target's tail
        pages.pop()
    return Transcript(conversation, doc_id, text, tuple(starts), tuple(contents), tuple(pages))
