"""The settings of memory samples, beside those of every job."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from palimpsest.config import ConfigError, JobConfig, TierConfig
from palimpsest.tiers.clock import parse_as_of, parse_duration

TARGETS = ("all", "last")
NO_CLOCK = "9999-12-31"


@dataclass(frozen=True, kw_only=True)
class ConversationConfig:
    """How a conversation becomes samples.

    Attributes:
        budget: context tokens of a sample, the target left out: text as `text_tokenizer` counts it, visual tokens with their
            newline and separator rows.
        targets: "all" replies that have something before them, or only the "last" of each conversation.
        turn_age: how old a turn counts for each turn after it, where turns have no timestamps.
        clock_skew: a turn may be dated this much later than one that comes after it.
        messages_field: of a record, the list of its turns.
        block: samples that are composed together; pages that they need are encoded together.
    """

    budget: int = 4096
    targets: str = "all"
    turn_age: str = "1h"
    clock_skew: str = "5min"
    messages_field: str = "messages"
    block: int = 64

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ConfigError(f"conversations.budget = {self.budget}: at least 1")
        if self.block < 1:
            raise ConfigError(f"conversations.block = {self.block}: at least 1")
        if self.targets not in TARGETS:
            raise ConfigError(f"conversations.targets = {self.targets!r}: choose {' or '.join(TARGETS)}")
        if not self.messages_field:
            raise ConfigError("conversations.messages_field = '': name the field of the turns")
        parse_duration(self.turn_age, "conversations.turn_age")
        parse_duration(self.clock_skew, "conversations.clock_skew")

    @property
    def age_per_turn(self) -> timedelta:
        return parse_duration(self.turn_age, "conversations.turn_age")

    @property
    def skew(self) -> timedelta:
        return parse_duration(self.clock_skew, "conversations.clock_skew")


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(JobConfig):
    """A job that makes memory samples. Policy "age" unless another is named; `tiers.as_of` says from when on a date is wrong."""

    tiers: TierConfig = field(default_factory=lambda: TierConfig(policy="age"))
    conversations: ConversationConfig = field(default_factory=ConversationConfig)


def with_clock(config: Any) -> Any:
    """The configuration with a clock that policies accept; ages are counted from each sample's own time, never from it."""
    return config if config.tiers.as_of else replace(config, tiers=replace(config.tiers, as_of=NO_CLOCK))


def latest_date(config: JobConfig) -> datetime:
    """From when on a turn is dated in the future."""
    return parse_as_of(config.tiers.as_of or NO_CLOCK)
