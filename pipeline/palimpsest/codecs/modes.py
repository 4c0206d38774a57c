"""Resolution modes: the sizes at which a codec sees a page, with DeepSeek-OCR's names and numbers (arXiv 2510.18234, table 1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from palimpsest.errors import UsageError


@dataclass(frozen=True)
class Mode:
    """One resolution.

    Args:
        name: tiny, small, base or large.
        px: side of the square page image in pixels.
        grid: visual tokens per side (16 px patches, compressed 16 times).
        num_vision_tokens: `grid ** 2`, the paper's count.
        num_context_tokens: rows that the decoder's context really spends: one newline per token row and a separator come on top.
    """

    name: str
    px: int
    grid: int
    num_vision_tokens: int
    num_context_tokens: int


def square(name: str, px: int) -> Mode:
    """The mode in which a DeepEncoder sees one `px x px` image."""
    side = px // 64
    return Mode(name, px, side, side * side, side * (side + 1) + 1)


MODES = {mode.name: mode for mode in (square("tiny", 512), square("small", 640), square("base", 1024), square("large", 1280))}


def find_mode(name: str, modes: Iterable[Mode] = MODES.values()) -> Mode:
    """The mode called `name`.

    Raises:
        ValueError: for a name that `modes` lack, with the choices.
    """
    named = {mode.name: mode for mode in modes}
    if name not in named:
        raise UsageError(f"mode {name!r}: choose one of {', '.join(named)}")
    return named[name]
