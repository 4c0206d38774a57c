"""Strings of unknown origin, made safe to look at: nothing in them moves a cursor, hides, or turns the line around."""

from __future__ import annotations

import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str, *, keep: str = "\n\t") -> str:
    """`text` with control, format, unassigned and surrogate characters written as escapes, except those in `keep`.

    Joiners inside words (U+200C, U+200D) stay: Persian and Hindi need them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char in keep or char in "\u200c\u200d" or unicodedata.category(char) not in _HIDDEN else _escape(char)
        for char in text
    )


def preview(record: bytes, limit: int = 240) -> str:
    """The first `limit` bytes of a record as one line of text; what is not UTF-8 or does not print is escaped."""
    text = printable(record[:limit].decode("utf-8", "backslashreplace"), keep="")
    return f"{text} …" if len(record) > limit else text


def _escape(char: str) -> str:
    return (
        char.encode("ascii", "backslashreplace").decode()
        if ord(char) > 126
        else {"\n": "\\n", "\t": "\\t"}.get(char, f"\\x{ord(char):02x}")
    )
