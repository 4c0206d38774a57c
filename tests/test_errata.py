"""Exact spans: what is misread and matters is kept as a short text with the page, and counted."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.codecs.modes import MODES
from palimpsest.config import ConfigError, JobConfig, parse
from palimpsest.flow.recipe import fingerprint
from palimpsest.flow.stages.exact import LONGER, cheaper_as_text, with_errata
from palimpsest.flow.stages.rate import RateControl
from palimpsest.flow.stages.tables import table_of
from palimpsest.schemas import VERDICTS
from palimpsest.tiers.ladder import Ladder
from palimpsest.tiers.policies.protocol import PageFacts, Reading, find_policy
from palimpsest.verification.errata import Erratum, apply, as_text, cost_of, find_errata, is_identifier
from palimpsest.verification.fidelity import misread

_TEXT = st.text(st.sampled_from("ab c\n1_/"), max_size=40)


@settings(deadline=None)
@given(_TEXT, _TEXT)
def test_all_errata_give_the_text_back(text: str, read: str) -> None:
    found = find_errata(text, read, "all")
    assert apply(read, found) == text
    assert all(text.startswith(erratum.written, erratum.position) for erratum in found)
    assert [erratum.position for erratum in found] == sorted(erratum.position for erratum in found)


def test_an_erratum_is_a_whole_word_at_its_place_in_the_text() -> None:
    text = "run src/main_v2.py at 7f3a9c now, please!"
    read = "run src/maln_v2.py at 7f3b9c now, pleese("
    assert find_errata(text, read, "all") == [
        Erratum(4, None, "src/main_v2.py"),
        Erratum(22, None, "7f3a9c"),
        Erratum(34, None, "please!"),
    ]
    identifiers = find_errata(text, read, "identifiers")
    assert [erratum.written for erratum in identifiers] == ["src/main_v2.py", "7f3a9c"]
    assert apply(read, identifiers) == "run src/main_v2.py at 7f3a9c now, pleese("
    assert find_errata(text, read, "none") == [] == find_errata(text, text, "all")


def test_what_was_lost_or_doubled_before_does_not_move_a_correction() -> None:
    text = "a word here and v1.2.3 there and v1.2.3 again"
    read = "a word word here and v1.2.8 there and v1.2.3 again"
    assert apply(read, find_errata(text, read, "identifiers")) == "a word word here and v1.2.3 there and v1.2.3 again"


@pytest.mark.parametrize(
    "word", ["v2", "src/main", "a_b", "well-known", "getName", "ABC", "x@y.de", "7f3a9c", "(io.py)", "$HOME", "https://a.b"]
)
def test_identifiers(word: str) -> None:
    assert is_identifier(word)


@pytest.mark.parametrize("word", ["word", "Word", "don’t", "end.", "“Yes!”", "I", "…", "–", ""])
def test_words(word: str) -> None:
    assert not is_identifier(word)


def row(text: str, read: str | None, text_tokens: int = 500) -> dict[str, Any]:
    spans = None if read is None else [{"start": start, "end": end} for start, end in misread(text, read)]
    return {
        "kind": "page", "unit_id": "u", "page_id": "p", "doc_id": "d", "source_uri": "s", "source_version": "1", "page_number": 0,
        "num_pages": 1, "char_start": 0, "char_end": len(text), "text_tokenizer": "t", "layout": "grid", "fingerprint": "f",
        "text": text, "decoded_text": read, "misread": spans, "num_text_tokens": text_tokens, "num_context_tokens": 73,
        "tier": "tiny", "mode": "tiny", "precision": 0.95, "status": "verified", "tokens": b"x",
    }  # fmt: skip


def verdicts(*rows: dict[str, Any]) -> pa.Table:
    return table_of(list(rows), VERDICTS, "test")


def test_errata_count_as_context_and_a_page_that_would_cost_more_is_text() -> None:
    text, read = "see v1.2.3 " * 20, "see v1.2.8 " * 20
    pages = with_errata(verdicts(row(text, read), row(text, read, 80), row(text, text), row(text, None)), "all")
    cost = cost_of(find_errata(text, read, "all"))
    assert cost > 100 and pages["num_context_tokens"].to_pylist() == [73 + cost, 73 + cost, 73, 73]
    assert pages["errata"].to_pylist()[2:] == [None, None] and len(pages["errata"][0]) == 20
    settled = cheaper_as_text(pages).to_pylist()
    assert [page["tier"] for page in settled] == ["tiny", "text", "tiny", "tiny"]
    assert settled[1]["reason"] == LONGER and settled[1]["num_context_tokens"] == 80
    assert settled[1]["tokens"] is None and settled[1]["errata"] is None and settled[1]["tried"][0]["mode"] == "tiny"
    assert with_errata(pages, "none") is pages


def test_what_the_verdict_does_not_count_is_not_corrected() -> None:
    joined = row("see v1.2.3\nand v9", "see v1.2.3 and v8") | {"misread": [{"start": 16, "end": 17}]}
    assert [erratum["written"] for erratum in with_errata(verdicts(joined), "all")["errata"][0].as_py()] == ["v9"]


def test_a_decoder_sees_them_as_one_line() -> None:
    errata = [
        Erratum(4, None, "main"),
        Erratum(7, None, "io;"),
        Erratum(9, "8", "3"),
        Erratum(12, "a", "b"),
        Erratum(15, None, "x"),
    ]
    assert as_text(errata) == "[errata: main io;; 8 → 3; a → b; x]\n" and as_text([]) == ""


def test_what_was_read_is_said_where_the_spelling_does_not_tell() -> None:
    """The nearest word to 3 is another one; the second of two equal words was misread; a space was lost."""
    text, read = "a 3 is here, main and main, one two", "a 8 is here, main and maln, onetwo"
    found = find_errata(text, read, "all")
    assert [(erratum.read, erratum.written) for erratum in found] == [("8", "3"), (None, "main,"), ("", " ")]
    assert apply(read, found) == text
    text, read = "cat then cot", "cot then cat"
    assert apply(read, find_errata(text, read, "all")) == text


_WORDS = st.lists(st.sampled_from(["main", "maln", "mair", "io.py", "lo.py", "8", "3", "the", "then", "thc"]), max_size=12)


@settings(deadline=None)
@given(_WORDS, _WORDS)
def test_similar_words_are_not_taken_for_each_other(written: list[str], seen: list[str]) -> None:
    text, read = " ".join(written), " ".join(seen)
    assert apply(read, find_errata(text, read, "all")) == text


def test_the_setting_changes_the_fingerprint_only_where_it_is_used() -> None:
    def print_of(**tiers: Any) -> str:
        return fingerprint(parse({"tiers": tiers}, (), JobConfig), "layout", "codec", "revision")

    assert print_of() == print_of(exact="none") != print_of(exact="all") != print_of(exact="identifiers")
    with pytest.raises(ConfigError, match=r"tiers.exact.*none.*identifiers"):
        parse({"tiers": {"exact": "some"}}, (), JobConfig)


@pytest.mark.parametrize(
    ("tried", "asked"),
    [
        ({"tiny": 73}, "tiny"),  # nothing to correct
        ({"tiny": 73 + 20}, "tiny"),  # cheaper than the next mode
        ({"tiny": 73 + 60}, "small"),  # small might cost 111
        ({"tiny": 73 + 60, "small": 111}, "small"),
        ({"tiny": 73 + 60, "small": 111 + 40}, "tiny"),
        ({"tiny": 73 + 400}, "small"),
        ({"tiny": 73 + 400, "small": 111 + 400}, "base"),
        ({"tiny": 73 + 400, "small": 111 + 400, "base": 273}, "base"),
    ],
)
def test_the_cheapest_of_errata_and_sharper_modes_wins(tried: dict[str, int], asked: str) -> None:
    ladder = Ladder.of(MODES.values())
    control = RateControl.__new__(RateControl)
    control.policy = find_policy(parse({"tiers": {"policy": "fidelity", "predictor": "none"}}).tiers, ladder)
    plain = {"tiny": 73, "small": 111, "base": 273, "large": 421}
    errata = [{"position": 0, "read": "x", "written": "y"}]
    tables = {
        mode: verdicts(row("y", "x") | {"num_context_tokens": cost, "errata": errata if cost > plain[mode] else None})
        for mode, cost in tried.items()
    }
    page = PageFacts(text_tokens=1000, readings={mode: Reading(0.99, True) for mode in tried})
    assert control._next_tier(page, tables) == asked
