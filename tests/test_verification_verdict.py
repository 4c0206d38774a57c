"""Drafts, loops, early stopping, the blank-page control and the verdict: everything that needs no model."""

from __future__ import annotations

import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.verification import fidelity
from palimpsest.verification.control import is_sampled, sampled
from palimpsest.verification.drafting import TAIL, Drafter, _align, align, best_length, repetition, revised
from palimpsest.verification.early_stop import EarlyStop, PrecisionBound, stable_prefix
from palimpsest.verification.loops import LoopWatch, Stretches
from palimpsest.verification.reading import Cut, Decoded
from palimpsest.verification.verdict import judge

IDS = st.lists(st.integers(0, 3), max_size=40)


@pytest.mark.parametrize(
    ("written", "expected", "place"),
    [
        ([4, 5, 6, 99], 8, 8),  # substitution
        ([4, 5, 6, 8], 8, 9),  # token 7 left out
        ([4, 5, 6, 99, 7], 9, 8),  # 99 put in
        ([0, 1, 2, 3, 4, 5, 6, 40, 41, 42, 43, 44, 45], 13, 46),  # a line skipped
        ([99], 1, 1),
        ([30], 1, 1),  # one common token is no reason to jump
    ],
)
def test_output_is_found_again_in_the_reference(written: list[int], expected: int, place: int) -> None:
    assert align(written[-8:], np.arange(100), expected)[0] == place


def test_repetition_continues_the_ending() -> None:
    assert repetition([9, 1, 2, 3, 1, 2], 5) == [3, 1, 2, 3, 1]
    assert repetition([1, 2, 3, 4], 5) == [] and repetition([], 3) == []


@given(
    reference=st.lists(st.integers(0, 5), max_size=60),
    seed=st.integers(0, 99),
    expected=st.integers(0, 60),
    edits=st.integers(0, 4),
)
def test_the_shortcuts_of_aligning_change_nothing(reference: list[int], seed: int, expected: int, edits: int) -> None:
    draw, expected = np.random.default_rng(seed), min(expected, len(reference))
    tail = reference[max(0, expected - TAIL) : expected] or [0]
    for _ in range(edits):
        place = int(draw.integers(len(tail)))
        tail = [*tail[:place], *draw.integers(0, 6, int(draw.integers(3))).tolist(), *tail[place + 1 :]] or [1]
    ids = np.array(reference, np.int64)
    assert align(tail[-TAIL:], ids, expected) == _align(tail[-TAIL:], ids, expected, 256)


def reader(truth: list[int], draft: np.ndarray, start: int) -> np.ndarray:
    """What a decoder chooses that reads its page: after each prefix of a draft, the token at that place of the truth that an
    alignment with the last two drafted tokens finds; it loses the thread for one token after each error."""
    chosen, place = [], start
    for token in [*draft.tolist(), -1]:
        chosen.append(truth[place] if place < len(truth) else -2)
        if place < len(truth) and token == truth[place]:
            place += 1
        elif place + 1 < len(truth) and token == truth[place + 1]:
            place += 2  # the draft left one out
        elif chosen[-1] != -2 and (len(chosen) < len(draft) and draft[len(chosen)] != truth[place]):
            place += 1  # it replaced one; else it put one in, and the place stays
    return np.array(chosen)


def drafted(drafter: Drafter, truth: list[int]) -> int:
    """Decode with a reader of `truth`; returns the passes."""
    passes = 0
    while len(drafter.output) < len(truth):
        draft, start, passes = drafter.draft[: len(truth) - len(drafter.output) - 1], len(drafter.output), passes + 1
        chosen = reader(truth, draft, start)
        agreed = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, draft, strict=False)))
        drafter.accept(chosen[: agreed + 1].tolist(), agreed, chosen)
    return passes


@given(reference=IDS, truth=IDS, revise=st.booleans(), cost=st.sampled_from([1, 16, 1000]))
def test_drafter_reaches_any_output(reference: list[int], truth: list[int], revise: bool, cost: int) -> None:
    drafter = Drafter(reference, revise=revise, pass_cost=cost)
    drafted(drafter, truth)
    assert drafter.output == truth
    assert truth != reference or drafter.disagreements == 0


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3])
def test_corrections_save_most_of_the_passes(share: float) -> None:
    draw = np.random.default_rng(int(100 * share))
    truth = draw.integers(0, 1000, 900).tolist()
    wrong = draw.random(len(truth)) < share
    reference = [int(draw.integers(1000, 2000)) if bad else token for token, bad in zip(truth, wrong, strict=True)]
    drafter, plain = (Drafter(reference, revise=revise, pass_cost=1000) for revise in (True, False))
    errors = int(wrong.sum())
    assert drafted(plain, truth) >= 0.9 * errors
    assert drafted(drafter, truth) <= 3 + 0.35 * errors and drafter.output == truth


