"""Chats with planted facts for `bench use`, in words of seven letters.

With its space a word fills eight cells, the width of a visual token on the grid 64x32, and speakers' names are filled up to that.
So every word is inside one visual token, and a projector of two layers can learn to see words in a few minutes on a CPU. Text for
which no such care is taken needs a larger projector and more training, not more tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from palimpsest.loading.consumer import TextConsumer

PAGE_WORDS = 256  # of a page of 64x32 cells
HEADS = {"user": ("I", 1), "assistant": ("well", 2)}  # "user: I " fills one word, "assistant: well " two
RECENT, SPECIAL = "recent", ("[UNK]", "</s>", "<image>")
_ONSETS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Words:
    """What chats are made of; no word is in two of its lists."""

    filler: tuple[str, ...]
    kinds: tuple[str, ...]
    values: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Chat:
    """A conversation, and where each kind of fact occurs: "page 1" (the oldest), "page 2", …, "recent"."""

    id: str
    messages: list[dict[str, str]]
    band: dict[str, str]


def make_words(kinds: int, values: int, filler: int, draw: random.Random) -> Words:
    """Invented words of seven letters."""
    found: set[str] = set()
    while len(found) < kinds * (1 + values) + filler:
        found.add("".join(draw.choice(_VOWELS if place % 2 else _ONSETS) for place in range(7)))
    words = sorted(found)
    draw.shuffle(words)
    names = tuple(words[:kinds])
    at = kinds + kinds * values
    told = {name: tuple(words[kinds + n * values : kinds + (n + 1) * values]) for n, name in enumerate(names)}
    return Words(tuple(words[at:]), names, told)


def make_chat(name: str, words: Words, pages: int, recent_words: int, draw: random.Random) -> Chat:
    """A chat of `pages` full pages and a recent rest. Each kind of fact is stated once, the kinds dealt evenly over pages and
    rest; the last reply repeats all of them in another order."""
    bodies: list[list[str]] = []
    places: dict[str, list[tuple[int, int]]] = {}  # of two words in a row, by band
    at, end = 0, pages * PAGE_WORDS + recent_words
    while at < end or len(bodies) % 2 == 0:  # the user speaks first and last
        at += list(HEADS.values())[len(bodies) % 2][1]
        body = draw.choices(words.filler, k=draw.randrange(8, 25))
        for place in range(0, len(body) - 1, 2):
            page = (at + place) // PAGE_WORDS
            if page == (at + place + 1) // PAGE_WORDS:
                places.setdefault(f"page {page + 1}" if page < pages else RECENT, []).append((len(bodies), place))
        bodies.append(body)
        at += len(body)
    bands = [*(f"page {number + 1}" for number in range(pages)), RECENT]
    order = draw.sample(words.kinds, len(words.kinds))
    told = {kind: draw.choice(words.values[kind]) for kind in order}
    for number, band in enumerate(bands):
        mine = order[number :: len(bands)]
        for kind, (turn, place) in zip(mine, draw.sample(places[band], len(mine)), strict=True):
            bodies[turn][place : place + 2] = kind, told[kind]
    roles = list(HEADS)
    messages = [
        {"role": roles[turn % 2], "content": " ".join([HEADS[roles[turn % 2]][0], *body])} for turn, body in enumerate(bodies)
    ]
    reply = " ".join(f"{kind} {told[kind]}" for kind in draw.sample(order, len(order)))
    band_of = {kind: bands[number % len(bands)] for number, kind in enumerate(order)}
    return Chat(name, [*messages, {"role": "assistant", "content": reply}], band_of)


def consumer_of(words: Words) -> TextConsumer:
    """The language model's vocabulary: one id for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = [*SPECIAL, "user:", "assistant:", *(head for head, _ in HEADS.values()), *words.filler, *words.kinds]
    known += [value for values in words.values.values() for value in values]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token=SPECIAL[0]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return TextConsumer(made, eos_id=1, pad_id=1, image_id=2)


def record_of(chat: Chat) -> dict[str, Any]:
    return {"id": chat.id, "messages": chat.messages}
