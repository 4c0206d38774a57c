r"""Output dialects: what a pretrained decoder writes around the text of a page, undone by a named rule before scoring.

A model that was trained to write documents does not write a page's characters only: it joins soft-wrapped lines, marks headings
and bold words in Markdown, writes superscripts in LaTeX (`\( ^{14} \)`) and may put `<|ref|>…<|/ref|><|det|>…<|/det|>` boxes
before a block. None of that is a misread letter.

    undo   takes such markup out of the output. A construct that the page's own text uses is left alone, so a page of Markdown
           source is compared as it is.
    fold   is applied to both texts: runs of whitespace become one space, ligatures their letters, and the space that a joined
           line leaves behind a hyphen goes (`ac- quire` and `ac-quire` are the same).

Raw precision is always published as well. A new dialect is a line in `DIALECTS`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass

from palimpsest.errors import UsageError


@dataclass(frozen=True)
class Construct:
    """One kind of markup.

    Args:
        name: for people.
        pattern: where it is used; if the page's text matches too, it is no markup there.
        undo: the text of a match.
    """

    name: str
    pattern: re.Pattern[str]
    undo: Callable[[re.Match[str]], str]


def _kept(group: int) -> Callable[[re.Match[str]], str]:
    return lambda match: match[group]


def _cells(match: re.Match[str]) -> str:
    return " ".join(cell.strip() for cell in match[0].strip().strip("|").split("|"))


_GREEK = (
    "alpha α beta β gamma γ delta δ epsilon ε zeta ζ eta η theta θ kappa κ lambda λ mu μ nu ν xi ξ pi π rho ρ sigma σ tau τ "
    "phi φ chi χ psi ψ omega ω"
)
_SIGNS = (
    "times × cdot · pm ± leq ≤ geq ≥ neq ≠ approx ≈ infty ∞ degree ° circ ° rightarrow → leftarrow ← to → ldots … dots … "
    "dagger † S § bullet • prime ′"
)
_LATEX = dict(zip(*(iter(f"{_GREEK} {_SIGNS}".split()),) * 2, strict=True))


def _formula(match: re.Match[str]) -> str:
    """The characters of a short formula: superscripts, subscripts and fonts lose their commands, signs become characters."""
    text = next(group for group in match.groups() if group is not None)
    space = " " if match[0][0].isspace() and text.lstrip()[:1] not in "^_" else ""
    for _ in range(8):  # braces within braces
        before = text
        text = re.sub(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2", text)
        text = re.sub(
            r"\\(?:text|mathrm|mathbf|mathit|mathsf|textbf|textit|operatorname|overline|underline|sqrt)\s*\{([^{}]*)\}",
            r"\1",
            text,
        )
        text = re.sub(r"\s*[\^_]\s*\{([^{}]*)\}", lambda inner: inner[1].strip(), text)
        if text == before:
            break
    text = re.sub(r"\s*[\^_]\s*(\\?\w)", r"\1", text)
    text = re.sub(r"\\([A-Za-z]+)", lambda command: _LATEX.get(command[1], command[1]), text)
    text = re.sub(r"\\([^A-Za-z])", lambda escaped: escaped[1] if escaped[1] in "%$#&_{}" else " ", text)
    return space + text.replace("{", "").replace("}", "").strip()


BOXES = (
    Construct("box", re.compile(r"(?:<\|ref\|>.*?<\|/ref\|>)?<\|det\|>.*?<\|/det\|>\n?", re.S), lambda match: ""),
    Construct("special token", re.compile(r"<\|/?\w+\|>"), lambda match: ""),
)
LATEX = (
    Construct("formula", re.compile(r"\s?\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S), _formula),
    Construct("dollar formula", re.compile(r"\s?\$\s*(\^\s*\{[^{}$]*\}|\^\s*\w|_\s*\{[^{}$]*\}|_\s*\w)\s*\$"), _formula),
)
MARKDOWN = (
    Construct("fence", re.compile(r"^```\w*\n(.*?)\n?^```$", re.S | re.M), _kept(1)),
    Construct("heading", re.compile(r"^#{1,6}[ \t]+(?=\S)", re.M), lambda match: ""),
    Construct(
        "table rule", re.compile(r"^\|?[ \t]*:?-{3,}:?[ \t]*(?:\|[ \t]*:?-{3,}:?[ \t]*)*\|?[ \t]*$\n?", re.M), lambda match: ""
    ),
    Construct("table row", re.compile(r"^\|.+\|[ \t]*$", re.M), _cells),
    Construct("bold", re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*", re.S), _kept(1)),
    Construct("italic", re.compile(r"(?<![*\w])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![*\w])"), _kept(1)),
    Construct("picture", re.compile(r"!\[([^\]\n]*)\]\([^)\n]*\)"), lambda match: ""),
    Construct("link", re.compile(r"\[([^\]\n]+)\]\((?:https?:|mailto:|#|/)[^)\n]*\)"), _kept(1)),
    Construct("escape", re.compile(r"\\([\\`*_{}\[\]()#+\-.!|<>$%&~])"), _kept(1)),
)
TAGS = (
    Construct("cell", re.compile(r"</t[dh]>\s*<t[dh][^<>]*>|</tr>\s*<tr[^<>]*>|<br\s*/?>", re.I), lambda match: " "),
    Construct(
        "tag",
        re.compile(r"</?(?:table|thead|tbody|tr|td|th|sup|sub|b|i|u|em|strong|center|p|div|span)\b[^<>]*>", re.I),
        lambda match: "",
    ),
    Construct("entity", re.compile(r"&(?:amp|lt|gt|quot|nbsp|#\d+);"), lambda match: html.unescape(match[0])),
)

_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}


@dataclass(frozen=True)
class Folded:
    """A text after folding.

    Attributes:
        text: the folded text.
        origin: for each of its characters the index of the character that it comes from.
    """

    text: str
    origin: list[int]


@dataclass(frozen=True)
class Dialect:
    """How a decoder writes a page.

    Args:
        name: of the dialect, the field `dialect` of a preset.
        constructs: the markup that it may add, undone in this order.
        document: fold as documents are written: ligatures and joined lines as well as whitespace. Else whitespace alone.
    """

    name: str
    constructs: tuple[Construct, ...] = ()
    document: bool = False

    def undo(self, written: str, reference: str) -> str:
        """The output without the markup that the page's text does not use."""
        for construct in self.constructs:
            if not construct.pattern.search(reference):
                written = construct.pattern.sub(construct.undo, written)
        return written

    def fold(self, text: str) -> Folded:
        """The text as it is compared: no whitespace at the ends, one space for each run of it."""
        characters: list[str] = []
        origin: list[int] = []
        for match in re.finditer(r"\S+", text):
            if characters and not (self.document and _hyphenated(text, characters, match)):
                characters.append(" ")
                origin.append(match.start() - 1)
            for index, character in enumerate(match[0], match.start()):
                letters = _LIGATURES.get(character, character) if self.document else character
                characters.extend(letters)
                origin.extend([index] * len(letters))
        return Folded("".join(characters), origin)

    def conventions(self, text: str) -> list[str]:
        """The text as a decoder of this dialect may also write it: lines joined, hyphens closed or dropped, ligatures spelt."""
        if not self.document:
            return []
        joined = " ".join(text.split())
        closed = re.sub(r"(?<=[^\W\d_])- (?=[^\W\d_])", "-", joined)
        dropped = re.sub(r"(?<=[^\W\d_])- (?=[^\W\d_])", "", joined)
        letters = "".join(_LIGATURES.get(character, character) for character in joined)
        paragraphs = "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
        return [other for other in dict.fromkeys((joined, paragraphs, closed, dropped, letters)) if other != text]


def _hyphenated(text: str, before: list[str], word: re.Match[str]) -> bool:
    """Whether the whitespace before `word` is what a joined line leaves behind a hyphen between two letters."""
    return len(before) > 1 and before[-1] == "-" and before[-2].isalpha() and text[word.start()].isalpha()


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("plain"),
        Dialect("document", (*BOXES, *LATEX, *MARKDOWN, *TAGS), document=True),
    )
}


def find_dialect(name: str) -> Dialect:
    """The dialect called `name`.

    Raises:
        ValueError: for an unknown name, with the choices.
    """
    if name not in DIALECTS:
        raise UsageError(f"codec.dialect = {name!r}: choose one of {', '.join(DIALECTS)}")
    return DIALECTS[name]
