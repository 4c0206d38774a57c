"""The class of a text, for corpora that do not give one: reports split by it, nothing else depends on it.

Shares of characters, shapes of lines and of words; no dictionary, no model, deterministic. The thresholds are between what
English and European prose, program text, number tables and random strings show; a text in plain ASCII of another European
language counts as prose.

| class | when (the first that holds) |
|---|---|
| other_scripts | more than 5 % of the letters are of no Latin script |
| latin | more than 0.4 % of the letters are Latin but not ASCII |
| tables | more than 30 % of the characters that are no spaces are digits |
| random | more than 35 % of the words cannot be spoken: no vowel, five consonants in a row, case that flips |
| code | brackets and operators are 4 % of the characters, or 1.5 % where a third of the lines is indented |
| prose | else |
"""

from __future__ import annotations

import re

TEXT_CLASSES = ("prose", "code", "tables", "random", "latin", "other_scripts")
_SAMPLE = 20_000  # characters from the beginning that are looked at
_BEYOND_LATIN = re.compile("[\u0250-\u02af\u0370-\u1dff\u1f00-\u1fff\u2c00-\U000fffff]")
_ACCENTED = re.compile("[\xc0-\xd6\xd8-\xf6\xf8-\u024f\u1e00-\u1eff]")
_WORD = re.compile("[A-Za-z]{4,}")
_UNSPEAKABLE = re.compile(
    "(?i:^[^aeiouy]+$|[^aeiouy]{5}|[aeiou]{4}|q(?!u))|[a-z][A-Z].*[a-z][A-Z]"  # the last: case flips more than once
)
_OPERATORS = re.compile(r"[(){}\[\]=_<>#;*&]")
_INDENTED = re.compile("^(?:  |\t)[ \t]*[^ \t\n]", re.MULTILINE)
_LINE = re.compile("^.*[^ \t\n].*$", re.MULTILINE)


def classify(text: str) -> str:
    """One of `TEXT_CLASSES`; an empty text is prose."""
    text = text[:_SAMPLE]
    letters = sum(map(str.isalpha, text)) or 1
    if sum(char.isalpha() for char in _BEYOND_LATIN.findall(text)) > 0.05 * letters:
        return "other_scripts"
    if len(_ACCENTED.findall(text)) > 0.004 * letters:
        return "latin"
    visible = len(text) - sum(map(str.isspace, text))
    if sum(map(str.isdigit, text)) > 0.3 * visible:
        return "tables"
    words = _WORD.findall(text)
    if sum(_UNSPEAKABLE.search(word) is not None for word in words) > 0.35 * len(words):
        return "random"
    operators = len(_OPERATORS.findall(text))
    indented = 3 * len(_INDENTED.findall(text)) > len(_LINE.findall(text))
    return "code" if operators > (0.015 if indented else 0.04) * len(text) else "prose"
