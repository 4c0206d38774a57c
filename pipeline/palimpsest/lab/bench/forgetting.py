"""Forgetting on real, dated conversations: which gold evidence survives, by age and budget, for each way of keeping.

The files are chats of any known form whose records have `qa`: a list of `question`, `answer` and `evidence`, the ids (`dia_id` or
`id`) of the messages that hold the answer, as LoCoMo has them (https://github.com/snap-research/locomo). One unit is a question
with one of its evidence turns. It survives if the turn reads word for word; a literal answer survives if its own characters do.
The rival is BM25: it retrieves turns of text for each question, and so it knows the question, which no memory does.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from palimpsest import config as configs
from palimpsest.config import JobConfig, SourceConfig
from palimpsest.errors import UsageError
from palimpsest.lab.bench.kept import (
    CONTROLLED,
    FADING,
    TRUNCATION,
    Kept,
    Remembered,
    Way,
    band_of,
    count,
    keep,
    mean,
    mode_table,
    recall,
    ways_of,
    wilson,
)
from palimpsest.lab.bench.machine import machine
from palimpsest.lab.bench.memory import check_budgets, prepare_memory
from palimpsest.lab.bench.planting import Fact
from palimpsest.operations.conversations.formats import messages_of
from palimpsest.operations.conversations.refusals import NoConversation
from palimpsest.operations.conversations.settings import ConversationConfig
from palimpsest.operations.conversations.transcript import Transcript, transcribe
from palimpsest.operations.conversations.turns import parse_conversation
from palimpsest.pages.layouts.protocol import Layout
from palimpsest.sources.jsonl import read_records
from palimpsest.sources.listing import expand
from palimpsest.sources.units import Unit

SHARES = (0.05, 0.1, 0.2, 0.3)  # budgets, of what the conversation costs as text
BANDS = ("under 1 w", "1 w to 1 mo", "1 to 3 mo", "3 to 6 mo", "over 6 mo")
_EDGES = tuple(timedelta(days=days).total_seconds() for days in (0, 7, 30, 91, 182))
BM25 = "BM25 retrieval of text"
EVIDENCE, ANSWER = "evidence", "answer"
RULES = (
    "A unit is a question with one of its evidence turns. Evidence: the turn reads word for word. Answer: the characters of an "
    "answer that occurs in its evidence turn. Intervals: Wilson, 95 %, over units; units that share a turn are not independent.",
    "BM25 sees the question before it chooses what to keep, and fills the budget with the best turns as text; the others keep "
    "one memory for all questions. It needs the whole text in an index; they do not.",
    "Truncation keeps the newest text to the token. The others keep whole pages, and the tail that fills none as text; what a "
    "uniform mode cannot hold is dropped, the oldest first. Exact spans are counted in the context tokens.",
    "Survival is what the codec's decoder reads from the stored tokens; no language model answers questions here.",
)


@dataclass(frozen=True)
class Question:
    """A question and what must survive: evidence turns, and the literal answer in one of them."""

    text: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Talk:
    """One conversation with its questions."""

    memory: Remembered
    questions: tuple[Question, ...]


def bench_forgetting(
    config: JobConfig, files: Sequence[Path], *, shares: Sequence[float] = SHARES, budgets: Sequence[int] = (), most: int = 0
) -> dict[str, Any]:
    """Survival by age and budget for each way of keeping, without and with exact spans.

    Args:
        config: codec, grid, storage and target of rate control; `tiers.modes` and `tiers.ages` where they are set.
        files: chats with `qa`, JSON or JSON lines.
        shares: budgets as shares of each conversation's text tokens; `budgets` in tokens go before them.
        most: conversations; 0 takes all.

    Raises:
        UsageError: a file cannot be read, or no conversation has a question with known evidence.
        ConfigError: settings or budgets that cannot be used.
    """
    began = time.monotonic()
    check_budgets(budgets)
    records = list(itertools.islice(chats_of(files, config.source.replace(format="jsonl")), most or None))
    asked, prepared, studio = prepare_memory(config, datetime.now(UTC) + timedelta(days=1))
    talks, unknown = [], 0
    for record in records:
        transcript, ids = _transcript(record, asked, prepared.layout)
        questions, missing = questions_of(record, transcript, ids)
        unknown += missing
        if questions:
            talks.append(Talk(Remembered.of(transcript, prepared, studio), questions))
    if not talks:
        raise UsageError(f"{', '.join(map(str, files))}: no record has `qa` with evidence that names one of its messages")
    ways = [*ways_of(asked, prepared, exact=("none", "all")), Way(BM25)]
    rows, ages = [], []
    for budget in budgets or shares:
        for way in ways:
            scores, cost = _survival(talks, way, budget)
            at = {"way": way.name, "budget": budget if budget >= 1 else f"{budget:.0%}"}
            rows.append({**at, "context_tokens": cost, **_summary(scores)})
            every = [(band, hit) for kind, band, hit in scores if kind == EVIDENCE]
            ages.append({**at, **{name: mean([hit for band, hit in every if band == name]) for name in BANDS}})
    whole = sum(talk.memory.text_tokens for talk in talks)
    return {
        "codec": f"{prepared.codec} {prepared.revision}",
        "grid": str(prepared.layout),
        "storage": config.storage.tokens,
        "target_precision": config.verification.target_precision,
        "conversations": len(talks),
        "turns": sum(len(talk.memory.transcript.starts) for talk in talks),
        "pages": sum(len(talk.memory.pages) for talk in talks),
        "units": len([fact for talk in talks for one in talk.questions for fact in one.facts if fact.kind == EVIDENCE]),
        "literal_answers": len([fact for talk in talks for one in talk.questions for fact in one.facts if fact.kind == ANSWER]),
        "unknown_evidence": unknown,
        "text_tokens_per_conversation": round(whole / len(talks)),
        "seconds": round(time.monotonic() - began, 1),
        "modes": mode_table(prepared, [talk.memory for talk in talks]),
        "rows": rows,
        "evidence_by_age": ages,
        "notes": [*findings(rows, ages), *RULES],
        "config": configs.to_json(prepared.config),
        "machine": machine(),
    }


def chats_of(files: Sequence[Path], source: SourceConfig) -> Iterator[Mapping[str, Any]]:
    """The records of the files, read as sources are.

    Raises:
        UsageError: naming the file, for one that is missing or a record that cannot be read.
    """
    for item in expand([str(path) for path in files], source):
        for found in read_records(Unit(object=item), source):
            if found.problem is not None:
                raise UsageError(f"{item.uri}: {found.problem}")
            yield found.record


def _transcript(record: Mapping[str, Any], config: JobConfig, layout: Layout) -> tuple[Transcript, dict[str, int]]:
    """The transcript of a record, and the turns of its messages by their ids."""
    try:
        messages = messages_of(record, "")
        conversation = parse_conversation(record, config.source, ConversationConfig(), datetime.now(UTC) + timedelta(days=1))
    except NoConversation as problem:
        raise UsageError(f"conversation {record.get('sample_id', record.get('id', '?'))}: {problem.detail}") from None
    shown = [message for message in messages if not (message.get("role") == "system" and not message.get("content"))]
    names = (str(message.get("dia_id", message.get("id", ""))) for message in shown)
    ids = {name: turn for turn, name in enumerate(names) if name} if len(shown) == len(conversation.turns) else {}
    return transcribe(conversation, layout, config.layout.max_escaped_share), ids


def questions_of(record: Mapping[str, Any], transcript: Transcript, ids: Mapping[str, int]) -> tuple[tuple[Question, ...], int]:
    """The questions whose evidence is before the last reply, and how many evidence labels name no message."""
    questions, missing = [], 0
    last = transcript.conversation.targets[-1]
    for entry in record.get("qa") or ():
        labels = entry.get("evidence") or ()
        names = [name for label in ([labels] if isinstance(labels, str) else labels) for name in re.split(r"[;,\s]+", str(label))]
        missing += sum(name not in ids for name in names if name)
        turns = sorted({ids[name] for name in names if name in ids and ids[name] < last})
        facts = [Fact(EVIDENCE, transcript.conversation.turns[turn].text, turn, transcript.contents[turn]) for turn in turns]
        answer = _literal(str(entry.get("answer", "")), facts)
        if facts:
            questions.append(Question(str(entry.get("question", "")), (*facts, *answer)))
    return tuple(questions), missing


def _literal(answer: str, evidence: Sequence[Fact]) -> list[Fact]:
    """The answer where an evidence turn has it literally, in any case."""
    words = answer.strip().strip(".")
    if not words:
        return []
    pattern = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.IGNORECASE)
    for fact in evidence:
        found = pattern.search(fact.value)
        if found:
            return [Fact(ANSWER, found[0], fact.turn, fact.start + found.start())]
    return []


def _survival(talks: Sequence[Talk], way: Way, budget: float) -> tuple[list[tuple[str, str, float]], int]:
    """(kind, band, 1.0 or 0.0) of every fact, and the mean context tokens of a conversation."""
    scores, costs = [], []
    for talk in talks:
        memory = talk.memory
        room = round(budget if budget >= 1 else budget * memory.text_tokens)
        retrieves = way.name == BM25
        found = list(_retrieved(talk, room)) if retrieves else [keep(memory, way, room)] * len(talk.questions)
        costs.append(sum(kept.cost for kept in found) / len(found))
        for question, kept in zip(talk.questions, found, strict=True):
            for fact in question.facts:
                band = band_of(memory.age(fact.turn), _EDGES, BANDS)
                scores.append((fact.kind, band, float(recall(memory, kept, fact) == fact.value)))
    return scores, round(sum(costs) / len(costs))


def _retrieved(talk: Talk, budget: int) -> Iterator[Kept]:
    """For each question the turns that BM25 ranks first, as many as fit."""
    import bm25s

    memory = talk.memory
    starts = [start for start in memory.transcript.starts if start < memory.end]
    spans = [*zip(starts, [*starts[1:], memory.end], strict=True)]
    texts = [memory.transcript.text[start:end] for start, end in spans]
    costs = [count(text) for text in texts]
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    asked = bm25s.tokenize([question.text for question in talk.questions], show_progress=False)
    ranked, _ = retriever.retrieve(asked, k=len(texts), show_progress=False)
    for turns in ranked.tolist():
        spent, chosen = 0, []
        for turn in turns:
            if spent + costs[turn] <= budget:
                spent += costs[turn]
                chosen.append(spans[turn])
        yield Kept(tuple(sorted(chosen)), {}, spent)


def _summary(scores: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for kind in (EVIDENCE, ANSWER):
        hits = [hit for name, _, hit in scores if name == kind]
        low, high = wilson(sum(hits), len(hits))
        row |= {kind: mean(hits), f"{kind}_low": round(low, 4), f"{kind}_high": round(high, 4)}
    return row


def findings(rows: Sequence[Mapping[str, Any]], ages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tables in sentences: the best way at each budget, and where truncation or retrieval is better than fading."""
    notes = []
    for budget in dict.fromkeys(row["budget"] for row in rows):
        at = {row["way"]: row for row in rows if row["budget"] == budget}
        best = max((row for name, row in at.items() if name not in (TRUNCATION, BM25)), key=lambda row: row["evidence"])
        notes.append(
            f"{budget} of the text's tokens: {best['way']} keeps {best['evidence']:.1%} of the evidence word for word "
            f"({best['evidence_low']:.1%} to {best['evidence_high']:.1%}); truncation {at[TRUNCATION]['evidence']:.1%}, "
            f"{BM25} {at[BM25]['evidence']:.1%}."
            if isinstance(budget, str)
            else f"{budget:,} tokens: {best['way']} {best['evidence']:.1%}; truncation {at[TRUNCATION]['evidence']:.1%}, "
            f"{BM25} {at[BM25]['evidence']:.1%}."
        )
        for rival in (TRUNCATION, BM25):
            losers = [
                f"{name} {at[name]['evidence']:.1%}"
                for name in (*(name for name in at if name.startswith("uniform")), FADING, CONTROLLED)
                if name in at and at[name]["evidence"] < at[rival]["evidence"]
            ]
            if losers:
                notes.append(f"{budget}: {rival} ({at[rival]['evidence']:.1%}) keeps more than {', '.join(losers)}.")
        by_age = {row["way"]: row for row in ages if row["budget"] == budget}
        for band in BANDS:
            mine, rival = by_age[best["way"]][band], by_age[TRUNCATION][band]
            if mine is not None and rival is not None and rival > mine:
                notes.append(f"{budget}, {band}: truncation ({rival:.0%}) keeps more than {best['way']} ({mine:.0%}).")
    return notes
