"""The fonts that ship with the package: under free licences, recorded by hash, read once.

The licence texts lie beside the fonts. The fallback chain of a character is: the font of its script, DejaVu Sans Mono, the
bitmaps of Unifont; what none of them has is written as an escape.
"""

from __future__ import annotations

import hashlib
import lzma
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np


class Font(NamedTuple):
    """What is known of a file in `fonts/`."""

    name: str
    licence: str
    copyright: str
    sha256: str


FONTS = {
    "DejaVuSansMono.ttf": Font(
        "DejaVu Sans Mono 2.37",
        "Bitstream Vera (LICENSE-DejaVu.txt)",
        "2003 Bitstream, Inc.; 2006 Tavmjong Bah; DejaVu changes in the public domain",
        "0f5db4f1749979d961019838b160bec74abdf7f9eca69553fe1aa856bbff49a4",
    ),
    "unifont.xz": Font(
        "GNU Unifont 15, glyph bitmaps",
        "OFL-1.1 (LICENSE-OFL.txt)",
        "1998-2022 Roman Czyborra, Paul Hardy and others",
        "6ee404327f88bb3a770514875214c75ec9677a5b5307376629b3478bddf5cf6a",
    ),
    "cell_widths.z": Font(
        "cells per character (bake.py)",
        "Apache-2.0",
        "this project",
        "6ff2386f3240888d09d6741dcf8cbbdfd79cc1c4c440f626d60a85a223224839",
    ),
    "NotoNaskhArabic-Regular.ttf": Font(
        "Noto Naskh Arabic 2.004",
        "OFL-1.1 (LICENSE-OFL.txt)",
        "2019-2020 Google LLC",
        "8c67eaa2f0086872628fc3f7f760386f83c8be5c5e9a1ba3a38891237b2ac7cb",
    ),
    "NotoSansDevanagari-Regular.ttf": Font(
        "Noto Sans Devanagari 2.001",
        "OFL-1.1 (LICENSE-OFL.txt)",
        "2015 Google Inc.",
        "79a470365ccb210fa3c7d8d8ff2e005ef9d983cfd067f735a0caf7e15070ca9f",
    ),
    "NotoSansHebrew-Regular.ttf": Font(
        "Noto Sans Hebrew 3.000",
        "OFL-1.1 (LICENSE-OFL.txt)",
        "2019 Google Inc.",
        "436900d5ad77d33e4234247f3076eaecd25b92b9bea0519514f684140e3566a7",
    ),
    "NotoSansThai-Regular.ttf": Font(
        "Noto Sans Thai 2.000",
        "OFL-1.1 (LICENSE-OFL.txt)",
        "2016 Google Inc.",
        "dfbd5ed0f1e68c3cbc51aa08f646d1ab0e68e7c4ceab70a69e465225ff701f93",
    ),
    "NotoSansBengali-Regular.ttf": Font(
        "Noto Sans Bengali 2.001",
        "OFL-1.1 (LICENSE-OFL.txt)",
        "2017 Google Inc.",
        "9bb35b3547829ecc42041b6017e87fd4c5f1da1edcd00f59171777050f346018",
    ),
    "NotoSansTamil-Regular.ttf": Font(
        "Noto Sans Tamil 2.001",
        "OFL-1.1 (LICENSE-OFL.txt)",
        "2017 Google Inc.",
        "a7bb7f92f165479af2f0556c4fd669b74c5959f464f603e18389b532f4d07a71",
    ),
    "NotoSansTelugu-Regular.ttf": Font(
        "Noto Sans Telugu 2.001",
        "OFL-1.1 (LICENSE-OFL.txt)",
        "2019 Google LLC",
        "cb3165071121b1e80c55a041d0c1f79b3bbc68e4b0eab37b0d881958dfc3ed7a",
    ),
    "NotoSansGurmukhi-Regular.ttf": Font(
        "Noto Sans Gurmukhi 2.001",
        "OFL-1.1 (LICENSE-OFL.txt)",
        "2019 Google Inc.",
        "1db960ff6f506a98f5b3ece78f54618388c6187e7edf8ceee5ab63389c0db3ab",
    ),
}


@cache
def font_bytes(name: str) -> bytes:
    """A file of `FONTS`, its content checked against the recorded hash.

    Raises:
        RuntimeError: when the file is not the recorded one.
    """
    data = resources.files("palimpsest.pages").joinpath(f"fonts/{name}").read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != FONTS[name].sha256:
        raise RuntimeError(f"font {name}: sha256 {found} is not the recorded {FONTS[name].sha256}; reinstall the package")
    return data


@cache
def unifont() -> tuple[np.ndarray, np.ndarray]:
    """The fallback font: code points uint16 `[n]` (sorted), bitmaps `[n, 32]` of 16 x 16 bits, 1 where there is ink."""
    raw = lzma.decompress(font_bytes("unifont.xz"))
    count = int.from_bytes(raw[:4], "little")
    codes = np.frombuffer(raw, "<u2", count, 4)
    return codes, np.frombuffer(raw, np.uint8, count * 32, 4 + 2 * count).reshape(count, 32)


def unifont_bitmap(code: int) -> np.ndarray | None:
    """uint8 `[16, 16]` of 0 and 1, or None where the fallback font has no glyph; a narrow one uses the left half."""
    codes, bits = unifont()
    at = int(np.searchsorted(codes, code))
    if at == len(codes) or codes[at] != code:
        return None
    return np.unpackbits(bits[at]).reshape(16, 16)
