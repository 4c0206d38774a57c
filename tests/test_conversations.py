"""Conversations: what is read, how it is laid out, what stands how in a context, and that nothing gets lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.codecs.modes import MODES
from palimpsest.config import ConfigError, SourceConfig, parse
from palimpsest.operations.conversations.compose import Candidate, compose, cost_of, is_pinned
from palimpsest.operations.conversations.settings import ConversationConfig, MemoryConfig
from palimpsest.operations.conversations.transcript import transcribe
from palimpsest.operations.conversations.turns import Conversation, NoConversation, Turn, parse_conversation
from palimpsest.pages.layouts.grid import Grid
from palimpsest.tiers.ladder import Ladder
from palimpsest.tiers.policies.protocol import PageFacts, Policy, Reading, find_policy

LADDER = Ladder.of(MODES.values())
GRID = Grid(32, 16, "latin")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TALK = [("user", "Where were we?"), ("assistant", "At the harbour."), ("user", "And then?"), ("assistant", "Home.")]


def record(*turns: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


def read(found: dict[str, Any], **settings: Any) -> Conversation:
    return parse_conversation(found, SourceConfig(), ConversationConfig(**settings), NOW)


def policy(**tiers: Any) -> Policy:
    return find_policy(parse({"tiers": {"as_of": "2026-01-01", **tiers}}).tiers, LADDER)


def test_a_record_becomes_turns() -> None:
    messages = record(*TALK)["messages"]
    messages[0] |= {"timestamp": "2025-12-31T10:00:00Z", "importance": 0.5}
    found = read({"messages": messages, "id": 7})
    assert [(turn.role, turn.text) for turn in found.turns] == TALK and found.source_id == "7"
    assert found.turns[0].importance == 0.5 and found.turns[0].timestamp == datetime(2025, 12, 31, 10, tzinfo=UTC)
    assert found.targets == [1, 3] and not found.dated
    assert read(record(("assistant", "Hello."), *TALK)).targets == [2, 4], "a greeting answers nothing"


def dated(*moments: Any) -> dict[str, Any]:
    found = record(*TALK)
    for message, moment in zip(found["messages"], moments, strict=True):
        message["timestamp"] = moment
    return found


@pytest.mark.parametrize(
    ("broken", "reason", "detail"),
    [
        (record(*TALK[:1], ("robot", "x")), "unknown_role", "turn 1 has role 'robot'; known are system, user"),
        (record(*TALK[:1], (None, "x")), "unknown_role", "role None"),  # type: ignore[arg-type]
        (record(("user", "")), "empty_turn", "turn 0 .user. has no content"),
        (record(("user", "\u200b \n")), "empty_turn", "after normalising"),
        (record(("user", None)), "empty_turn", "turn 0 .user. has no content"),
        (record(("user", {"type": "x"})), "bad_messages", "of type 'x', which has no text"),
        (record(("user", "\ud800")), "lone_surrogates", "U.D800"),
        ({"messages": "x"}, "bad_messages", "of type str, not a list"),
        ({"text": "x"}, "bad_messages", "'messages' is absent"),
        ({"messages": ["x"]}, "bad_messages", "turn 0 is of type str"),
        ({"messages": []}, "no_target", "none of its 0 turns"),
        (record(TALK[0]), "no_target", "is a reply"),
        (record(*TALK, id=[1]), "bad_id", "not"),
        (dated("yesterday", None, None, None), "bad_timestamp", "turn 0: 'yesterday'"),
        (dated(None, None, None, "2026-01-02"), "future_timestamp", "turn 3 is dated .* later than tiers.as_of"),
        (dated(10**9, 2 * 10**8, None, None), "future_timestamp", "turn 0 is dated .* more than 5min later than turn 1"),
    ],
)
def test_what_is_no_conversation_has_a_reason_that_names_the_turn(broken: dict[str, Any], reason: str, detail: str) -> None:
    with pytest.raises(NoConversation, match=detail) as problem:
        read(broken)
    assert problem.value.reason == reason


@pytest.mark.parametrize("value", ["much", True, float("nan"), float("inf"), 10**60])
def test_an_importance_is_a_number(value: Any) -> None:
    found = record(*TALK)
    found["messages"][2]["importance"] = value
    with pytest.raises(NoConversation, match="turn 2: importance") as problem:
        read(found)
    assert problem.value.reason == "bad_importance"


def test_clocks_that_differ_by_little_are_no_error() -> None:
    start = 1_700_000_000
    found = read(dated(start, start + 200, start + 60, start + 90))
    assert found.dated
    written = transcribe(found, GRID, 0.5)
    assert written.age(1, 3, HOUR) == timedelta(0), "a page is never younger than now"
    with pytest.raises(NoConversation):
        read(dated(start, start + 200, start + 60, start + 90), clock_skew="1min")


def test_ages_go_by_dates_where_all_turns_have_one_and_by_turns_otherwise() -> None:
    day = 86_400
    whole = transcribe(read(dated(0, day, 2 * day, 3 * day)), GRID, 0.5)
    assert whole.age(0, 3, HOUR) == timedelta(days=3)
    gap = transcribe(read(dated(0, day, None, 3 * day)), GRID, 0.5)
    assert gap.age(0, 3, HOUR) == 3 * HOUR and gap.age(2, 3, HOUR) == HOUR


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300), min_size=1, max_size=12))
def test_pages_and_tail_cover_the_transcript_at_every_target(texts: Sequence[str]) -> None:
    turns = [Turn(role="assistant" if place % 2 else "user", text=text) for place, text in enumerate(["Begin.", *texts])]
    if len(turns) < 2:
        return
    conversation = Conversation(source_id=None, turns=tuple(turns))
    written = transcribe(conversation, GRID, 1.0)
    for target in conversation.targets:
        pages = written.pages_before(target)
        at = 0
        for page in pages:
            assert page.char_start == at
            at = page.char_end
            assert written.starts[page.first_turn] <= page.char_start and page.last_turn < target
        assert at <= written.starts[target] and written.text[: written.contents[target]].endswith("assistant: ")
    prefix = Conversation(source_id=None, turns=tuple(turns[: conversation.targets[0] + 1]))
    early = transcribe(prefix, GRID, 1.0)
    late = written.pages_before(conversation.targets[0])
    assert [(p.char_start, p.char_end) for p in early.pages] == [(p.char_start, p.char_end) for p in late][: len(early.pages)]


def candidates(ages: Sequence[int], tokens: int = 500, **facts: Any) -> list[Candidate]:
    return [Candidate(PageFacts(age=timedelta(days=days), text_tokens=tokens, **facts), True) for days in ages]


def test_older_pages_are_blurrier_and_a_tight_budget_blurs_further_from_the_oldest_on() -> None:
    pages, age = candidates([400, 40, 8, 2, 0]), policy(policy="age")
    assert compose(pages, age, 10_000).tiers == ["tiny", "small", "base", "large", "text"]
    assert compose(pages, age, 1300).tiers == ["tiny", "tiny", "small", "large", "text"]  # 1178: 1340 would be too much
    assert compose(pages, age, 1177).tiers == ["tiny", "tiny", "small", "base", "text"]
    tightest = compose(pages, age, 5 * 73)
    assert tightest.tiers == ["tiny"] * 5 and tightest.cost == 365
    assert compose(pages, age, 2 * 73 + 1).tiers == [None, None, None, "tiny", "tiny"]
    assert compose(pages, age, 0).tiers == [None] * 5


def test_a_page_in_a_conversation_never_costs_more_than_its_text() -> None:
    made = compose(candidates([400, 40, 8, 2], tokens=90), policy(policy="age"), 10_000)
    assert made.tiers == ["tiny", "text", "text", "text"] and made.cost == 73 + 3 * 90


def test_without_fading_what_does_not_fit_is_dropped() -> None:
    pages = candidates([400, 40, 8])
    assert compose(pages, policy(policy="fixed", mode="small"), 250, fade=False).tiers == [None, "small", "small"]
    assert compose(pages, policy(policy="fixed", mode="text"), 1100, fade=False).tiers == [None, "text", "text"]


def test_pins_stay_text_and_go_last_and_what_no_codec_reads_is_text_or_nothing() -> None:
    pages = candidates([400, 40, 8])
    age = policy(policy="age+importance")
    pages[0] = Candidate(PageFacts(age=400 * timedelta(days=1), text_tokens=500, importance=1.0), True, is_pinned(age, 1.0, 0.9))
    assert pages[0].pinned and not is_pinned(age, 0.5, 0.9) and not is_pinned(policy(policy="age"), 1.0, 0.9)
    assert compose(pages, age, 500 + 73).tiers == ["text", None, "tiny"]
    assert compose(pages, age, 499).tiers == [None, None, None]
    uncovered = [Candidate(page.facts, drawable=False) for page in candidates([400, 400])]
    assert compose(uncovered, age, 2000).tiers == ["text", "text"] and compose(uncovered, age, 600).tiers == [None, "text"]


def test_a_policy_that_measures_asks_first_and_never_keeps_what_cannot_be_read() -> None:
    measured = policy(policy="age+fidelity")
    (page,) = candidates([400])
    assert compose([page], measured, 400).needed == {(0, "tiny")}
    bad, good = Reading(0.4, False), Reading(0.99, True)
    (page,) = candidates([400], readings={"tiny": bad})
    assert compose([page], measured, 400).needed == {(0, "small")}
    (page,) = candidates([400], readings={"tiny": bad, "small": good})
    assert compose([page], measured, 400).tiers == ["small"] and compose([page], measured, 80).tiers == [None]


@given(
    ages=st.lists(st.integers(0, 1000), max_size=12),
    tokens=st.integers(1, 900),
    room=st.integers(0, 6000),
    fade=st.booleans(),
    name=st.sampled_from(["age", "fixed", "age+importance"]),
)
def test_a_composition_keeps_its_budget_and_memory_only_fades(
    ages: list[int], tokens: int, room: int, fade: bool, name: str
) -> None:
    chosen = policy(policy=name)
    pages = candidates(sorted(ages, reverse=True), tokens)
    made = compose(pages, chosen, room, fade=fade)
    costs = [cost_of(page, tier, chosen) for page, tier in zip(pages, made.tiers, strict=True)]
    assert made.cost == sum(costs) <= room and not made.needed
    kept = [tier for tier in made.tiers if tier is not None]
    assert made.tiers == [None] * (len(pages) - len(kept)) + kept, "only the oldest are dropped"
    if fade:
        wide = compose(pages, chosen, room + 500).tiers
        assert sum(tier is not None for tier in wide) >= len(kept)


def test_settings_name_what_is_wrong() -> None:
    for wrong, message in (
        ({"budget": 0}, "conversations.budget = 0: at least 1"),
        ({"targets": "some"}, "conversations.targets = 'some': choose all or last"),
        ({"turn_age": "soon"}, "conversations.turn_age = 'soon'"),
        ({"block": 0}, "conversations.block"),
        ({"budgett": 5}, "did you mean conversations.budget"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse({"conversations": wrong}, kind=MemoryConfig)
