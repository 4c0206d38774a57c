"""The written, versioned rule for what each class of character becomes before layout.

| class | becomes |
|---|---|
| anything with a canonical composition | NFC (not NFKC: ligatures, widths and superscripts stay what they are) |
| CR LF, CR, VT, FF, NEL, LINE SEPARATOR, PARAGRAPH SEPARATOR | LINE FEED |
| NO-BREAK SPACE and every other space separator (Zs) | SPACE |
| byte-order mark, ZERO WIDTH SPACE, SOFT HYPHEN, WORD JOINER, bidi controls, variation selectors | deleted |
| ZERO WIDTH JOINER and NON-JOINER | kept between two characters of emoji or of scripts that use them, else deleted |
| TAB | kept: each layout draws it |
| other control, private-use, unassigned characters and lone surrogates | kept: the layout writes them as escapes |

Normalising is idempotent. The Unicode data are those of a pinned package, not of the Python version. The raw text stays at
`source_uri` and `source_version`.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import chain, groupby

import numpy as np
import unicodedata2

from palimpsest.pages.unicode_data import code_points, look_up

NORMALISE_VERSION = f"n2 {unicodedata2.unidata_version}"

_LINE_ENDS = "\r\x0b\x0c\x85\u2028\u2029"
_SPACES = "\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
_DELETED = "\ufeff\u200b\xad\u2060\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c\ufe00-\ufe0f\U000e0100-\U000e01ef"
_LINE_END, _SPACE = re.compile(f"[{_LINE_ENDS}]"), re.compile(f"[{_SPACES}]")
_CHANGES = re.compile(f"[{_LINE_ENDS}{_SPACES}{_DELETED}]")
_JOINERS = re.compile("[\u200c\u200d]+")
# Blocks of scripts in which a joiner changes what is read: Arabic to N'Ko, Indic to Sinhala, Tibetan and Myanmar, Philippine
# scripts to Mongolian, Tai Tham to Vedic (Balinese, Sundanese, ...), Syloti Nagri to Meetei Mayek (Javanese, ...), Arabic forms,
# and beyond the BMP Kharoshthi, Manichaean, Brahmi and its relatives, Adlam.
_SCRIPTS = (
    "\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1700-\u18af\u1900-\u194f\u1a00-\u1cff\ua800-\uaaff\uabc0-\uabff\ufb50-\ufdff\ufe70-\ufeff"
    "\U00010a00-\U00010aff\U00010d00-\U00010fff\U00011000-\U00011fff\U0001e900-\U0001e95f"
)
_EMOJI = (  # and the arrows, squares and signs that emoji sequences are made of
    "\xa9\xae\u203c\u2049\u20e3\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u2460-\u24ff\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff\U000e0020-\U000e007f"
)
_JOINED = re.compile(f"[{_SCRIPTS}{_EMOJI}]")
_SUSPECT = re.compile("[\r\x0b\x0c\x80-\uffff\U00010000-\U0010ffff]")
_MAY_CHANGE = 255  # no combining class is as high
_LONG_MARKS = re.compile(r"[^\w\s]{64,}")


def normalise(text: str) -> str:
    """Return `text` as the layout, the decoder and every metric see it (rule `NORMALISE_VERSION`)."""
    if not _SUSPECT.search(text) or _is_plain_latin(text) or _is_normal(text):
        return text
    previous = None
    while previous != text:  # a deleted character can bring two composable ones together
        previous = text
        text = _CHANGES.sub(_change, text.replace("\r\n", "\n"))
        if "\u200c" in text or "\u200d" in text:
            text = _JOINERS.sub(_keep_joiners, text)
        text = unicodedata2.normalize("NFC", _LONG_MARKS.sub(_order_marks, text))
    return text


def _is_plain_latin(text: str) -> bool:
    """True for Latin-1 text that stays as it is: the quick way for most of Europe's text."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return not any(char in text for char in "\r\x0b\x0c\x85\xa0\xad")


def _is_normal(text: str) -> bool:
    """True only for text that stays as it is: no character that changes or composes, and marks in canonical order (UAX 15)."""
    orders = look_up(_orders(), code_points(text))
    return not ((orders == _MAY_CHANGE).any() or ((orders[:-1] > orders[1:]) & (orders[1:] > 0)).any())


@cache
def _orders() -> np.ndarray:
    """uint8 `[65537]`, by code point: the combining class, or `_MAY_CHANGE`; the last one is for the planes above."""
    chars = [chr(code) for code in range(0x10000)]
    orders = np.array([*map(unicodedata2.combining, chars), _MAY_CHANGE], np.uint8)
    orders[[ord(char) for char in chars if _CHANGES.match(char) or _JOINERS.match(char)]] = _MAY_CHANGE
    for char in chars:
        parts = unicodedata2.decomposition(char).split()
        if parts and not parts[0].startswith("<"):
            if len(parts) == 2:
                orders[int(parts[1], 16)] = _MAY_CHANGE  # it may compose with what is before it
            if unicodedata2.normalize("NFC", char) != char:
                orders[ord(char)] = _MAY_CHANGE
    orders[0x1161:0x1176] = orders[0x11A8:0x11C3] = _MAY_CHANGE  # vowels and final consonants of Hangul
    return orders


def _change(found: re.Match[str]) -> str:
    return "\n" if _LINE_END.match(found[0]) else " " if _SPACE.match(found[0]) else ""


def _keep_joiners(run: re.Match[str]) -> str:
    before, after = run.string[run.start() - 1 : run.start()], run.string[run.end() : run.end() + 1]
    return run[0] if _JOINED.match(before) and _JOINED.match(after) else ""


def _order_marks(run: re.Match[str]) -> str:
    """The canonical order of a long run of combining marks: NFC sorts by insertion, which takes minutes for a million of them."""
    decomposed = "".join(unicodedata2.normalize("NFD", char) for char in run[0])
    ordered = (
        sorted(group, key=unicodedata2.combining) if combining else group
        for combining, group in groupby(decomposed, lambda char: unicodedata2.combining(char) > 0)
    )
    return "".join(chain.from_iterable(ordered))
