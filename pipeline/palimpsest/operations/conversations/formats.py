"""Where a record keeps its turns: every common form of a chat, to one list of messages.

| form | turns |
|---|---|
| messages, ShareGPT, plain lists | the list in a field of `LISTS` |
| tree: `prompt` with `replies`, or messages with `parent_id` | one path: the reply of the lowest `rank`, else the first |
| ChatGPT export (`mapping`) | the path to `current_node`, or along the last children |
| LoCoMo (`session_1`, `session_1_date_time`, …) | all sessions by number; each turn has its session's date |
| agent trace (a field of `TRACES`) | of each step the thought and call, then the output |

A task, instruction or system prompt outside the list comes first, a final answer last.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from palimpsest.operations.conversations.refusals import ChatReason, NoConversation

LISTS = ("messages", "conversations", "conversation", "turns", "dialogue", "dialog", "chat", "history", "items")
TRACES = ("steps", "trace", "trajectory", "events", "actions")
FIRST = (
    ("system", "system"),
    ("system_prompt", "system"),
    ("task", "user"),
    ("instruction", "user"),
    ("goal", "user"),
    ("query", "user"),
)
LAST = ("final_answer", "answer", "final")
CHILDREN = ("replies", "children")
TIMES = ("timestamp", "time", "created_at", "create_time", "date", "datetime", "ts")
THOUGHTS = ("thought", "text", "reasoning", "content", "message")
TOOLS = ("tool", "tool_name", "action", "name", "function")
INPUTS = ("input", "tool_input", "action_input", "args", "arguments", "parameters", "command")
OUTPUTS = ("output", "observation", "tool_output", "result", "response")
_SESSION = re.compile(r"session_(\d+)")
_SPOKEN_DATES = ("%I:%M %p on %d %B, %Y", "%I:%M %p on %d %B %Y", "%d %B, %Y", "%d %B %Y", "%B %d, %Y")

Message = dict[str, Any]


def messages_of(record: Mapping[str, Any], field: str) -> list[Any]:
    """The messages of a record, in order; each still as its form has it.

    Args:
        field: that has them; "" looks for every known form.

    Raises:
        NoConversation: there are none, or a tree has a cycle, several roots or an id twice.
    """
    if field:
        if not isinstance(record.get(field), list | dict):
            what = "absent" if field not in record else f"of type {type(record[field]).__name__}"
            raise NoConversation(ChatReason.BAD_MESSAGES, f"field {field!r} is {what}, not a list")
        record = {"messages": record[field]} | {key: value for key, value in record.items() if key != field}
    return [*_before(record), *_body(record), *_after(record)]


def has_turns(names: Collection[str]) -> bool:
    """Whether a record with these fields may have turns in a known form."""
    return any(name in names for name in (*LISTS, *TRACES, "prompt", "mapping")) or any(map(_SESSION.fullmatch, names))


def _body(record: Mapping[str, Any]) -> list[Any]:
    for name in LISTS:
        value = record.get(name)
        if isinstance(value, list):
            return _path_of_list(value)
        if isinstance(value, dict):
            return _body_of_dict(value)
    if isinstance(record.get("prompt"), dict):
        return _path_of_tree(record["prompt"])
    if isinstance(record.get("mapping"), dict) or any(_SESSION.fullmatch(key) for key in record):
        return _body_of_dict(record)
    for name in TRACES:
        if isinstance(record.get(name), list):
            return [message for index, step in enumerate(record[name]) for message in _step(index, step)]
    wrong = next((name for name in LISTS if name in record), None)
    if wrong is not None:
        raise NoConversation(ChatReason.BAD_MESSAGES, f"field {wrong!r} is of type {type(record[wrong]).__name__}, not a list")
    known, has = ", ".join((*LISTS[:3], "prompt", "mapping", "session_1", *TRACES[:1])), ", ".join(map(ascii, list(record)[:12]))
    raise NoConversation(
        ChatReason.BAD_MESSAGES, f"'messages' is absent, and no other field has turns ({known}, …); the record has {has}"
    )


def _body_of_dict(value: Mapping[str, Any]) -> list[Any]:
    if isinstance(value.get("mapping"), dict):
        return _path_of_mapping(value)
    sessions = sorted((int(found[1]), key) for key in value if (found := _SESSION.fullmatch(key)))
    if sessions:
        return [message for _, key in sessions for message in _session(value, key)]
    return _body(value)


def _session(value: Mapping[str, Any], key: str) -> Iterator[Any]:
    turns = value[key]
    if not isinstance(turns, list):
        raise NoConversation(ChatReason.BAD_MESSAGES, f"{key} is of type {type(turns).__name__}, not a list")
    when = value.get(f"{key}_date_time")
    for turn in turns:
        dated = isinstance(turn, dict) and when is not None and not any(turn.get(name) is not None for name in TIMES)
        yield {**turn, "timestamp": spoken_date(when)} if dated else turn


def spoken_date(value: Any) -> Any:
    """`"1:56 pm on 8 May, 2023"` as a datetime in UTC; anything else as it is."""
    if isinstance(value, str):
        for form in _SPOKEN_DATES:
            try:
                return datetime.strptime(value.strip(), form).replace(tzinfo=UTC)
            except ValueError:
                continue
    return value


# trees


def _path_of_list(messages: list[Any]) -> list[Any]:
    """A list in its order, or the path through it where its messages name their parents."""
    links = [message for message in messages if isinstance(message, dict) and _parent(message) is not None]
    if not links or not all(isinstance(message, dict) and _own_id(message) is not None for message in messages):
        return messages
    known: dict[Any, Message] = {}
    for message in messages:
        if _own_id(message) in known:
            raise NoConversation(ChatReason.BAD_MESSAGES, f"two messages have the id {ascii(_own_id(message))[:80]}")
        known[_own_id(message)] = message
    children: dict[Any, list[Message]] = {}
    roots = []
    for message in messages:
        parent = _parent(message)
        children.setdefault(parent, []).append(message) if parent in known else roots.append(message)
    if len(roots) != 1:
        what = "a cycle: every message has a parent" if not roots else f"{len(roots)} roots"
        raise NoConversation(ChatReason.BAD_MESSAGES, f"the tree of messages has {what}")
    path = [roots[0]]
    while found := children.get(_own_id(path[-1])):
        path.append(_best(found))
    reached = _reachable(roots[0], children)
    if reached != len(messages):
        raise NoConversation(ChatReason.BAD_MESSAGES, f"the tree of messages has a cycle: {len(messages) - reached} are cut off")
    return path


def _reachable(root: Message, children: Mapping[Any, list[Message]]) -> int:
    waiting, seen = [root], 0
    while waiting:
        seen += 1
        waiting += children.get(_own_id(waiting.pop()), [])
    return seen


def _path_of_tree(root: Message) -> list[Any]:
    path = [root]
    while True:
        children = next((path[-1][name] for name in CHILDREN if path[-1].get(name)), None)
        if children is None:
            return path
        if not isinstance(children, list) or not all(isinstance(child, dict) for child in children):
            raise NoConversation(ChatReason.BAD_MESSAGES, f"the replies to turn {len(path) - 1} are no list of objects")
        path.append(_best(children))


def _best(replies: list[Message]) -> Message:
    def rank(index: int) -> tuple[float, int]:
        value = replies[index].get("rank")
        return (float(value) if isinstance(value, int | float) else float("inf"), index)

    return replies[min(range(len(replies)), key=rank)]


def _path_of_mapping(value: Mapping[str, Any]) -> list[Any]:
    nodes = value["mapping"]
    at = value.get("current_node")
    if at is None:
        at = next((key for key, node in nodes.items() if isinstance(node, dict) and node.get("parent") is None), None)
        while at in nodes and (children := nodes[at].get("children")):
            at = children[-1]
    path: list[Any] = []
    seen = set()
    while at is not None:
        if at in seen:
            raise NoConversation(ChatReason.BAD_MESSAGES, f"mapping: a cycle at node {ascii(at)[:80]}")
        seen.add(at)
        node = nodes.get(at)
        if not isinstance(node, dict):
            raise NoConversation(ChatReason.BAD_MESSAGES, f"mapping has no node {ascii(at)[:80]}")
        message = node.get("message")
        if isinstance(message, dict) and not _is_hidden(message):
            path.append(message)
        at = node.get("parent")
    return path[::-1]


def _is_hidden(message: Message) -> bool:
    """An empty system message, with which such exports begin."""
    author, content = message.get("author"), message.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    return isinstance(author, dict) and author.get("role") == "system" and not any(parts or [])


def _own_id(message: Message) -> Any:
    return next((message[name] for name in ("message_id", "id", "uuid") if isinstance(message.get(name), str | int)), None)


def _parent(message: Message) -> Any:
    named = (message[name] for name in ("parent_id", "parent", "parent_message_uuid") if isinstance(message.get(name), str | int))
    return next(named, None)


# agent traces


def _step(index: int, step: Any) -> Iterator[Message]:
    if not isinstance(step, dict):
        raise NoConversation(ChatReason.BAD_MESSAGES, f"step {index} is of type {type(step).__name__}, not an object")
    if any(isinstance(step.get(name), str) for name in ("role", "from", "speaker")):
        yield step
        return
    dates = {name: step[name] for name in (*TIMES, "importance") if step.get(name) is not None}
    thought = next((step[name] for name in THOUGHTS if isinstance(step.get(name), str | list) and step[name]), None)
    tool = next((step[name] for name in TOOLS if isinstance(step.get(name), str | dict) and step[name]), None)
    given = next((step[name] for name in INPUTS if step.get(name) is not None), None)
    output = next((step[name] for name in OUTPUTS if name in step), None)
    if isinstance(tool, dict):
        given = tool.get("arguments", tool.get("input", given))
        tool = tool.get("name")
    if thought is None and tool is None and output is None:
        raise NoConversation(
            ChatReason.EMPTY_TURN,
            f"step {index} has no thought, no tool and no output; it has {', '.join(map(ascii, list(step)[:8]))}",
        )
    if thought is not None or tool is not None and (given is not None or output is None):
        calls = [{"function": {"name": tool, "arguments": given}}] if tool is not None or given is not None else []
        yield {"role": "assistant", "content": thought, "tool_calls": calls, **dates}
    if output is not None or any(name in step for name in OUTPUTS):
        yield {"role": "tool", "name": tool, "content": output, **dates}


def _before(record: Mapping[str, Any]) -> Iterator[Message]:
    for name, role in FIRST:
        if isinstance(record.get(name), str) and record[name].strip():
            yield {"role": role, "content": record[name]}


def _after(record: Mapping[str, Any]) -> Iterator[Message]:
    if any(isinstance(record.get(name), list) for name in TRACES):
        for name in LAST:
            if isinstance(record.get(name), str) and record[name].strip():
                yield {"role": "assistant", "content": record[name]}
                return
