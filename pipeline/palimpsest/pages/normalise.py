"""The written, versioned rule that says what each class of character becomes before it is laid out.

| class | becomes |
|---|---|
| anything with a canonical composition | NFC (not NFKC: ligatures, widths and superscripts stay what they are) |
| CR LF, CR, VT, FF, NEL, LINE SEPARATOR, PARAGRAPH SEPARATOR | LINE FEED |
| NO-BREAK SPACE and every other space separator (Zs) | SPACE |
| byte-order mark, ZERO WIDTH SPACE, SOFT HYPHEN, WORD JOINER, bidi controls, variation selectors | deleted |
| ZERO WIDTH JOINER and NON-JOINER | kept between two characters of Arabic, Indic and like scripts or emoji, else deleted |
| TAB | kept: the layout has a mark for it |
| other control, private-use, unassigned characters and lone surrogates | kept: the layout writes them as escapes |

Normalising is idempotent. The raw text stays at `source_uri` and `source_version`.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import chain, groupby

NORMALISE_VERSION = "n1"

_LINE_ENDS = "\r\x0b\x0c\x85\u2028\u2029"
_SPACES = "\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
_DELETED = "\ufeff\u200b\xad\u2060\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c\ufe00-\ufe0f\U000e0100-\U000e01ef"
_LINE_END, _SPACE = re.compile(f"[{_LINE_ENDS}]"), re.compile(f"[{_SPACES}]")
_CHANGES = re.compile(f"[{_LINE_ENDS}{_SPACES}{_DELETED}]")
_JOINERS = re.compile("[\u200c\u200d]+")
# Arabic to Sinhala and Myanmar..Khmer, Mongolian, and the emoji blocks, in which a joiner changes what is read.
_JOINED = re.compile(
    "[\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\u2600-\u27bf\ufb50-\ufdff\ufe70-\ufeff\U0001f000-\U0001faff]"
)
_SUSPECT = re.compile("[\r\x0b\x0c\x80-\uffff\U00010000-\U0010ffff]")
_LONG_MARKS = re.compile(r"[^\w\s]{64,}")


def normalise(text: str) -> str:
    """Return `text` as the layout, the decoder and every metric see it (rule `NORMALISE_VERSION`)."""
    if not _SUSPECT.search(text) or _is_plain_latin(text):
        return text
    previous = None
    while previous != text:  # a deleted character can bring two composable ones together
        previous = text
        text = _CHANGES.sub(_change, text.replace("\r\n", "\n"))
        if "\u200c" in text or "\u200d" in text:
            text = _JOINERS.sub(_keep_joiners, text)
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", _LONG_MARKS.sub(_order_marks, text))
    return text


def _is_plain_latin(text: str) -> bool:
    """True for Latin-1 text that stays as it is: the quick way for most of Europe's text."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return not any(char in text for char in "\r\x0b\x0c\x85\xa0\xad")


def _change(found: re.Match[str]) -> str:
    return "\n" if _LINE_END.match(found[0]) else " " if _SPACE.match(found[0]) else ""


def _keep_joiners(run: re.Match[str]) -> str:
    before, after = run.string[run.start() - 1 : run.start()], run.string[run.end() : run.end() + 1]
    return run[0] if _JOINED.match(before) and _JOINED.match(after) else ""


def _order_marks(run: re.Match[str]) -> str:
    """The canonical order of a long run of combining marks: NFC sorts by insertion, which takes minutes for a million of them."""
    decomposed = "".join(unicodedata.normalize("NFD", char) for char in run[0])
    ordered = (
        sorted(group, key=unicodedata.combining) if combining else group
        for combining, group in groupby(decomposed, lambda char: unicodedata.combining(char) > 0)
    )
    return "".join(chain.from_iterable(ordered))
