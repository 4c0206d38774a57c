"""The written, versioned rule that says what each class of character becomes before it is laid out.

| class | becomes |
|---|---|
| anything with a canonical composition | NFC (not NFKC: ligatures, widths and superscripts stay what they are) |
| CR LF, CR, VT, FF, NEL, LINE SEPARATOR, PARAGRAPH SEPARATOR | LINE FEED |
| NO-BREAK SPACE and every other space separator (Zs) | SPACE |
| byte-order mark, ZERO WIDTH SPACE, SOFT HYPHEN, WORD JOINER, bidi controls, variation selectors | deleted |
| ZERO WIDTH JOINER and NON-JOINER | kept beside a letter or mark of a script that needs them (Arabic, Syriac, Indic, ...) or an emoji, else deleted |
| TAB | kept: the layout has a mark for it |
| other control, private-use, unassigned characters and lone surrogates | kept: the layout writes them as escapes |

Normalising is idempotent. The raw text stays at `source_uri` and `source_version`.
"""

from __future__ import annotations

import re
import unicodedata

NORMALISE_VERSION = "n1"

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_DELETED = re.compile("[\ufeff\u200b\xad\u2060\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# Arabic to Sinhala and Myanmar..Khmer, Mongolian, and the emoji blocks, in which a joiner changes what is read.
_JOINING = "\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\u200d\u2600-\u27bf\ufb50-\ufdff\ufe70-\ufeff\U0001f000-\U0001faff"
_JOINERS = re.compile(f"(?<![{_JOINING}])[\u200c\u200d]+|[\u200c\u200d]+(?![{_JOINING}])")
_SUSPECT = re.compile("[\r\x0b\x0c\x85-\uffff\U00010000-\U0010ffff]")


def normalise(text: str) -> str:
    """Return `text` as the layout, the decoder and every metric see it (rule `NORMALISE_VERSION`)."""
    if not _SUSPECT.search(text):
        return text
    previous = None
    while previous != text:  # a deleted character can bring two composable ones together
        previous = text
        text = _LINE_ENDS.sub("\n", text)
        if not text.isascii():
            text = _SPACES.sub(" ", text)
            text = _JOINERS.sub("", _DELETED.sub("", text))
            if not unicodedata.is_normalized("NFC", text):
                text = unicodedata.normalize("NFC", text)
    return text
