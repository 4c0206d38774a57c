"""The speaker of a message: a role, and the name that the transcript shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from palimpsest.operations.conversations.refusals import ChatReason, NoConversation

ROLES = ("system", "user", "assistant", "tool")
TARGET_ROLE = "assistant"
_USUAL = {
    "system": "system developer instructions",
    "user": "user human prompter customer client person you question q",
    "assistant": "assistant gpt bot model ai chatbot chatgpt agent answer a bing bard claude",
    "tool": "tool function observation ipython environment tool_result function_response tool_output",
}
SYNONYMS = {name: role for role, names in _USUAL.items() for name in names.split()}
TYPES = {"function_call": "assistant", "reasoning": "assistant", "function_call_output": "tool"}  # items without a role
ROLE_KEYS, SPEAKER_KEYS = ("role", "from"), ("speaker", "author", "sender", "user_name", "username", "name")


def speakers_of(messages: Sequence[Mapping[str, Any]], roles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Role and shown name of each message.

    A message with a role has that role. Where messages have speakers instead, all of whom are known role names, these are
    roles; otherwise they are people: the first who speaks is the user, everybody else answers. `roles` goes before all that.

    Args:
        roles: role of each name or role that the setting `conversations.roles` maps.

    Raises:
        NoConversation: UNKNOWN_ROLE for a role that is neither known nor mapped, or a message of nobody.
    """
    named = [_named(message) for message in messages]
    people = [name for kind, name in named if kind == "speaker"]
    as_roles = bool(people) and all(name.casefold() in SYNONYMS or name in roles for name in people)
    first = next((name for name in people if name not in roles), None)
    found = []
    for index, (message, (kind, name)) in enumerate(zip(messages, named, strict=True)):
        if name in roles:
            found.append((roles[name], name))
        elif kind == "speaker" and not as_roles:
            found.append(("user" if name == first else "assistant", name))
        elif (role := SYNONYMS.get(name.casefold())) is not None:
            found.append((role, _shown(message, role) if kind == "role" else role))
        else:
            raise NoConversation(
                ChatReason.UNKNOWN_ROLE,
                f"turn {index} has role {ascii(name or None)[:80]}; known are {', '.join(ROLES)} and their usual names; "
                f"map others by conversations.roles",
            )
    return found


def _named(message: Mapping[str, Any]) -> tuple[str, str]:
    """("role" or "speaker", the name); the name is empty where there is none."""
    for key in ROLE_KEYS:
        if isinstance(message.get(key), str):
            return "role", message[key]
    author = message.get("author")
    if isinstance(author, dict) and isinstance(author.get("role"), str):
        return "role", author["role"]
    for key in SPEAKER_KEYS:
        if isinstance(message.get(key), str) and message[key].strip():
            return "speaker", message[key].strip()
    kind = message.get("type")
    return "role", TYPES.get(kind, kind) if isinstance(kind, str) else ""


def _shown(message: Mapping[str, Any], role: str) -> str:
    name = message.get("name")
    author = message.get("author")
    if not isinstance(name, str) and isinstance(author, dict):
        name = author.get("name")
    if not isinstance(name, str) or not name.strip():
        return role
    return f"tool {name.strip()}" if role == "tool" else name.strip()
