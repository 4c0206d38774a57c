"""Every common form of a chat is accepted with no setting; what is wrong with one has a reason."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from palimpsest.config import SourceConfig, parse
from palimpsest.operations.conversations.settings import ConversationConfig, MemoryConfig
from palimpsest.operations.conversations.turns import Conversation, NoConversation, parse_conversation

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WORDS = "the build of that page failed again! see src/main_v2.py or ask Zoë – “soon”, she said; id 7f3a9c…".split(" ")  # noqa: SIM905 - a sentence  # noqa: E501
Record = dict[str, Any]


def read(record: Record, **settings: Any) -> Conversation:
    return parse_conversation(json.loads(json.dumps(record)), SourceConfig(), ConversationConfig(**settings), NOW)


def say(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 30)))


def sharegpt(rng: random.Random) -> Record:
    turns = [{"from": ("human", "gpt")[place % 2], "value": say(rng)} for place in range(rng.randint(2, 12))]
    return {"id": f"x{rng.random()}", "conversations": [{"from": "system", "value": rng.choice(("", say(rng)))}, *turns]}


def openai_parts(rng: random.Random) -> Record:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    sound = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    messages = []
    for _ in range(rng.randint(1, 5)):
        parts = [
            {"type": "text", "text": say(rng)},
            *rng.sample([image, sound, {"type": "text", "text": say(rng)}], rng.randint(0, 3)),
        ]
        messages.append({"role": "user", "content": parts})
        messages.append({"role": "assistant", "content": rng.choice((say(rng), [{"type": "output_text", "text": say(rng)}]))})
    return {"messages": messages}


def openai_tools(rng: random.Random) -> Record:
    messages: list[Record] = [{"role": "system", "content": say(rng)}]
    for number in range(rng.randint(1, 4)):
        call = {"id": f"c{number}", "type": "function", "function": {"name": "search", "arguments": json.dumps({"q": say(rng)})}}
        messages += [
            {"role": "user", "content": say(rng)},
            {"role": "assistant", "content": rng.choice((None, "", say(rng))), "tool_calls": [call]},
            {
                "role": "tool",
                "tool_call_id": f"c{number}",
                "content": rng.choice((say(rng), "", [{"type": "text", "text": "ok"}])),
            },
            {"role": "assistant", "content": say(rng)},
        ]
    return {"messages": messages}


def anthropic_tools(rng: random.Random) -> Record:
    messages: list[Record] = []
    for number in range(rng.randint(1, 4)):
        used = {"type": "tool_use", "id": f"t{number}", "name": "bash", "input": {"command": say(rng)}}
        result = {
            "type": "tool_result",
            "tool_use_id": f"t{number}",
            "content": rng.choice((say(rng), [{"type": "text", "text": "5"}], None)),
        }
        messages += [
            {"role": "user", "content": say(rng)},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": say(rng)}, used]},
            {"role": "user", "content": [result]},
            {"role": "assistant", "content": [{"type": "text", "text": say(rng)}]},
        ]
    return {"system": say(rng), "messages": messages}


def tree(rng: random.Random) -> Record:
    def node(depth: int) -> Record:
        replies = [node(depth - 1) for _ in range(rng.randint(1, 3))] if depth else []
        ranks = rng.sample(range(len(replies)), len(replies))
        for reply, rank in zip(replies, ranks, strict=True):
            reply["rank"] = rank
        return {"text": say(rng), "role": ("prompter", "assistant")[depth % 2 == 0], "replies": replies}

    return {"message_tree_id": f"t{rng.random()}", "prompt": node(rng.choice((1, 3, 5)))}


def flat_tree(rng: random.Random) -> Record:
    messages: list[Record] = [{"message_id": "0", "parent_id": None, "role": "prompter", "text": say(rng)}]
    for number in range(1, rng.randint(3, 12)):
        parent = rng.choice(messages)
        role = "assistant" if parent["role"] == "prompter" else "prompter"
        messages.append({"message_id": str(number), "parent_id": parent["message_id"], "role": role, "text": say(rng)})
    rng.shuffle(messages)
    return {"messages": messages}


def locomo(rng: random.Random) -> Record:
    talk: Record = {"speaker_a": "Ann", "speaker_b": "Zoë"}
    when = datetime(2023, 5, 8, 13, 56)
    for number in range(1, rng.randint(2, 12)):
        talk[f"session_{number}_date_time"] = when.strftime("%-I:%M %p on %-d %B, %Y").replace("AM", "am").replace("PM", "pm")
        talk[f"session_{number}"] = [
            {"speaker": ("Ann", "Zoë")[place % 2], "dia_id": f"D{number}:{place + 1}", "text": say(rng)}
            | ({"img_url": ["http://x/y.jpg"], "blip_caption": "a photo of a dog"} if rng.random() < 0.2 else {})
            for place in range(rng.randint(2, 8))
        ]
        when += timedelta(hours=rng.randint(1, 900))
    return {"sample_id": f"conv-{rng.randint(1, 99)}", "conversation": talk, "qa": [{"question": "?", "evidence": ["D1:1"]}]}


def trace(rng: random.Random) -> Record:
    steps = [
        {"time": 1_700_000_000 + 60 * place, "tool": "bash", "input": {"cmd": say(rng)}, "output": rng.choice((say(rng), ""))}
        | rng.choice(({}, {"thought": say(rng)}))
        for place in range(rng.randint(1, 6))
    ]
    return {"task": say(rng), "steps": steps} | rng.choice(({}, {"final_answer": say(rng)}))


def react_trace(rng: random.Random) -> Record:
    steps = [{"thought": say(rng), "action": "Search[x]", "observation": say(rng)} for _ in range(rng.randint(1, 6))]
    return {"instruction": say(rng), "trajectory": steps}


def plain(rng: random.Random) -> Record:
    turns = [{"role": ("user", "assistant")[place % 2], "content": say(rng)} for place in range(rng.randint(2, 12))]
    return {rng.choice(("messages", "conversation", "turns", "chat")): turns}


def chatgpt_export(rng: random.Random) -> Record:
    empty = {"author": {"role": "system"}, "content": {"content_type": "text", "parts": [""]}}
    nodes: Record = {
        "r": {"message": None, "parent": None, "children": ["s"]},
        "s": {"message": empty, "parent": "r", "children": ["0"]},
    }
    count = rng.randint(2, 8)
    for place in range(count):
        message = {
            "author": {"role": ("user", "assistant")[place % 2]},
            "create_time": 1_700_000_000.5 + place,
            "content": {"content_type": "text", "parts": [say(rng)]},
        }
        parent = str(place - 1) if place else "s"
        nodes[str(place)] = {"message": message, "parent": parent, "children": [str(place + 1)] if place + 1 < count else []}
    return {"title": "x", "mapping": nodes} | rng.choice(({}, {"current_node": str(count - 1)}))


FORMS: tuple[Callable[[random.Random], Record], ...] = (
    sharegpt, openai_parts, openai_tools, anthropic_tools, tree, flat_tree, locomo, trace, react_trace, plain, chatgpt_export,
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_thirty_of_each_form_are_accepted_with_no_setting(form: Callable[[random.Random], Record]) -> None:
    for seed in range(30):
        record = form(random.Random(seed))
        found = read(record)
        assert found.targets and all(turn.text.strip() for turn in found.turns), record


@pytest.mark.parametrize(
    ("line", "turns"),
    [
        ('{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello there"}]}', "user:hi assistant:hello there"),  # noqa: E501
        ('{"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": "yes"}]}', "user:hi assistant:yes"),  # noqa: E501
        (
            '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}, '  # noqa: E501
            '{"role": "tool", "content": "42"}, {"role": "assistant", "content": "done"}]}',
            "user:hi assistant:[call 1] tool:42 assistant:done",
        ),
        ('{"messages": [{"role": "prompter", "content": "hi"}, {"role": "assistant", "content": "hello"}]}', "user:hi assistant:hello"),  # noqa: E501
    ],
)  # fmt: skip
def test_forms_that_were_refused_are_read(line: str, turns: str) -> None:
    assert " ".join(f"{turn.role}:{turn.text}" for turn in read(json.loads(line)).turns) == turns


def test_a_tree_is_flattened_along_the_best_ranked_replies() -> None:
    replies = [{"text": "worse", "role": "assistant", "rank": 1}, {"text": "best", "role": "assistant", "rank": 0, "replies": []}]
    assert [turn.text for turn in read({"prompt": {"text": "ask", "role": "prompter", "replies": replies}}).turns] == [
        "ask",
        "best",
    ]
    unranked = [{"text": "first", "role": "assistant"}, {"text": "second", "role": "assistant"}]
    assert [turn.text for turn in read({"prompt": {"text": "ask", "role": "prompter", "replies": unranked}}).turns] == [
        "ask",
        "first",
    ]


def test_speakers_keep_their_names() -> None:
    talk = [{"speaker": "Ann", "text": "hi"}, {"speaker": "Zoë", "text": "hello"}, {"speaker": "Ann", "text": "well"}]
    found = read({"turns": talk})
    assert [(turn.role, turn.speaker) for turn in found.turns] == [("user", "Ann"), ("assistant", "Zoë"), ("user", "Ann")]
    mapped = read({"turns": talk}, roles=("Ann=assistant", "Zoë=user"))
    assert [turn.role for turn in mapped.turns] == ["assistant", "user", "assistant"]
    named = read({"messages": [{"role": "user", "name": "Ann", "content": "hi"}, {"role": "assistant", "content": "yes"}]})
    assert [(turn.role, turn.speaker) for turn in named.turns] == [("user", "Ann"), ("assistant", "")]


def test_people_who_are_called_like_roles_stay_people() -> None:
    talk = [{"speaker": "System", "text": "hi"}, {"speaker": "Zoë", "text": "hello"}]
    assert [(turn.role, turn.speaker) for turn in read({"turns": talk}).turns] == [("user", "System"), ("assistant", "Zoë")]
    roles = [{"speaker": "Human", "text": "hi"}, {"speaker": "Bot", "text": "hello"}]
    assert [(turn.role, turn.speaker) for turn in read({"turns": roles}).turns] == [("user", ""), ("assistant", "")]


def test_images_and_sound_are_gaps_that_are_marked_and_counted() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "what is it?"}, {"type": "input_audio"}]
    found = read({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "a dog"}]})
    assert found.turns[0].text == "[image]\nwhat is it?\n[audio]" and found.gaps == 2


@pytest.mark.parametrize(
    ("record", "settings", "reason", "detail"),
    [
        ({"messages": [{"role": "robot", "content": "x"}]}, {}, "unknown_role", "map others by conversations.roles"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "robot", "content": "y"}]}, {"roles": ("elf=user",)}, "unknown_role", "robot"),  # noqa: E501
        ({"messages": [{"content": "x"}]}, {}, "unknown_role", "turn 0 has role None"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, {}, "bad_messages", "'hologram', which has no text"),  # noqa: E501
        ({"messages": [{"role": "user", "content": 7}]}, {}, "bad_messages", "of type int, not text"),
        ({"messages": [{"role": "user", "content": ""}]}, {}, "empty_turn", "turn 0 .user. has no content"),
        ({"steps": [{"time": 1}]}, {}, "empty_turn", "step 0 has no thought"),
        ({"steps": ["x"]}, {}, "bad_messages", "step 0 is of type str"),
        (
            {"messages": [{"id": 1, "parent_id": 2, "role": "user", "text": "a"}, {"id": 2, "parent_id": 1, "role": "user", "text": "b"}]},  # noqa: E501
            {}, "bad_messages", "a cycle: every message has a parent",
        ),
        (
            {"messages": [
                {"id": 0, "role": "user", "text": "a"}, {"id": 1, "parent_id": 2, "role": "user", "text": "a"},
                {"id": 2, "parent_id": 1, "role": "user", "text": "b"},
            ]},
            {}, "bad_messages", "a cycle: 2 are cut off",
        ),
        ({"mapping": {"a": {"parent": "b"}, "b": {"parent": "a"}}, "current_node": "a"}, {}, "bad_messages", "a cycle at node 'a'"),  # noqa: E501
        ({"session_1": [{"speaker": "A", "text": "x"}, {"speaker": "B", "text": "y"}], "session_1_date_time": "some day"}, {}, "bad_timestamp", "some day"),  # noqa: E501
        ({"turns": [{"speaker": "A", "text": "x"}]}, {"messages_field": "chat"}, "bad_messages", "field 'chat' is absent"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_a_reason(record: Record, settings: dict[str, Any], reason: str, detail: str) -> None:
    with pytest.raises(NoConversation, match=detail) as problem:
        read(record, **settings)
    assert problem.value.reason == reason


def test_a_tool_output_of_ten_megabytes_is_a_turn() -> None:
    big = "x" * 10_000_000
    found = read(
        {
            "messages": [
                {"role": "user", "content": "go"},
                {"role": "tool", "content": big},
                {"role": "assistant", "content": "ok"},
            ]
        }
    )
    assert len(found.turns[1].text) == len(big)


def test_roles_are_a_table_or_texts() -> None:
    for setting in ({"robot": "assistant"}, ["robot=assistant"]):
        config = parse({"conversations": {"roles": setting}}, kind=MemoryConfig)
        assert config.conversations.role_of == {"robot": "assistant"}
    assert parse({}, ('conversations.roles={robot="assistant"}',), MemoryConfig).conversations.role_of == {"robot": "assistant"}
    with pytest.raises(ValueError, match="conversations.roles.*NAME=ROLE"):
        parse({"conversations": {"roles": ["robot=king"]}}, kind=MemoryConfig)