def test_a_draft_is_revised_where_the_model_followed_it() -> None:
    draft, none = np.arange(10, 20), np.full(10, -1)
    chosen = np.array([99, 98, 12, 13, 94, 93, 17, 17, 18, 19])  # at 0 and 1 it is lost; 14 is replaced, 15 untold, 16 too much
    tokens, replaced, kept = revised(draft, chosen, none)
    assert tokens.tolist() == [10, 11, 12, 13, 94, 15, 16, 17, 18, 19] and replaced.tolist() == [-1] * 4 + [14] + [-1] * 5
    chosen = np.array([10, 11, 13, 13, 14, 15, 16, 17, 18, 19])
    tokens, replaced, kept = revised(draft, chosen, none)
    assert tokens.tolist() == [10, 11, 13, 14, 15, 16, 17, 18, 19] and kept.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    was = np.where(draft == 12, 55, -1)  # 12 took the place of 55, which the model now wants behind it
    tokens, replaced, kept = revised(draft, np.array([10, 11, 12, 55, 14, 15, 16, 17, 18, 19]), was)
    assert tokens.tolist() == [10, 11, 12, 55, *range(13, 20)] and kept.tolist() == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]


def test_drafts_are_as_long_as_they_are_worth() -> None:
    lengths = [best_length(run, 16) for run in (0.1, 1.0, 3.0, 30.0, 300.0)]
    assert lengths == sorted(lengths) and lengths[0] == 1 and 3 <= lengths[2] <= 8 and 20 <= lengths[3] <= 40
    assert best_length(30.0, 1000) > 2 * best_length(30.0, 16) and best_length(0.0, 16) == 1


@given(ids=st.lists(st.integers(0, 2), min_size=1, max_size=60), cuts=st.lists(st.integers(1, 9), min_size=60, max_size=60))
def test_stretches_in_pieces_equal_stretches_by_definition(ids: list[int], cuts: list[int]) -> None:
    stretches, pieces, start = Stretches(8), [], 0
    for size in cuts:
        if start < len(ids):
            pieces.append(stretches.extend(np.array(ids[start : start + size])))
            start += size
    found = np.concatenate(pieces, axis=1)
    for period, place in itertools.product(range(1, 9), range(len(ids))):
        length = 0
        while place - length - period >= 0 and ids[place - length] == ids[place - length - period]:
            length += 1
        assert found[period - 1, place] == (length + period if length else 0)


def test_loop_is_cut_at_one_place_however_the_tokens_arrive() -> None:
    output = [*range(100, 150), *[1, 2, 3] * 60]
    whole = LoopWatch([])(output)
    assert whole == Cut(length=114, reason="loop", detail="period 3, 64 tokens up to token 114")
    growing = LoopWatch([])
    assert next(cut for end in range(len(output)) if (cut := growing(output[:end]))) == whole


def test_repetition_of_the_reference_is_no_loop() -> None:
    dashes = [5] * 90
    assert LoopWatch(dashes)([*dashes, *[5] * 38]) is None
    cut = LoopWatch(dashes)([*dashes, *[5] * 102])
    assert cut == Cut(length=154, reason="loop", detail="period 1, 154 tokens up to token 154")
    assert LoopWatch([])(list(range(500))) is None
    with pytest.raises(ValueError, match="min_repeats is 1"):
        LoopWatch([], min_repeats=1)


@given(
    reference=st.text("abc", max_size=12), start=st.text("abc", max_size=8), rest=st.lists(st.text("abc", max_size=8), min_size=5)
)
def test_no_continuation_beats_the_bound_and_one_reaches_it(reference: str, start: str, rest: list[str]) -> None:
    bound = PrecisionBound(reference)
    for character in start:
        bound.extend(character)
    continuations = [start + y for y in [*rest, "", *(reference[j:] for j in range(len(reference) + 1))]]
    scores = fidelity.precision([reference] * len(continuations), continuations)
    assert scores.max() == bound.upper


def test_early_stop_waits_for_proof() -> None:
    reference = "the quick brown fox jumps over the lazy dog " * 4
    watch = EarlyStop(reference, 0.95, lambda ids: "".join(map(chr, ids)), stride=1)
    wrong = [ord(c) for c in reference.replace("o", "0")]
    cut = watch(wrong)
    assert cut is not None and cut.reason == "early_stop" and cut.precision_bound is not None and cut.precision_bound < 0.95
    assert 50 < cut.length < len(wrong)
    assert EarlyStop(reference, 0.9, lambda ids: "".join(map(chr, ids)))([ord(c) for c in reference]) is None
    with pytest.raises(ValueError, match="target_precision is 0"):
        EarlyStop(reference, 0, lambda ids: "")


