"""The class of a text, for corpora that do not give one. Reports split by it, and layout `document` chooses its font by it.

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

import numpy as np

from palimpsest.pages.unicode_data import LETTER, MARK, NUMBER, SPACE, code_points, kinds, look_up

TEXT_CLASSES = ("prose", "code", "tables", "random", "latin", "other_scripts")
_SAMPLE = 20_000  # characters from the beginning that are looked at
# Blocks of Latin letters beyond ASCII: Latin-1 to IPA and modifier letters, phonetic extensions, Latin Extended Additional,
# superscripts, letterlike symbols, Extended-C, -D, -E, ligatures, full width, -F and -G.
_LATIN_BLOCKS = (
    *((0x80, 0x2FF), (0x1D00, 0x1DBF), (0x1E00, 0x1EFF), (0x2070, 0x209F), (0x2100, 0x218F), (0x2C60, 0x2C7F), (0xA700, 0xA7FF)),
    *((0xAB30, 0xAB6F), (0xFB00, 0xFB06), (0xFF21, 0xFF5A), (0x10780, 0x107BF), (0x1DF00, 0x1DFFF)),
)
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
    codes = code_points(text)
    found = look_up(kinds(), codes)
    letters = codes[found == LETTER]
    latin = np.zeros(len(letters), bool)
    for first, last in _LATIN_BLOCKS:
        latin |= (letters >= first) & (letters <= last)
    beyond_ascii = int((letters >= 0x80).sum())
    accented = int(latin.sum()) + int((found == MARK).sum() if latin.any() else 0)
    if beyond_ascii - int(latin.sum()) > 0.05 * len(letters):
        return "other_scripts"
    if accented > 0.004 * len(letters):
        return "latin"
    visible = len(text) - int((found == SPACE).sum())
    if int((found == NUMBER).sum()) > 0.3 * visible:
        return "tables"
    words = _WORD.findall(text)
    if sum(_UNSPEAKABLE.search(word) is not None for word in words) > 0.35 * len(words):
        return "random"
    operators = len(_OPERATORS.findall(text))
    indented = 3 * len(_INDENTED.findall(text)) > len(_LINE.findall(text))
    return "code" if operators > (0.015 if indented else 0.04) * len(text) else "prose"
