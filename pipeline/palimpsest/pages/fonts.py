"""Fonts and tables that ship with the package, under free licences, recorded by hash; and the CJK font, which is an extra.

`fonts/catalogue.json` has the name, licence, copyright and SHA-256 of each file. The licence texts are in the same folder.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import subprocess
from functools import cache
from importlib import resources, util
from pathlib import Path
from typing import NamedTuple

import numpy as np

from palimpsest.errors import InstallationError, UsageError


class Font(NamedTuple):
    """An entry of the catalogue."""

    name: str
    licence: str
    copyright: str
    sha256: str


_FOLDER = resources.files("palimpsest.pages").joinpath("fonts")
FONTS = {name: Font(**entry) for name, entry in json.loads(_FOLDER.joinpath("catalogue.json").read_text("utf-8")).items()}
GRID_FONTS = ("DejaVuSansMono.ttf", "unifont.xz", "cell_widths.z")

CJK = "NotoSansCJK-Regular.ttc"  # 19 MB, of 65,535 ideographs, kana and Hangul syllables; five regional faces
CJK_SHA256 = "b76b0433203017ca80401b2ee0dd69350349871c4b19d504c34dbdd80541690a"
CJK_FACES = {"ja": 0, "ko": 1, "zh": 2}
_CJK_PACKAGE = "noto_cjk_sans_otc"  # of the extra palimpsest[cjk]
_CJK_PATHS = ("/usr/share/fonts/opentype/noto", "/usr/share/fonts/noto-cjk", "/usr/local/share/fonts")


@cache
def font_bytes(name: str) -> bytes:
    """A file of `FONTS`, its content checked against the recorded hash.

    Raises:
        InstallationError: when the file is missing or not the recorded one.
    """
    try:
        data = _FOLDER.joinpath(name).read_bytes()
    except OSError as error:
        raise InstallationError(f"font {name} cannot be read ({error}); reinstall the package") from error
    found = hashlib.sha256(data).hexdigest()
    if found != FONTS[name].sha256:
        raise InstallationError(f"font {name}: sha256 {found} is not the recorded {FONTS[name].sha256}; reinstall the package")
    return data


class CjkFont(NamedTuple):
    """A CJK font on this machine. It travels between processes by its hash; each finds the file again."""

    path: str
    sha256: str

    def data(self) -> bytes:
        """The file's content.

        Raises:
            UsageError: when it is no longer the file that was found.
        """
        content = _content(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise UsageError(f"layout.cjk_font: {self.path} has changed since the job began; its sha256 was {self.sha256}")
        return content


@cache
def find_cjk(setting: str, sha256: str = "") -> CjkFont | None:
    """The CJK font that `layout.cjk_font` asks for.

    Args:
        setting: "auto" (the extra's package, the usual folders, then fontconfig; None where there is none), "none", or a path.
        sha256: accept only this content; for a worker that must draw with the font of the driver.

    Raises:
        UsageError: for a path that is no font file, or no file with the hash asked for.
    """
    if setting == "none":
        return None
    candidates = [Path(setting)] if setting != "auto" else _cjk_candidates()
    for path in candidates:
        if setting == "auto" and not path.is_file():
            continue
        found = CjkFont(str(path), hashlib.sha256(_content(str(path))).hexdigest())
        if found.sha256 == (sha256 or (CJK_SHA256 if setting == "auto" else found.sha256)):
            return found
    if sha256:
        raise UsageError(
            f"layout.cjk_font = {setting!r}: no font with sha256 {sha256} here; install palimpsest[cjk] on every machine"
        )
    return None


@cache
def _content(path: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"layout.cjk_font = {path!r}: cannot be read ({error.strerror})") from error
    if data[:4] not in (b"ttcf", b"OTTO", b"true", b"\x00\x01\x00\x00"):
        raise UsageError(f"layout.cjk_font = {path!r} is no TrueType or OpenType font")
    return data


def _cjk_candidates() -> list[Path]:
    package = util.find_spec(_CJK_PACKAGE)
    folders = [*(package.submodule_search_locations or () if package else ()), *_CJK_PATHS]
    found = [Path(folder) / CJK for folder in folders]
    try:
        listed = subprocess.run(["fc-list", "-f", "%{file}\n", "Noto Sans CJK SC"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):  # no fontconfig on this machine
        return found
    return found + [Path(line) for line in sorted(set(listed.stdout.splitlines())) if line.endswith(CJK)]


@cache
def unifont() -> tuple[np.ndarray, np.ndarray]:
    """The grid's fallback font: code points uint16 `[n]` (sorted), bitmaps `[n, 32]` of 16 x 16 bits, 1 where there is ink."""
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
