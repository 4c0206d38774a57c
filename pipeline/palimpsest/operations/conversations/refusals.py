"""Why a record is no conversation."""

from __future__ import annotations

from enum import StrEnum

from palimpsest.sources.documents import Reason


class ChatReason(StrEnum):
    """Why a record is no conversation, or a reply no sample; `Reason` says what is wrong with any record."""

    BAD_MESSAGES = "bad_messages"  # no list of objects, a tree with a cycle, or a content of a type that is unknown
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
