"""Bake the line-breaking class of every character into the table that `pages.line_breaks` reads.

    python -m palimpsest.lab.bake_line_breaks

Needs uniseg, which carries the Unicode data. The result is committed; `fonts.py` checks its hash.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import unicodedata2

from palimpsest.pages import line_breaks
from palimpsest.pages.line_breaks import CLASSES
from palimpsest.pages.unicode_data import table

_PLAIN = {"AI": "AL", "SG": "AL", "XX": "AL", "CJ": "NS", "CR": "BK", "LF": "BK", "NL": "BK", "HH": "BA"}
_HANGUL = ("H2", "H3", "JL", "JV", "JT")
_LEADING_VOWELS = (*range(0xE40, 0xE45), *range(0xEC0, 0xEC5), 0xAAB5, 0xAAB6, 0xAAB9, 0xAABB, 0xAABC)
_SPACELESS = (*range(0x0E00, 0x0F00), *range(0xAA80, 0xAAE0))  # Thai, Lao, Tai Viet


def line_break_class(code: int) -> int:
    """The index in CLASSES: rule LB1, and the tailoring that `pages.line_breaks` describes."""
    from uniseg.linebreak import line_break

    char = chr(code)
    name = str(line_break(char)).rpartition(".")[2]
    name = _PLAIN.get(name, name)
    category = unicodedata2.category(char)
    if name == "SA" and category in ("Mn", "Mc"):
        name = "CM"
    elif name == "SA":
        name = "SV" if code in _LEADING_VOWELS else "SA" if code in _SPACELESS else "SB"
    elif name == "QU":
        name = {"Pi": "QI", "Pf": "QF"}.get(category, "QU")
    elif name in ("OP", "CP") and unicodedata2.east_asian_width(char) in "FWH":
        name = {"OP": "OW", "CP": "CL"}[name]
    elif name in _HANGUL:
        name = "HG"
    return CLASSES.index(name)


if __name__ == "__main__":
    baked = Path(line_breaks.__file__).parent / "fonts" / "line_breaks.z"
    baked.write_bytes(zlib.compress(table(line_break_class).tobytes(), 9))
