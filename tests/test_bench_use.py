"""`palimpsest bench use`: its chats, its arms, and a run that is too small to learn anything."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from palimpsest.cli.app import app
from palimpsest.lab.bench.use import ARMS, VISUAL, verdict
from palimpsest.lab.bench.use_chats import PAGE_WORDS, RECENT, Chat, consumer_of, make_chat, make_words
from palimpsest.lab.bench.use_training import context_of, of_another, truncated
from palimpsest.loading.packing import IGNORED, Example

WORDS = make_words(6, 8, 50, random.Random(1))


def transcript(chat: Chat) -> str:
    return "".join(f"{message['role']}: {message['content']}\n" for message in chat.messages[:-1])


@pytest.mark.parametrize("seed", range(20))
def test_every_word_fills_eight_cells_and_facts_are_told_once_where_their_band_says(seed: int) -> None:
    chat = make_chat("c", WORDS, 2, 40, random.Random(seed))
    text, reply = transcript(chat), chat.messages[-1]["content"].split()
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * (len(chat.messages) // 2)
    assert sorted(reply[::2]) == sorted(WORDS.kinds)
    for kind, value in zip(reply[::2], reply[1::2], strict=True):
        assert value in WORDS.values[kind]
        assert text.count(kind) == 1 and text.count(f"{kind} {value}") == 1
        at = text.index(kind)
        assert at % 8 == 0
        page = at // (8 * PAGE_WORDS)
        assert chat.band[kind] == (f"page {page + 1}" if page < 2 else RECENT)
    assert sorted(chat.band.values()) == ["page 1"] * 2 + ["page 2"] * 2 + [RECENT] * 2


def test_the_vocabulary_knows_every_word() -> None:
    reader = consumer_of(WORDS)
    chat = make_chat("c", WORDS, 1, 40, random.Random(0))
    ids = reader.encode(transcript(chat) + chat.messages[-1]["content"])
    assert reader.tokenizer.token_to_id("[UNK]") not in ids
    assert len({reader.image_id, reader.eos_id, *ids}) == len(set(ids)) + 2


def example(context: int, mark: float) -> Example:
    ids = (*range(10, 10 + context), 7, 8)
    return Example("e", ids, (*[IGNORED] * context, 7, 8), (torch.full((1, 4), mark),), ("tiny",), ((0, 1),))


def test_the_arms_change_the_context_and_never_the_reply() -> None:
    long, short = example(9, 1.0), example(3, 2.0)
    cut, whole = truncated(4)([long, short])
    assert cut.ids == (15, 16, 17, 18, 7, 8) and cut.labels == (*[IGNORED] * 4, 7, 8) and context_of(cut) == 4
    assert whole == short
    swapped = of_another([long, short])
    assert [one.tokens[0][0, 0].item() for one in swapped] == [2.0, 1.0]
    assert [one.ids for one in swapped] == [long.ids, short.ids]


def rows(**exact: tuple[float, float, float]) -> list[dict[str, Any]]:
    return [
        {"arm": arm.replace("_", " "), "exact_old_facts": mean, "low": low, "high": high}
        for arm, (low, mean, high) in exact.items()
    ]


def test_the_verdict_needs_intervals_that_do_not_meet() -> None:
    full, low = (0.9, 0.95, 1.0), (0.1, 0.12, 0.15)
    assert "is better than truncation" in verdict(rows(truncated=low, visual=(0.5, 0.6, 0.7), control=low, full_text=full))
    for other in ({"truncated": low, "control": (0.4, 0.5, 0.6)}, {"truncated": (0.4, 0.5, 0.6), "control": low}):
        assert "no proof" in verdict(rows(visual=(0.5, 0.6, 0.7), full_text=full, **other))


def test_a_small_run_is_killed_resumed_scored_and_plotted(tmp_path: Path) -> None:
    sizes = {"chats": 16, "tested": 4, "pages": 1, "kinds": 2, "values": 2, "steps": 8, "batch": 4, "seeds": 2}
    asked = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    done = CliRunner().invoke(app, ["bench", "use", *asked, "--write", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["killed_and_resumed"] == "8 losses, the largest difference 0"
    by_arm = {row["arm"]: row for row in result["rows"]}
    assert set(by_arm) == set(ARMS)
    assert by_arm["full text"]["context_ids"] > 2 * by_arm[VISUAL]["context_ids"] == 2 * by_arm["truncated"]["context_ids"]
    assert by_arm["control"]["loss_old_facts"] != by_arm[VISUAL]["loss_old_facts"]
    assert all(0 <= row["low"] <= row["exact_old_facts"] <= row["high"] <= 1 for row in result["rows"])
    assert {len(losses) for losses in result["losses"].values()} == {8}
    assert len(list(tmp_path.glob("*.png"))) == 1 and "bench use" in next(tmp_path.glob("*.md")).read_text()
