"""Decompression in bounded steps, up to the very place where a stream breaks.

The file objects of the standard library hold back what they had read when they meet an error. Here every byte that could be
decompressed comes out first, so that the good records before the damage are kept.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from palimpsest.sources.documents import Reason, Unusable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STEP_BYTES = 1 << 14  # of decompressed data; what a corrupt place can take with it, beside the block of its format
XZ_MEMORY = 256 << 20  # bytes; `xz -9` needs 65 MiB
ZSTD_WINDOW = 256 << 20  # bytes; `zstd --long=28` needs as many


class _Decoder(Protocol):
    """What bz2, lzma and zstd share: one member of a stream."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _GzipDecoder:
    """The same for gzip, over zlib."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int = STEP_BYTES) -> bytes:
        piece = self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)
        self.needs_input = not self._inflate.unconsumed_tail and len(piece) < max_length
        return piece


def _zstd(window: int) -> _Decoder:
    log = max(10, min(31, window.bit_length() - 1))
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: log})


_DECODERS: dict[str, tuple[Callable[[int], _Decoder], type[Exception]]] = {
    ".gz": (lambda window: _GzipDecoder(), zlib.error),
    ".bz2": (lambda window: bz2.BZ2Decompressor(), OSError),
    ".xz": (lambda window: lzma.LZMADecompressor(memlimit=XZ_MEMORY), lzma.LZMAError),
    ".zst": (_zstd, zstd.ZstdError),
}
COMPRESSIONS = tuple(_DECODERS)


def decompress(compressed: Iterable[bytes], suffix: str, zstd_window: int = ZSTD_WINDOW) -> Iterator[bytes]:
    """The decompressed bytes of a stream of one or more members, in pieces of at most STEP_BYTES.

    Args:
        suffix: one of COMPRESSIONS.
        zstd_window: bytes; a stream that needs a bigger window is refused.

    Raises:
        Unusable: TRUNCATED, WINDOW_TOO_LARGE or CORRUPT_COMPRESSION, after everything before the damage was yielded.
    """
    new, broken = _DECODERS[suffix]
    decoder, inside, members = new(zstd_window), False, 0
    for data in compressed:
        while data or (inside and not decoder.needs_input):
            if members and not inside:
                data = data.lstrip(b"\0")  # padding between members
                if not data:
                    break
            inside = True
            try:
                piece = decoder.decompress(data, STEP_BYTES)
            except broken as error:
                if "too much memory" in str(error):
                    said = f"{suffix} member {members} needs a window of more than source.zstd_window = {zstd_window} bytes"
                    raise Unusable(Reason.WINDOW_TOO_LARGE, said) from None
                raise Unusable(Reason.CORRUPT_COMPRESSION, f"{suffix} member {members}: {error}") from None
            data = b""
            if piece:
                yield piece
            if decoder.eof:
                data, decoder, inside, members = decoder.unused_data, new(zstd_window), False, members + 1
    if inside or not members:
        raise Unusable(Reason.TRUNCATED, f"{suffix} member {members} ends too early")