@given(start=st.text(max_size=20), more=st.text(max_size=20))
def test_stable_prefix_survives_composition_and_stripping(start: str, more: str) -> None:
    def finish(text: str) -> str:
        return unicodedata.normalize("NFC", text).rstrip()

    assert finish(start + more).startswith(stable_prefix(finish(start)))


def test_stable_prefix_survives_unfinished_bytes() -> None:
    data = "naïve Grüße 字a𝄞".encode()
    whole = data.decode()
    assert all(whole.startswith(stable_prefix(data[:end].decode("utf-8", "replace"))) for end in range(len(data)))
    assert stable_prefix(whole) == "naïve Grüße 字"


def test_control_sample_is_stable_nested_and_of_the_right_size() -> None:
    pages = [f"page-{number}" for number in range(4000)]
    small, large = set(sampled(pages, 0.05)), set(sampled(pages, 0.2))
    assert small < large and 140 < len(small) < 260 and 700 < len(large) < 900
    assert sampled(pages, 0) == [] and len(sampled(pages, 1)) == len(pages)
    assert [is_sampled(page, 0.05) for page in pages[:200]].index(True) == min(small)
    with pytest.raises(ValueError, match="share is 2"):
        is_sampled("x", 2)


def page(cut: Cut | None = None, **more: object) -> Decoded:
    return Decoded(**{**dict(ids=(5, 1), passes=3, disagreements=2, stopped="early" if cut else "eos", cut=cut), **more})  # type: ignore[arg-type]


def test_verdicts() -> None:
    loop_cut, early_cut = Cut(length=2, reason="loop", detail="period 1"), Cut(length=2, reason="early_stop", precision_bound=0.8)
    cuts = [None, None, None, loop_cut, early_cut]
    references, texts = ["abcd"] * 5, ["abcd", "abcx", "xxxx", "abcd", "ab"]
    right, near, wrong, loop, stopped = judge(
        references, texts, [page(cut) for cut in cuts], target_precision=0.75, blank_texts=["", None, "abxx", None, None]
    )
    assert (right.status, right.exact, right.decoded_text, right.precision, right.reason) == ("verified", True, None, 1.0, None)
    assert (near.status, near.exact, near.decoded_text, near.precision) == ("verified", False, "abcx", 0.75)
    assert (wrong.status, wrong.precision, wrong.word_precision) == ("below_target", 0.0, 0.0)
    assert (loop.status, loop.reason, loop.detail) == ("below_target", "loop", "period 1")
    assert (loop.exact, loop.decoded_text) == (False, "abcd")
    assert (stopped.status, stopped.reason) == ("below_target", "early_stop")
    assert (stopped.precision, stopped.word_precision) == (0.8, None)
    assert [v.blank_precision for v in (right, near, wrong)] == [0.0, None, 0.5] and right.decoder_passes == 3
    assert judge([], [], [], target_precision=0.5) == []
    with pytest.raises(ValueError, match="1 references, 0 texts"):
        judge(["a"], [], [], target_precision=0.5)
    with pytest.raises(ValueError, match="target_precision is 97"):
        judge([], [], [], target_precision=97)


@given(
    reference=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40),
    decoded=st.text("ab \n", max_size=40),
)
def test_what_was_misread_is_all_that_differs(reference: str, decoded: str) -> None:
    """Outside the spans the text is in the output, in order; a page has no spans exactly when it is exact."""
    spans = fidelity.misread(reference, decoded)
    assert (spans == []) == (reference == decoded)
    assert all(0 <= start <= end <= len(reference) for start, end in spans)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    edges = [0, *(edge for span in spans for edge in span), len(reference)]
    at = 0
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        at = decoded.index(reference[start:end], at) + end - start


def test_the_verdict_tells_where_the_page_was_misread_and_scores_it_three_ways() -> None:
    wrong, exact, cut = judge(
        ["one two  three\nfour"] * 3,
        ["one tvo three four four", "one two  three\nfour", "one"],
        [
            Decoded(ids=(), passes=3, disagreements=2, stopped="eos"),
            Decoded(ids=(), passes=1, disagreements=0, stopped="eos"),
            Decoded(
                ids=(), passes=1, disagreements=1, stopped="early", cut=Cut(length=3, reason="early_stop", precision_bound=0.5)
            ),
        ],
        target_precision=0.9,
    )
    assert wrong.misread is not None and {"start": 5, "end": 6} in wrong.misread
    assert wrong.set_precision == pytest.approx(3 / 4) and wrong.word_precision == pytest.approx(3 / 5)
    assert wrong.folded_precision == pytest.approx(1 - 6 / 23)
    assert (exact.misread, exact.folded_precision, exact.set_precision) == ([], 1.0, 1.0)
    assert cut.misread is cut.folded_precision is cut.set_precision is None and cut.precision == 0.5
