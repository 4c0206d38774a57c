"""Where a line may end: Unicode Standard Annex 14 as a table of pairs, for a whole text at once.

The table says of every pair of classes whether a break is allowed between two characters that touch, and between two with spaces
in between. Rules that look further (numbers behind a hyphen, pairs of flags, Hebrew hyphens) are three vector operations more.

Tailored, as the annex invites: Hangul breaks at spaces like Latin, not between syllables; Thai and Lao, which write no spaces,
break before a vowel that is written first and so begins a syllable; Khmer, Myanmar and their relatives break before a base letter
that begins a syllable.
"""

from __future__ import annotations

import zlib
from functools import cache

import numpy as np

from palimpsest.pages.fonts import font_bytes
from palimpsest.pages.unicode_data import look_up

LINE_BREAK_VERSION = "b1"
# The annex's names, and: OW, a full-width opening bracket; QI and QF, quotation marks that open and close; HG, Hangul; SA, SV and
# SB, letters of scripts without spaces: Thai and Lao, their leading vowels, the others.
_NAMES = (
    "BK SP CM ZWJ ZW WJ GL B2 BA BB HY CB CL CP EX IN NS OP OW QU QI QF IS NU PO PR SY"
    " AK AL AP AS EB EM HG HL ID RI SA SV SB VF VI"
)
CLASSES = tuple(_NAMES.split())
_OF = {name: number for number, name in enumerate(CLASSES)}
_BK, _SP, _CM, _ZWJ = (_OF[name] for name in ("BK", "SP", "CM", "ZWJ"))
_COENG = (0x1039, 0x17D2, 0x1A60)  # the next letter is written below the one before: Myanmar, Khmer, Tai Tham
_KILLER = (0x1039, 0x103A)  # Myanmar: the letter before it closes the syllable


@cache
def _pairs() -> np.ndarray:
    """bool `[2 * classes * classes]`, by the class before and the class after: whether a break is allowed between characters that
    touch, then where spaces are between them."""
    direct, spaced = (np.ones((len(CLASSES), len(CLASSES)), bool) for _ in range(2))

    def forbid(before: str, after: str, spaces_too: bool = False) -> None:
        rows, columns = ([_OF[name] for name in (names.split() or CLASSES)] for names in (before, after))
        direct[np.ix_(rows, columns)] = False
        if spaces_too:
            spaced[np.ix_(rows, columns)] = False

    letters, hangul_or_ideograph = "AL HL HG SA SV", "ID EB EM"
    forbid("", "BK SP ZW", spaces_too=True)  # LB6, LB7
    forbid("", "WJ")  # LB11
    forbid("WJ GL", "")  # LB11, LB12
    forbid(" ".join(name for name in CLASSES if name not in ("SP", "BA", "HY")), "GL")  # LB12a
    forbid("", "CL CP EX SY IS", spaces_too=True)  # LB13
    forbid("OP OW QI", "", spaces_too=True)  # LB14, LB15a
    forbid("", "QF", spaces_too=True)  # LB15b
    forbid("CL CP", "NS", spaces_too=True)  # LB16
    forbid("B2", "B2", spaces_too=True)  # LB17
    forbid("", "QU QI QF")  # LB19
    forbid("QU QF", "")
    wide = [_OF[name] for name in ("ID", "OW", "CL", "NS")]
    direct[wide, _OF["QI"]] = direct[_OF["QF"], wide[:2]] = True  # LB19a: between ideographs a quotation mark has two sides
    direct[:, _OF["CB"]] = direct[_OF["CB"], :] = True  # LB20
    forbid("", "BA HY NS")  # LB21
    forbid("BB", "")
    forbid("SY", "HL")  # LB21b
    forbid("", "IN")  # LB22
    forbid(letters, "NU")  # LB23
    forbid("NU", letters)
    forbid("PR", hangul_or_ideograph)  # LB23a
    forbid(hangul_or_ideograph, "PO")
    forbid("PR PO", letters)  # LB24
    forbid(letters, "PR PO")
    forbid("CL CP NU", "PO PR")  # LB25
    forbid("PO PR", "OP NU")
    forbid("HY IS NU SY", "NU")
    forbid(letters, letters)  # LB26 to LB28, with Hangul as letters
    forbid("AP", "AK AS")  # LB28a
    forbid("AK AS", "VF VI")
    forbid("VI", "AK")
    forbid("IS", letters)  # LB29
    forbid(letters + " NU", "OP")  # LB30
    forbid("CP", letters + " NU")
    forbid("EB", "EM")  # LB30b
    direct[[_OF["SA"], _OF["SV"], _OF["AL"], _OF["NU"]], _OF["SV"]] = True
    forbid("SV", "SA SV")
    forbid(letters + " NU", "SB")
    forbid("SB", letters + " NU")
    spaced[_BK], direct[_BK] = True, True  # LB4
    spaced[_BK, _SP] = False  # an indentation is one
    return np.concatenate([direct.ravel(), spaced.ravel()])


