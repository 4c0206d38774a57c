"""Drafts in several conventions: fewer passes, never another output. A replayed decoder writes what was recorded."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from palimpsest.codecs.dialects import find_dialect
from palimpsest.lab.bench.replay import EOS, Reader, Recording, ReplayedDecoder
from palimpsest.verification.conventions import Conventions
from palimpsest.verification.drafting import Drafter
from palimpsest.verification.greedy import decode
from palimpsest.verification.reading import Decoded, DraftedPage

DOCUMENT = find_dialect("document")
WORDS = tuple(
    "river stone the of a winter light and slowly under water bridge morning every house which never carried".split()  # noqa: SIM905
)


def word_tokenizer() -> Tokenizer:
    """A token is a letter or two with the space before it, or another character: joining lines changes the tokens around."""
    pieces = [f"{space}{a}{b}" for space in ("", " ") for a in "abcdefghijklmnopqrstuvwxyz" for b in ("", *"aeiourstn")]
    vocabulary = {
        token: number for number, token in enumerate(dict.fromkeys(["?", *pieces, *map(chr, range(32, 127)), "\n", "ﬁ"]))
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[a-z][aeiourstn]?|[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


TOKENIZER = word_tokenizer()


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def lines(seed: int, words: int = 150, width: int = 60) -> str:
    """Prose with line ends, and now and then a word divided at one."""
    draw, text, column = random.Random(seed), "", 0
    for _ in range(words):
        word = draw.choice(WORDS)
        if column + len(word) > width:
            cut = draw.randrange(2, len(word) - 1) if len(word) > 4 and draw.random() < 0.4 else 0
            text, column = f"{text} {word[:cut]}-\n{word[cut:]}" if cut else f"{text}\n{word}", len(word)
        else:
            text, column = f"{text} {word}", column + len(word) + 1
    return text.strip()


def misread(text: str, errors: int, seed: int) -> str:
    draw, characters = random.Random(seed), list(text)
    for place in draw.sample([n for n, character in enumerate(characters) if character.isalpha()], errors):
        characters[place] = draw.choice("xzqk")
    return "".join(characters)


def read(pages: list[tuple[str, str]], conventions: bool = True) -> list[Decoded]:
    """Decode recorded texts, drafted with others: (draft, recorded)."""
    others = [[ids(other) for other in DOCUMENT.conventions(draft)] if conventions else [] for draft, _ in pages]
    drafts = [ids(draft) for draft, _ in pages]
    known = [*drafts, *(other for some in others for other in some)]
    decoder = ReplayedDecoder([Recording(text, ids(text)) for _, text in pages], known, TOKENIZER)
    made = [
        DraftedPage(
            features=torch.zeros(1, 1),
            prompt_ids=decoder.prompt(number),
            draft_ids=[*decoder.numbered(draft), EOS],
            conventions=[[*decoder.numbered(other), EOS] for other in others[number]],
            max_new_tokens=5000,
        )
        for number, draft in enumerate(drafts)
    ]
    found = decode(decoder, made, pass_cost=128)
    for (_, text), page in zip(pages, found, strict=True):
        assert page.stopped == "eos" and decoder.text_ids(page.ids) == ids(text)
    return found


def test_joined_lines_cost_a_pass_and_not_one_for_each_line() -> None:
    pages = [lines(seed) for seed in range(6)]
    joined = [" ".join(page.split()) for page in pages]
    with_conventions = read(list(zip(pages, joined, strict=True)))
    without = read(list(zip(pages, joined, strict=True)), conventions=False)
    assert all(page.passes <= 3 for page in with_conventions)
    assert sum(page.passes for page in without) > 4 * sum(page.passes for page in with_conventions)
    kept = read(list(zip(joined, pages, strict=True)))
    assert [page.disagreements for page in read(list(zip(pages, pages, strict=True)))] == [0] * 6
    assert all(page.passes > 3 for page in kept), "the text of a page that has no line ends says nothing of where they would be"


@pytest.mark.parametrize("errors", [0, 3, 12])
def test_passes_follow_the_misread_letters(errors: int) -> None:
    pages = []
    for seed in range(6):
        page = lines(seed)
        written = (" ".join(page.split()), "".join(DOCUMENT.conventions(page)[-2:-1]) or page)[seed % 2]
        pages.append((page, misread(written, errors, seed)))
    passes = [page.passes for page in read(pages)]
    assert np.mean(passes) <= 2 * errors + 5  # a letter is up to three tokens here


def test_lines_joined_in_one_half_only() -> None:
    """The convention changes in the middle of the page, and again."""
    first, second, third = (lines(seed, 80) for seed in (1, 2, 3))
    text = "\n".join((" ".join(first.split()), second, " ".join(third.split())))
    (page,) = read([("\n".join((first, second, third)), text)])
    assert page.passes <= 12


@given(draft=st.text("ab -\nﬁ", max_size=60), text=st.text("ab -\nﬁ", max_size=60), cost=st.sampled_from([1, 16, 1000]))
def test_any_conventions_give_any_output(draft: str, text: str, cost: int) -> None:
    """Drafts decide how fast a page is decoded, never what is decoded."""
    reader, others = Reader(Recording(text, ids(text)), TOKENIZER), [ids(other) for other in DOCUMENT.conventions(draft)]
    drafter = Drafter([*ids(draft), -9], [[*other, -9] for other in others], pass_cost=cost)
    wanted = [*ids(text), -9]
    for _ in range(2 * len(wanted) + 2):
        prefix = drafter.output + [token for token in drafter.draft.tolist() if token != -9]
        chosen = [-9 if token is None else token for token in reader.choices(prefix)][len(drafter.output) :]
        chosen = np.array((chosen + [-9])[: len(drafter.draft) + 1])
        differing = np.flatnonzero(chosen[: len(drafter.draft)] != drafter.draft[: len(chosen)])
        agreed = int(differing[0]) if len(differing) else len(drafter.draft)
        written = chosen[: agreed + 1].tolist()
        if -9 in written:
            written = written[: written.index(-9) + 1]
        drafter.accept(written, agreed, chosen)
        if drafter.output[-1] == -9:
            break
    assert drafter.output == wanted


def test_blocks_are_the_differences_of_two_conventions() -> None:
    conventions = Conventions([[1, 2, 3, 4, 5], [1, 2, 9, 4, 5, 6], [1, 3, 4, 5], [1, 2, 3, 4, 5]])
    blocks = {
        other: sorted((b.start, b.stop, b.tokens.tolist(), b.first) for b in some.values())
        for other, some in conventions.blocks.items()
    }
    assert blocks == {1: [(2, 3, [9], 9), (5, 5, [6], 6)], 2: [(1, 2, [], 3)]}
    draft, origin = np.array([1, 2, 3, 4, 5]), np.arange(5)
    assert conventions.explain(origin, draft, np.array([1, 2, 9, 4, 5]), np.ones(5, bool))[2].tokens.tolist() == [9]
    assert conventions.better() is None
    conventions.explain(origin, draft, np.array([1, 2, 9, 4, 5]), np.ones(5, bool))
    assert conventions.better() == 1
    assert conventions.switch(1).tolist() == [0, 1, 2, 3, 4, 6] and conventions.reference.tolist() == [1, 2, 9, 4, 5, 6]
