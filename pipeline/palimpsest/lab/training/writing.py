"""Kinds of writing that documentation lacks, generated from its words: chat, logs, names, markup, typography, identifiers.

Documentation has no exclamation marks, curly quotes, dashes or ligatures; a reader that never saw one takes it for what it knows.
Every kind mixes words of real text with characters of the whole alphabet, so that each character is seen often and in
words. A seventh kind, "alphabet", draws all characters equally often: nothing there can be guessed.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from functools import partial

from palimpsest.pages.characters import LATIN

ASCII = string.ascii_letters + string.digits + string.punctuation
LETTERS = "".join(c for c in LATIN if c.isalpha() and not c.isascii())
TYPOGRAPHIC = "".join(c for c in LATIN if not c.isascii() and not c.isalpha()) + "ﬁﬂ"
UNCOVERED = "жΩ中語한🙂🔥ა‡ḿ\u0301☃▲"  # written as escapes
_ENDS = ("!", "!", "!!", "?", "?!", "...", "…", ".", ".", ",", ";", ":", " :)", " ;-)", "!)")
_QUOTES = ('""', "“”", "‘’", "''", "«»", "„“", "‹›", "()", "[]", "{}", "<>", "``", "**", "__")
_JOINTS = (
    "–",
    "—",
    "-",
    "/",
    "’",
    "'",
    "…",
    "·",
    "_",
    "&",
    "+",
    "=",
    "→",
    "×",
    "\\",
    "|",
    "~",
    "^",
    "§",
    "°",
    "@",
    "#",
    "$",
    "%",
)
_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "[ok]", "[!!]", "E", "W")
_SENDERS = ("user", "assistant", "system", "tool", "human", "Agent", "bot", "Q", "A")
_TAGS = ("p", "div", "span", "a", "li", "td", "h2", "code", "em", "img", "br", "script", "TABLE", "Button", "ns:item")
_SUFFIXES = ("py", "ts", "go", "rs", "json", "yaml", "md", "log", "tar.gz", "parquet", "cc", "H", "TXT")


class Writer:
    """Writes texts of the kinds in `KINDS`, deterministically for one `random.Random`.

    Args:
        rng: all chance comes from it.
        source: `source(length)` gives a piece of real text of about so many characters.
    """

    def __init__(self, rng: random.Random, source: Callable[[int], str]) -> None:
        self._rng, self._source = rng, source
        self._words: list[str] = []

    def forget(self) -> None:
        """Drop the words that wait, so that what follows depends on the state of `rng` alone."""
        self._words.clear()

    def write(self, kind: str, length: int) -> str:
        """At least `length` characters.

        Raises:
            KeyError: for a kind that is not in `KINDS`.
        """
        line = KINDS[kind]
        lines: list[str] = []
        written = 0
        while written < length:
            lines.append(line(self))
            written += len(lines[-1])
        return "".join(lines)

    def word(self) -> str:
        """A word of real text, in one of its usual forms, now and then with a letter of the whole alphabet in it."""
        if not self._words:
            self._words = [word for word in self._source(20_000).split() if 1 < len(word) < 16] or ["word"]
            self._rng.shuffle(self._words)
        word = "".join(c for c in self._words.pop() if c.isalnum()) or self._pick(ASCII)
        form = self._rng.random()
        if form < 0.3:
            word = word.lower()
        elif form < 0.45:
            word = word.capitalize()
        elif form < 0.5:
            word = word.upper()
        if self._rng.random() < 0.06:
            at = self._rng.randrange(len(word))
            word = word[:at] + self._pick(LETTERS) + word[at + 1 :]
        return word

    def name(self) -> str:
        """A name of a person, with letters of all of Latin."""
        parts = []
        for _ in range(self._rng.choice((1, 2, 2, 3))):
            size = self._rng.randint(2, 8)
            part = "".join(
                self._pick(LETTERS) if self._rng.random() < 0.2 else self._pick("aeioulnrstmdkbgvyz") for _ in range(size)
            )
            parts.append(part[0].upper() + part[1:])
        joint = self._rng.choice((" ", " ", " ", "-", "’", "' ", ". "))
        return joint.join(parts)

    def identifier(self) -> str:
        """Text that must be read exactly: paths, hashes, versions, numbers, addresses, code names."""
        rng = self._rng
        hexadecimal = "0123456789abcdef"
        some = partial(self._several, low=1, high=4)
        kinds: Sequence[Callable[[], str]] = (
            lambda: f"{'/' * rng.randint(0, 1)}{'/'.join(some(self._plain))}.{rng.choice(_SUFFIXES)}",
            lambda: "".join(rng.choices(hexadecimal, k=rng.choice((6, 7, 8, 12, 16, 32, 40)))),
            lambda: "-".join("".join(rng.choices(hexadecimal, k=k)) for k in (8, 4, 4, 4, 12)),
            lambda: "v" * rng.randint(0, 1) + ".".join(some(lambda: str(rng.randint(0, 30)))) + rng.choice(("", "-rc1")),
            lambda: "_".join(some(self._plain)),
            lambda: "".join(word.capitalize() for word in some(self._plain)) + rng.choice(("", "()", "[0]", "<T>", "Id")),
            lambda: self._plain() + "".join(word.capitalize() for word in some(self._plain)),
            lambda: f"{self._plain()}@{self._plain()}.{rng.choice(('com', 'org', 'io', 'de'))}",
            lambda: f"https://{self._plain()}.{rng.choice(('com', 'org', 'dev'))}/{'/'.join(some(self._plain))}?q=1&n=20#L7",
            lambda: "".join(rng.choices(string.ascii_letters + string.digits + "-_", k=rng.randint(6, 24))),
            lambda: f"{rng.choice(('ABC', 'BUG', 'PR', 'JIRA', 'X'))}-{rng.randint(1, 99999)}",
            lambda: f"{rng.choice('$€£¥')}{rng.randint(0, 10**6):,}.{rng.randint(0, 99):02}",
            lambda: f"0x{rng.getrandbits(32):X}",
            lambda: ".".join(str(rng.randint(0, 255)) for _ in range(4)) + f":{rng.randint(1, 65535)}",
            lambda: f"+{rng.randint(1, 99)} {rng.randint(100, 999)} {rng.randint(1000, 9999)}-{rng.randint(10, 99)}",
        )  # fmt: skip
        return rng.choice(kinds)()

    def time(self) -> str:
        rng = self._rng
        day = f"{rng.randint(1970, 2035)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        clock = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
        noon = rng.choice(("am", "pm", "AM", "PM"))
        spoken = f"{rng.randint(1, 12)}:{rng.randint(0, 59):02} {noon} on {rng.randint(1, 31)} May, {rng.randint(2000, 2030)}"
        return rng.choice((f"{day}T{clock}Z", f"{day} {clock},{rng.randint(0, 999):03}", clock, day, spoken))

    def chat(self) -> str:
        """A turn of a conversation."""
        rng = self._rng
        sentence = self._sentence(4, 18)
        if rng.random() < 0.25:
            sentence = self._quoted(sentence)
        who = rng.choice((self.name(), rng.choice(_SENDERS)))
        sender = rng.choice((f"{who}: ", f"[{who}] ", f"{who}> ", f"<|{who}|>", ""))
        return sender + sentence + rng.choice(_ENDS) + rng.choice((" ", "\n", "\n", "\n\n"))

    def log(self) -> str:
        """A line that a program wrote."""
        rng = self._rng
        fields = (f"{self._plain()}={self.identifier()}" for _ in range(rng.randint(0, 3)))
        head = rng.choice(
            (f"{self.time()} {rng.choice(_LEVELS)} ", f"[{self.time()}] {rng.choice(_LEVELS)}: ", f"$ {self._plain()} -", "")
        )
        return head + self._sentence(2, 8) + rng.choice((" ", ": ", " - ", " → ")) + " ".join(fields) + "\n"

    def names(self) -> str:
        """Names, in a list or in a sentence."""
        return self._rng.choice((f"{self.name()}, ", f"{self.name()}\n", f"{self.word()} {self.name()}’s {self.word()}. "))

    def markup(self) -> str:
        """Markdown, HTML, LaTeX, JSON or a shell line."""
        rng = self._rng
        words = self._sentence(2, 8)
        tag = rng.choice(_TAGS)
        return rng.choice(
            (
                f"{'#' * rng.randint(1, 4)} {words}\n",
                f"{'  ' * rng.randint(0, 3)}{rng.choice('-*+')} {self._quoted(words)} {words}\n",
                f"[{words}]({self.identifier()}) ",
                f'<{tag} class="{self._plain()}" id=\'{self._plain()}\'>{words}</{tag}>\n',
                f"$x_{{{self._pick(ASCII)}}}^{{{rng.randint(0, 9)}}} \\{self._plain()}{{{self.word()}}}$ ",
                f'{{"{self._plain()}": "{words}", "{self._plain()}": [{rng.randint(-9, 999)}, null]}}\n',
                f"| {self.word()} | {self.identifier()} | {self._pick(ASCII)} |\n",
                f"```{self._plain()}\n{self._plain()}({self.identifier()!r})  # {words}\n```\n",
                f"&{self._plain()}; <!-- {words} --> ",
            )
        )  # fmt: skip

    def typography(self) -> str:
        """A sentence as a typesetter sets it: quotes, dashes, ligatures, apostrophes, signs."""
        rng = self._rng
        words = [self.word() for _ in range(rng.randint(4, 14))]
        for index, word in enumerate(words):
            chance = rng.random()
            if chance < 0.12:
                words[index] = self._quoted(word)
            elif chance < 0.24:
                words[index] = word + rng.choice(_JOINTS) + self.word()
            elif chance < 0.34:
                words[index] = word + rng.choice(("’s", "’t", "’ll", "’re", "'s", "n’t", "s’"))
            elif chance < 0.42:
                words[index] = word[:1] + rng.choice(("ﬁ", "ﬂ")) + word[1:]
            elif chance < 0.54:
                words[index] = word + rng.choice((" ", "")) + self._pick(TYPOGRAPHIC)
            elif chance < 0.6:
                words[index] = word + rng.choice((",", ";", ":", "!", "?"))
        dash = rng.choice((" ", " ", " ", " – ", " — ", "—"))
        return (
            " ".join(words[: len(words) // 2]) + dash + " ".join(words[len(words) // 2 :]) + rng.choice(_ENDS) + rng.choice(" \n")
        )

    def identifiers(self) -> str:
        """Identifiers among a few words."""
        return self._rng.choice((self.word() + " ", "", "")) + self.identifier() + self._rng.choice((" ", " ", ", ", "\n", "\t"))

    def alphabet(self) -> str:
        """Characters of the whole alphabet in equal shares, in groups."""
        rng = self._rng
        if rng.random() < 0.03:
            return rng.choice(UNCOVERED)
        pool = LATIN.replace(" ", "") if rng.random() < 0.6 else ASCII
        group = "".join(rng.choices(pool, k=rng.randint(1, 12)))
        return group + rng.choice((" ", " ", " ", " ", "", "  ", "   ", "\n", "\t"))

    def _sentence(self, low: int, high: int) -> str:
        rng = self._rng
        words = []
        for _ in range(rng.randint(low, high)):
            chance = rng.random()
            word = self.identifier() if chance < 0.04 else self._quoted(self.word()) if chance < 0.08 else self.word()
            if rng.random() < 0.06:
                word += rng.choice(("'s", "’s", "n't", "'m", "'ll", "’re"))
            if rng.random() < 0.08:
                word += rng.choice(",,;:!?…")
            words.append(word)
        return " ".join(words)

    def _quoted(self, text: str) -> str:
        pair = self._rng.choice(_QUOTES)
        return pair[0] + text + pair[1]

    def _plain(self) -> str:
        return "".join(c for c in self.word().lower() if c.isascii()) or "x"

    def _several(self, what: Callable[[], str], low: int, high: int) -> list[str]:
        return [what() for _ in range(self._rng.randint(low, high))]

    def _pick(self, pool: str) -> str:
        return self._rng.choice(pool)


KINDS: dict[str, Callable[[Writer], str]] = {
    "chat": Writer.chat,
    "log": Writer.log,
    "names": Writer.names,
    "markup": Writer.markup,
    "typography": Writer.typography,
    "identifiers": Writer.identifiers,
    "alphabet": Writer.alphabet,
}
