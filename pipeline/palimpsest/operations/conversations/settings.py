"""The settings of memory samples: those of every job, and [conversations]."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, field_validator, model_validator

from palimpsest.config import JobConfig, TierConfig
from palimpsest.operations.conversations.speakers import ROLES
from palimpsest.settings import Count, Settings, Texts
from palimpsest.tiers.clock import parse_as_of, parse_duration

NO_CLOCK = "9999-12-31"
Roles = Annotated[
    Texts, BeforeValidator(lambda value: tuple(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value)
]


class ConversationConfig(Settings):
    """How a conversation becomes samples."""

    budget: Count = 4096
    """Context tokens of a sample without its target: text as `text_tokenizer` counts it, visual tokens with their newline and
    separator rows."""
    targets: Literal["all", "last"] = "all"
    """"all" replies that have something before them, or only the "last" of each conversation."""
    turn_age: str = "1h"
    """Age that a turn gains with each later turn, where turns have no timestamps."""
    clock_skew: str = "5min"
    """A turn may be dated this much later than one that comes after it."""
    messages_field: str = ""
    """Field of a record with its turns; "" finds them in every known form of a chat."""
    roles: Roles = ()
    """Role of each speaker or role that is not known, as a table or as text: `{ robot = "assistant" }` or `["robot=assistant"]`.
    Roles are system, user, assistant and tool."""
    block: Count = 64
    """Samples that are composed together; pages that they need are encoded together."""

    @field_validator("roles")
    @classmethod
    def _are_roles(cls, roles: tuple[str, ...]) -> tuple[str, ...]:
        for text in roles:
            name, equals, role = text.rpartition("=")
            if not (name.strip() and equals and role.strip() in ROLES):
                raise ValueError(f"{text!r}: expected NAME=ROLE with one of {', '.join(ROLES)}")
        return roles

    @model_validator(mode="after")
    def _durations(self) -> ConversationConfig:
        for name in ("turn_age", "clock_skew"):
            parse_duration(getattr(self, name), name)
        return self

    @property
    def role_of(self) -> dict[str, str]:
        """`roles` as a mapping."""
        parts = (text.rpartition("=") for text in self.roles)
        return {name.strip(): role.strip() for name, _, role in parts}

    @property
    def age_per_turn(self) -> timedelta:
        return parse_duration(self.turn_age, "conversations.turn_age")

    @property
    def skew(self) -> timedelta:
        return parse_duration(self.clock_skew, "conversations.clock_skew")


class MemoryConfig(JobConfig):
    """A job that makes memory samples. Policy "age" unless another is named; `tiers.as_of` says from when on a date is wrong."""

    tiers: TierConfig = TierConfig(policy="age")
    conversations: ConversationConfig = ConversationConfig()


def with_clock(config: Any) -> Any:
    """The configuration with a clock that policies accept; ages are counted from each sample's own time, never from it."""
    return config if config.tiers.as_of else config.replace(tiers=config.tiers.replace(as_of=NO_CLOCK))


def latest_date(config: JobConfig) -> datetime:
    """From when on a turn is dated in the future."""
    return parse_as_of(config.tiers.as_of or NO_CLOCK)
