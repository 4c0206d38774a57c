"""A record of chat JSON to a conversation: turns with speakers, texts, and dates and importances where they are given.

`formats.py` finds the messages, `speakers.py` their speakers, `contents.py` their text. One bad turn makes the conversation a
row of the quarantine, with a reason that names the turn: the turns after it would answer a message that is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from palimpsest.config import SourceConfig
from palimpsest.errors import UsageError
from palimpsest.operations.conversations.contents import KEYS, NO_OUTPUT, content_of
from palimpsest.operations.conversations.formats import TIMES, has_turns, messages_of, spoken_date
from palimpsest.operations.conversations.refusals import ChatReason, NoConversation
from palimpsest.operations.conversations.settings import ConversationConfig, MemoryConfig
from palimpsest.operations.conversations.speakers import TARGET_ROLE, speakers_of
from palimpsest.pages.normalise import normalise
from palimpsest.sources.documents import Reason, Unusable, utf8
from palimpsest.sources.fields import parse_timestamp
from palimpsest.sources.jsonl import column_names, read_records
from palimpsest.sources.objects import SourceObject
from palimpsest.sources.units import Unit

IDS = ("id", "conversation_id", "sample_id", "message_tree_id", "session_id", "uuid")
_LOOKED_AT = 8  # objects, before the field of a job is called wrong
_SHOWN = 30  # fields in a message


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One turn.

    Attributes:
        role: system, user, assistant or tool.
        text: normalised.
        speaker: shown before the text; "" shows the role.
        gaps: images, sounds and files that the text only marks.
    """

    role: str
    text: str
    speaker: str = ""
    gaps: int = 0
    timestamp: datetime | None = None
    importance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """`source_id` is the corpus's own id of it; `present` has the configured fields that occur in it or in its turns."""

    source_id: str | None
    turns: tuple[Turn, ...]
    present: frozenset[str] = frozenset()

    @property
    def dated(self) -> bool:
        """Whether its turns are aged by their dates: every one has a date. Else all are aged by the number of turns since."""
        return all(turn.timestamp is not None for turn in self.turns)

    @property
    def gaps(self) -> int:
        """Images, sounds and files that are only marked."""
        return sum(turn.gaps for turn in self.turns)

    @property
    def targets(self) -> list[int]:
        """The replies that have something before them."""
        return [index for index, turn in enumerate(self.turns) if index and turn.role == TARGET_ROLE]


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
    messages = messages_of(record, settings.messages_field)
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise NoConversation(ChatReason.BAD_MESSAGES, f"turn {index} is of type {type(message).__name__}, not an object")
    named = speakers_of(messages, settings.role_of)
    try:
        found = (_turn(index, message, *named[index], source) for index, message in enumerate(messages))
        turns = tuple(turn for turn in found if turn is not None)
        present = _present(record, messages, source)
        conversation = Conversation(source_id=_identifier(record_id(record, source)), turns=turns, present=present)
    except Unusable as problem:
        raise NoConversation(problem.reason, problem.detail) from None
    _check_clocks(conversation, settings, latest)
    if not conversation.targets:
        raise NoConversation(ChatReason.NO_TARGET, f"none of its {len(turns)} turns is a reply with something before it")
    return conversation


def check_messages(objects: Iterable[SourceObject], config: MemoryConfig) -> None:
    """Refuse a job whose turns are in no field of the first objects, before any work is done.

    Raises:
        ValueError: naming the first object, its real fields and the setting.
    """
    field, problem = config.conversations.messages_field, ""
    for item in itertools.islice(objects, _LOOKED_AT):
        try:
            names = column_names(item, config.source)
        except Unusable:
            continue  # reading it will say what is wrong with it, in a row
        if field in names or (not field and has_turns(names)):
            return
        asked = f"no field {field!r}" if field else "no field that is known to have turns"
        setting = f"conversations.messages_field = {field!r}: " if field else ""
        shown = ", ".join(ascii(name)[1:-1] for name in names[:_SHOWN])
        problem = problem or (
            f"{setting}{item.uri} has {asked}; its fields are {shown}; set conversations.messages_field to the field of the turns"
        )
    if problem:
        raise UsageError(f"{problem}. Nothing was done")


def _present(record: Mapping[str, Any], messages: Sequence[Any], source: SourceConfig) -> frozenset[str]:
    names = (source.id_field, source.timestamp_field, source.importance_field, source.class_field, *source.carry)
    return frozenset(name for name in names if name in record or any(name in message for message in messages))


def record_id(record: Mapping[str, Any], source: SourceConfig) -> Any:
    """The record's own id, in the configured field or the usual ones of chats."""
    return next((record[name] for name in (source.id_field, *IDS) if record.get(name) is not None), None)


def _turn(index: int, message: Mapping[str, Any], role: str, speaker: str, source: SourceConfig) -> Turn | None:
    """The turn of a message; None for a system message that says nothing."""
    content = content_of(message, index)
    utf8(content.text)
    if content.is_result and role == "user":
        role, speaker = "tool", "tool"
    text = normalise(content.text)
    if not text.strip():
        if role == "system":
            return None
        if role != "tool":
            what = "has no content" if not any(message.get(key) for key in KEYS) else "is empty after normalising"
            raise NoConversation(ChatReason.EMPTY_TURN, f"turn {index} ({speaker}) {what}")
        text = NO_OUTPUT
    when = next((message[name] for name in (source.timestamp_field, *TIMES) if message.get(name) is not None), None)
    try:
        timestamp = parse_timestamp(spoken_date(when))
    except Unusable as problem:
        raise NoConversation(problem.reason, f"turn {index}: {problem.detail}") from None
    importance = _importance(index, message.get(source.importance_field))
    shown = normalise(speaker).replace("\n", " ").strip()
    utf8(shown)
    return Turn(
        role=role,
        text=text,
        speaker="" if shown == role else shown,
        gaps=content.gaps,
        timestamp=timestamp,
        importance=importance,
    )


def _importance(index: int, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 3e38:  # NaN fails too
        raise NoConversation(Reason.BAD_IMPORTANCE, f"turn {index}: importance is a finite number, not {ascii(value)[:80]}")
    return float(value)


def _check_clocks(conversation: Conversation, settings: ConversationConfig, latest: datetime) -> None:
    """A date in the future would keep a turn sharp for ever, and all that come after it young."""
    newest, at = None, 0
    for index, turn in enumerate(conversation.turns):
        when = turn.timestamp
        if when is None:
            continue
        if when > latest:
            raise NoConversation(ChatReason.FUTURE_TIMESTAMP, f"turn {index} is dated {when}, later than tiers.as_of = {latest}")
        if newest is not None and newest - when > settings.skew:
            detail = f"turn {at} is dated {newest}, more than {settings.clock_skew} later than turn {index} ({when}) after it"
            raise NoConversation(ChatReason.FUTURE_TIMESTAMP, detail)
        if newest is None or when > newest:
            newest, at = when, index


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
        return _identifier(record_id(record, source))
    except Unusable:
        return None
