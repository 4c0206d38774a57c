"""Errors planted in texts whose right reading is known, and facts planted in conversations."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

ERROR_SHARES = (0.0, 0.01, 0.03, 0.1, 0.3)


def plant_errors(ids: Sequence[int], share: float, choices: Sequence[int], draw: random.Random) -> list[int]:
    """`ids` with `share * len(ids)` errors, at least one unless `share` is 0.

    Half of them replace a token with another of `choices`, a quarter drops one, a quarter inserts one.
    """
    planted: list[list[int]] = [[token] for token in ids]
    for index in draw.sample(range(len(ids)), min(len(ids), max(int(share > 0), round(share * len(ids))))):
        kind, other = draw.random(), draw.choice([token for token in choices if token != ids[index]])
        planted[index] = [other] if kind < 0.5 else [] if kind < 0.75 else [other, ids[index]]
    return [token for tokens in planted for token in tokens]


@dataclass(frozen=True)
class Fact:
    """A span of a conversation: `value` begins at character `start` (of turn `turn`, or of the transcript)."""

    kind: str
    value: str
    turn: int
    start: int


_NAMES = ("the harbour master", "her sister", "the new tenant", "the night nurse", "our supplier", "the judge")
_COUNTS = ("the tank holds", "the invoice says", "the meter shows", "the depth is", "the fare was", "the plot measures")
_LOCKS = ("the gate", "the safe", "the booking", "the parcel", "the router", "the archive")
_SYLLABLES = ("va", "ro", "lin", "mek", "sol", "da", "tur", "en", "bri", "kas", "no", "wel", "hi", "gor", "pa")
_CODE = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def plant_facts(filler: str, size: int, count: int, draw: random.Random) -> tuple[list[str], list[Fact]]:
    """Turns of 150 to 600 characters of `filler`, about `size` in all, and `count` facts spread evenly over them.

    Every value occurs once; `start` of a fact counts from the beginning of its turn.
    """
    turns: list[str] = []
    at = total = 0
    while total < size:
        end = at + draw.randint(150, 600)
        turns.append(" ".join(filler[at % len(filler) :][: end - at].split()) or "Yes.")
        total += len(turns[-1])
        at = end % len(filler)
    facts: list[Fact] = []
    whole = "\n".join(turns)
    known: set[str] = set()
    for number in range(count):
        turn = min(len(turns) - 1, int((number + draw.random()) * len(turns) / count))
        kind = ("name", "number", "code", "sentence")[number % 4]
        value = ""
        while not value or value in whole or any(value in other or other in value for other in known):
            value, sentence = _fact(kind, filler, draw)
        known.add(value)
        facts.append(Fact(kind, value, turn, len(turns[turn]) + 1 + sentence.index(value)))
        turns[turn] += f" {sentence}"
    return turns, facts


def _fact(kind: str, filler: str, draw: random.Random) -> tuple[str, str]:
    """A value, and the sentence that states it."""
    if kind == "name":
        first, last = ("".join(draw.choices(_SYLLABLES, k=draw.randint(2, 3))).capitalize() for _ in range(2))
        return f"{first} {last}", f"Remember that {draw.choice(_NAMES)} is called {first} {last}."
    if kind == "number":
        value = f"{draw.randint(10_000, 9_999_999):,}"
        return value, f"Remember that {draw.choice(_COUNTS)} {value}."
    if kind == "code":
        value = "-".join("".join(draw.choices(_CODE, k=4)) for _ in range(2))
        return value, f"Remember that the code for {draw.choice(_LOCKS)} is {value}."
    words = draw.sample(sorted({word for word in filler[:20_000].split() if word.isalpha()} or {"and"}) * 2, 7)
    value = " ".join(words).lower()
    return value, f'Remember what she said: "{value}".'