@cache
def _classes() -> np.ndarray:
    return np.frombuffer(zlib.decompress(font_bytes("line_breaks.z")), np.uint8)


def line_breaks(codes: np.ndarray) -> np.ndarray:
    """bool `[n + 1]`: whether a line may end before character i; True after a line feed, and at both ends of the text.

    Args:
        codes: code points `[n]`.
    """
    classes = look_up(_classes(), codes)
    allowed = np.ones(len(codes) + 1, bool)
    if len(codes) < 2:
        return allowed
    space, marks = classes == _SP, (classes == _CM) | (classes == _ZWJ)
    after_space = np.concatenate(([True], (space | (classes == _BK))[:-1]))
    attached = marks & ~after_space  # LB9, LB10: a mark takes the class of its base; without one it is a letter
    if marks.any():
        bases = np.maximum.accumulate(np.where(attached, 0, np.arange(len(codes))))
        classes = np.where(marks & after_space, _OF["AL"], classes)[bases]
    pairs = classes[:-1].astype(np.int64)
    behind = np.flatnonzero(space[:-1])
    if len(behind):
        solid = behind - 1  # the last character before i that is no space
        if (space[1:] & space[:-1]).any():
            solid = np.maximum.accumulate(np.where(space, -1, np.arange(len(codes))))[behind]
        before = np.where(solid < 0, _BK, classes[np.maximum(solid, 0)])
        pairs[behind] = before + np.int64(len(CLASSES))  # the second half of the table
    pairs *= len(CLASSES)
    pairs += classes[1:]
    allowed[1:-1] = _pairs().take(pairs) & ~attached[1:]
    if codes.dtype != np.uint8:
        allowed[1:-1] &= codes[:-1] != 0x200D  # LB8a
    _look_further(codes, classes, after_space, allowed)
    return allowed


def _look_further(codes: np.ndarray, classes: np.ndarray, after_space: np.ndarray, allowed: np.ndarray) -> None:
    hyphen = classes == _OF["HY"]
    if hyphen.any():
        first = hyphen & after_space  # LB20a: the minus of a number, the dash of an option
        dashes = np.flatnonzero(first[:-1] & np.isin(classes[1:], [_OF[name] for name in ("AL", "HL", "NU", "HG")]))
        allowed[dashes + 1] = False
    if codes.dtype == np.uint8:
        return
    hebrew = np.flatnonzero((classes[:-1] == _OF["HL"]) & (hyphen | (classes == _OF["BA"]))[1:])
    hebrew = hebrew[hebrew + 2 < len(codes)] + 2
    allowed[hebrew[classes[hebrew] != _OF["HL"]]] = False  # LB21a
    flags = classes == _OF["RI"]
    if flags.any():  # LB30a: flags are pairs
        run = np.arange(len(codes)) - np.maximum.accumulate(np.where(flags, -1, np.arange(len(codes))))
        allowed[:-1][flags & (run % 2 == 0)] = False
    bases = np.flatnonzero(classes == _OF["SB"])
    if len(bases):
        ahead = np.append(codes, [0, 0])
        stacked = np.isin(ahead[bases - 1], _COENG) & (bases > 0)
        closing = np.isin(ahead[bases + 1], _KILLER) | ((ahead[bases + 1] == 0x1037) & np.isin(ahead[bases + 2], _KILLER))
        allowed[bases[stacked | closing]] = False
    allowed[0] = True
