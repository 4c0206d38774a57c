"""The content of one message to text: parts, tool calls and results; images and sound become marked gaps.

[call get_weather {"city": "Paris"}]     a tool call
[image: a red car]                       an image with its caption; [image], [audio], [video], [file] without one
[no output]                              a tool that gave nothing back
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from palimpsest.operations.conversations.refusals import ChatReason, NoConversation

KEYS = ("content", "value", "text", "message", "body", "utterance", "parts")
GAPS = {
    "image": ("image", "image_url", "input_image", "img", "image_asset_pointer", "picture", "screenshot"),
    "audio": ("audio", "input_audio", "audio_url", "audio_asset_pointer", "output_audio", "sound"),
    "video": ("video", "video_url", "input_video"),
    "file": ("file", "input_file", "document", "attachment"),
}
_GAP_OF = {name: gap for gap, names in GAPS.items() for name in names}
_TEXTS = ("text", "input_text", "output_text", "thinking", "reasoning", "refusal", "summary_text", "code", "execution_output")
_CALLS = ("tool_use", "tool_call", "function_call", "server_tool_use")
_RESULTS = ("tool_result", "function_call_output", "web_search_tool_result")
NO_OUTPUT = "[no output]"


@dataclass
class Content:
    """Text of a message, and how many images, sounds or files it had."""

    text: str = ""
    gaps: int = 0
    is_result: bool = False

    def add(self, text: str) -> None:
        if text:
            self.text += ("\n" if self.text else "") + text


def content_of(message: Mapping[str, Any], index: int) -> Content:
    """The content of the message with that index.

    Raises:
        NoConversation: BAD_MESSAGES for a content, or a part of it, of an unknown type.
    """
    found = Content()
    key = next((name for name in KEYS if message.get(name) is not None), None)
    if key is not None:
        _read(message[key], index, found)
    for call in [*_listed(message.get("tool_calls"), "tool_calls", index), *_single(message.get("function_call"))]:
        found.add(_call(call))
    _linked(message, found)
    return found


def _read(value: Any, index: int, found: Content) -> None:
    match value:
        case None:
            return
        case str():
            found.add(value)
        case list():
            for part in value:
                _part(part, index, found)
        case dict() if isinstance(value.get("parts"), list):
            _read(value["parts"], index, found)
        case dict():
            _part(value, index, found)
        case int() | float() if not isinstance(value, bool) and found.is_result:
            found.add(str(value))
        case _:
            raise NoConversation(ChatReason.BAD_MESSAGES, f"content of turn {index} is of type {type(value).__name__}, not text")


def _part(part: Any, index: int, found: Content) -> None:
    if isinstance(part, str):
        found.add(part)
        return
    if not isinstance(part, dict):
        raise NoConversation(ChatReason.BAD_MESSAGES, f"a part of turn {index} is of type {type(part).__name__}, not an object")
    kind = part.get("type", part.get("content_type"))
    gap = _GAP_OF.get(kind) if isinstance(kind, str) else next((_GAP_OF[name] for name in part if name in _GAP_OF), None)
    if gap is not None:
        found.gaps += 1
        found.add(_gap(gap, part))
    elif kind in _CALLS:
        found.add(_call(part))
    elif kind in _RESULTS:
        found.is_result = True
        inner = Content(is_result=True)
        _read(part.get("content", part.get("output")), index, inner)
        found.gaps += inner.gaps
        found.add(inner.text or NO_OUTPUT)
    elif text := next((part[name] for name in ("text", *_TEXTS, "content") if isinstance(part.get(name), str)), None):
        found.add(text)
    elif kind in _TEXTS or kind == "redacted_thinking":
        return
    else:
        raise NoConversation(ChatReason.BAD_MESSAGES, f"a part of turn {index} is of type {ascii(kind)[:60]}, which has no text")


def _call(call: Any) -> str:
    if not isinstance(call, dict):
        return f"[call {json.dumps(call, ensure_ascii=False, default=str)}]"
    inner = call.get("function", call)
    inner = inner if isinstance(inner, dict) else {"name": inner}
    name = inner.get("name") or call.get("name") or call.get("id") or "tool"
    given = next((inner[key] for key in ("arguments", "input", "args", "parameters") if inner.get(key) not in (None, "")), None)
    shown = "" if given is None else given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, default=str)
    return f"[call {name} {shown}]" if shown else f"[call {name}]"


def _linked(message: Mapping[str, Any], found: Content) -> None:
    """Images given outside the text of a message, with their captions."""
    for name in ("img_url", "images", "image", "audio", "video"):
        value = message.get(name)
        count = len(value) if isinstance(value, list) else int(bool(value))
        for _ in range(count):
            found.gaps += 1
            found.add(_gap("image" if name in ("img_url", "images") else name, message))


def _gap(kind: str, part: Mapping[str, Any]) -> str:
    caption = next(
        (part[name] for name in ("blip_caption", "caption", "alt", "transcript") if isinstance(part.get(name), str)), ""
    )
    return f"[{kind}: {caption.strip()}]" if caption.strip() else f"[{kind}]"


def _listed(value: Any, name: str, index: int) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise NoConversation(ChatReason.BAD_MESSAGES, f"{name} of turn {index} is of type {type(value).__name__}, not a list")
    return value


def _single(value: Any) -> list[Any]:
    return [value] if value else []
