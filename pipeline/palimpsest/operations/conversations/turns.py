"""A record of chat JSON lines to a conversation: turns with roles, texts, and dates and importances where they are given.

`{"messages": [{"role": "user", "content": "…", "timestamp": …, "importance": …}, …], "id": …}`; timestamp, importance and id are
optional. One bad turn makes the conversation a row of the quarantine, with a reason that names the turn: what follows a gap would
answer something that nobody said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from palimpsest.config import SourceConfig
from palimpsest.operations.conversations.settings import ConversationConfig
from palimpsest.pages.normalise import normalise
from palimpsest.sources.documents import Reason, Unusable, utf8
from palimpsest.sources.fields import parse_timestamp
from palimpsest.sources.jsonl import read_records
from palimpsest.sources.units import Unit

ROLES = ("system", "user", "assistant", "tool")
TARGET_ROLE = "assistant"


class ChatReason(StrEnum):
    """Why a record is no conversation, or a reply no sample; beside `Reason`, which says what is wrong with any record."""

    BAD_MESSAGES = "bad_messages"  # no list of objects, or a content that is no text
    UNKNOWN_ROLE = "unknown_role"
    EMPTY_TURN = "empty_turn"  # nothing is left of a turn after normalising
    FUTURE_TIMESTAMP = "future_timestamp"  # later than the clock, or than a turn that comes after it
    NO_TARGET = "no_target"  # no reply with something before it
    TURN_TOO_LONG = "turn_too_long"  # the turn that is to be answered does not fit the budget, nor does its reply


class NoConversation(Exception):
    """A record cannot become a conversation; `reason` is a ChatReason or a Reason."""

    def __init__(self, reason: ChatReason | Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One turn; `text` is normalised."""

    role: str
    text: str
    timestamp: datetime | None = None
    importance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """`source_id` is the corpus's own id of it."""

    source_id: str | None
    turns: tuple[Turn, ...]

    @property
    def dated(self) -> bool:
        """Whether its turns are aged by their dates: every one has a date. Else all are aged by the number of turns since."""
        return all(turn.timestamp is not None for turn in self.turns)

    @property
    def targets(self) -> list[int]:
        """The replies that have something before them."""
        return [place for place, turn in enumerate(self.turns) if place and turn.role == TARGET_ROLE]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A record that is no conversation."""

    source_id: str | None
    reason: str
    detail: str
    record: bytes


def read_conversations(
    unit: Unit, source: SourceConfig, settings: ConversationConfig, latest: datetime
) -> Iterator[Conversation | Refused]:
    """The records of a unit of JSON lines, streamed."""
    for found in read_records(unit, source):
        if isinstance(found.problem, Unusable):
            yield Refused(
                source_id=None, reason=str(found.problem.reason), detail=found.problem.detail, record=found.problem.record
            )
            continue
        try:
            yield parse_conversation(found.record, source, settings, latest)
        except NoConversation as problem:
            yield Refused(
                source_id=_known_id(found.record, source), reason=str(problem.reason), detail=problem.detail, record=found.excerpt
            )


def parse_conversation(
    record: Mapping[str, Any], source: SourceConfig, settings: ConversationConfig, latest: datetime
) -> Conversation:
    """The conversation of a record.

    Args:
        latest: a turn dated later is dated wrong.

    Raises:
        NoConversation: with the reason of the first thing that is wrong.
    """
    messages = record.get(settings.messages_field)
    if not isinstance(messages, list):
        what = "absent" if settings.messages_field not in record else f"of type {type(messages).__name__}"
        raise NoConversation(ChatReason.BAD_MESSAGES, f"field {settings.messages_field!r} is {what}, not a list")
    try:
        turns = tuple(_turn(place, message, source) for place, message in enumerate(messages))
        conversation = Conversation(source_id=_identifier(record.get(source.id_field)), turns=turns)
    except Unusable as problem:
        raise NoConversation(problem.reason, problem.detail) from None
    _check_clocks(conversation, settings, latest)
    if not conversation.targets:
        raise NoConversation(ChatReason.NO_TARGET, f"none of its {len(turns)} turns is a reply with something before it")
    return conversation


def _turn(place: int, message: Any, source: SourceConfig) -> Turn:
    if not isinstance(message, dict):
        raise NoConversation(ChatReason.BAD_MESSAGES, f"turn {place} is of type {type(message).__name__}, not an object")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise NoConversation(ChatReason.UNKNOWN_ROLE, f"turn {place} has role {ascii(role)[:80]}; known are {', '.join(ROLES)}")
    if content is None:
        raise NoConversation(ChatReason.EMPTY_TURN, f"turn {place} ({role}) has no content")
    if not isinstance(content, str):
        raise NoConversation(ChatReason.BAD_MESSAGES, f"content of turn {place} is of type {type(content).__name__}, not text")
    utf8(content)
    text = normalise(content)
    if not text.strip():
        raise NoConversation(ChatReason.EMPTY_TURN, f"nothing is left of turn {place} ({role}) after normalising")
    try:
        timestamp = parse_timestamp(message.get(source.timestamp_field))
    except Unusable as problem:
        raise NoConversation(problem.reason, f"turn {place}: {problem.detail}") from None
    return Turn(role=role, text=text, timestamp=timestamp, importance=_importance(place, message.get(source.importance_field)))


def _importance(place: int, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 3e38:  # NaN fails too
        raise NoConversation(Reason.BAD_IMPORTANCE, f"turn {place}: importance is a finite number, not {ascii(value)[:80]}")
    return float(value)


def _check_clocks(conversation: Conversation, settings: ConversationConfig, latest: datetime) -> None:
    """A date in the future would keep a turn sharp for ever, and all that come after it young."""
    newest, at = None, 0
    for place, turn in enumerate(conversation.turns):
        when = turn.timestamp
        if when is None:
            continue
        if when > latest:
            raise NoConversation(ChatReason.FUTURE_TIMESTAMP, f"turn {place} is dated {when}, later than tiers.as_of = {latest}")
        if newest is not None and newest - when > settings.skew:
            detail = f"turn {at} is dated {newest}, more than {settings.clock_skew} later than turn {place} ({when}) after it"
            raise NoConversation(ChatReason.FUTURE_TIMESTAMP, detail)
        if newest is None or when > newest:
            newest, at = when, place


def _identifier(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        utf8(value)
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Unusable(Reason.BAD_ID, f"an id is a string or an integer, not {ascii(value)[:80]}")


def _known_id(record: Mapping[str, Any], source: SourceConfig) -> str | None:
    try:
        return _identifier(record.get(source.id_field))
    except Unusable:
        return None
