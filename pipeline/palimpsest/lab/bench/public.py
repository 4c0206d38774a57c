"""Public texts, read per document, with recorded outputs of other systems in the same metrics and at the same honest ratio.

The folder has any of: `fox.jsonl`, `fox_random.jsonl` (`id`, `text`); `NAME_on_SET.jsonl`, recorded outputs (`reference`, and
one text per mode); `locomo*.json`; `gist_sessions.jsonl` (`id`, `text`) with `gist_probes.json` (`session`, `gold`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from palimpsest.codecs.dialects import Dialect, find_dialect
from palimpsest.config import JobConfig
from palimpsest.flow.stages import Encode, Paginate, Render, Verify
from palimpsest.lab.bench.machine import machine
from palimpsest.lab.bench.recorded import PASS_COST, recorded_rows, scores
from palimpsest.lab.bench.texts import json_lines
from palimpsest.operations.conversations.formats import messages_of
from palimpsest.operations.conversations.speakers import speakers_of
from palimpsest.operations.resolving import prepare
from palimpsest.pages.normalise import normalise
from palimpsest.schemas import DOCUMENTS, conform
from palimpsest.sources.documents import document_id
from palimpsest.verification.errata import apply, cost_of, find_errata, is_identifier

DIFFERS = (
    "Ours reads pages on its own grid, laid out for it; recorded outputs come from a document model that reads typeset or "
    "scanned pages, writes Markdown and drops running heads. Text tokens are DeepSeek's; context tokens count newline and "
    "separator rows; a tiled mode has no ratio. Each document has its own pages, so that its last page may be part empty. "
    "Recorded outputs are cut where verification would cut them; `folded` is under the dialect."
)


@dataclass(frozen=True)
class ReadDocument:
    """One document as it is read back: its text, what was read, and its tokens without and with errata for all misread words."""

    text: str
    read: str
    corrected: str
    identifiers: str
    text_tokens: int
    context_tokens: int
    errata_tokens: int
    identifier_tokens: int


class Reader:
    """Reads documents back on one grid in one mode; errata are counted apart."""

    def __init__(self, config: JobConfig, grid: str, mode: str) -> None:
        changed = config.replace(
            layout=config.layout.replace(grid=grid),
            tiers=config.tiers.replace(policy="fixed", mode=mode, exact="none"),
            verification=config.verification.replace(share=1.0, control_share=0.0),
        )
        self.prepared = prepare(changed)
        chosen = self.prepared
        self.paginate = Paginate(chosen.config, chosen.layout, chosen.policy)
        self.render, self.encode = Render(chosen.layout), Encode(chosen.config, chosen.fingerprint)
        self.verify = Verify(chosen.config, chosen.fingerprint)

    def read(self, text: str) -> ReadDocument:
        document = {"unit_id": "bench", "kind": "document", "doc_id": document_id(text), "text": text}
        document |= {"source_uri": "bench", "source_version": ""}
        columns = {field.name: pa.array([document.get(field.name)], field.type) for field in DOCUMENTS}
        parts: list[tuple[str, str, str, str]] = []
        tokens = np.zeros(4, np.int64)
        for pages in self.paginate(conform(pa.table(columns), DOCUMENTS, "bench")):
            names = ["kind", "text", "decoded_text", "num_text_tokens", "num_context_tokens"]
            for row in self.verify(self.encode(self.render(pages))).select(names).to_pylist():
                if row["kind"] != "page":
                    continue
                read = row["text"] if row["decoded_text"] is None else row["decoded_text"]
                every, some = (find_errata(row["text"], read, exact) for exact in ("all", "identifiers"))
                parts.append((row["text"], read, apply(read, every), apply(read, some)))
                tokens += (row["num_text_tokens"], row["num_context_tokens"], cost_of(every), cost_of(some))
        written, read, corrected, identifiers = ("".join(part) for part in zip(*parts, strict=True))
        return ReadDocument(written, read, corrected, identifiers, *tokens.tolist())


def bench_public(
    config: JobConfig,
    folder: Path,
    settings: Iterable[tuple[str, str]],
    max_documents: int = 0,
    dialect: str = "document",
    replay: Sequence[str] = (),
) -> dict[str, Any]:
    """One row for each set, system and setting.

    Args:
        settings: (grid, mode) of ours; without any, only recorded outputs are scored.
        max_documents: of each set; 0 takes all.
        dialect: under which folded precision is measured.
        replay: sets of recorded outputs whose passes are counted too.

    Raises:
        ValueError: the folder has none of the files, or no recorded outputs of a set to replay.
    """
    undone = find_dialect(dialect)
    texts = {path.stem: [line["text"] for line in json_lines(path, max_documents)] for path in sorted(folder.glob("fox*.jsonl"))}
    sessions = [line["text"] for line in json_lines(folder / "gist_sessions.jsonl", max_documents)]
    talks = [talk for path in sorted(folder.glob("locomo*.json")) for talk in json.loads(path.read_text("utf-8"))]
    files = sorted(folder.glob("*_on_*.jsonl"))
    if not (texts or sessions or talks or files):
        raise ValueError(f"{folder}: none of fox*.jsonl, *_on_*.jsonl, locomo*.json, gist_sessions.jsonl")
    sets = {path.stem.partition("_on_")[2] for path in files}
    for name in replay:
        if name not in sets:
            raise ValueError(f"--replay {name}: {folder} has recorded outputs on {', '.join(sorted(sets)) or 'no set'}")
    rows, recorded, gist, locomo = [], [], [], []
    for path in files:
        scored, details = recorded_rows(path, max_documents, undone, replay)
        rows += scored
        recorded += details
    for grid, mode in settings:
        reader, setting = Reader(config, grid, mode), f"{grid} {mode}"
        for name, documents in texts.items():
            rows += _ours(name, setting, [reader.read(text) for text in documents], undone)
        gist += _gist(folder, setting, [reader.read(text) for text in sessions])
        locomo += [row for talk in talks[: max_documents or None] for row in _locomo(talk, setting, reader)]
    return {
        "dialect": dialect,
        "pass_cost": PASS_COST,
        "rows": rows,
        "recorded": recorded,
        "gist": gist,
        "locomo": locomo,
        "notes": [DIFFERS],
        "config": config.model_dump(mode="json"),
        "machine": machine(),
    }


def _ours(name: str, setting: str, read: Sequence[ReadDocument], dialect: Dialect) -> list[dict[str, Any]]:
    texts = [document.text for document in read]
    text, plain = sum(document.text_tokens for document in read), sum(document.context_tokens for document in read)
    errata = sum(document.errata_tokens for document in read)
    return [
        {"set": name, "system": f"palimpsest {setting}", "errata": exact, "documents": len(read), "ratio": round(text / cost, 2)}
        | scores(texts, outputs, dialect)
        for exact, cost, outputs in (
            ("none", plain, [document.read for document in read]),
            ("all", plain + errata, [document.corrected for document in read]),
        )
    ]


def _gist(folder: Path, setting: str, read: Sequence[ReadDocument]) -> list[dict[str, Any]]:
    if not read:
        return []
    path = folder / "gist_probes.json"
    probes = json.loads(path.read_text("utf-8")) if path.is_file() else []
    probes = [probe for probe in probes if probe["session"] < len(read) and probe["gold"] in read[probe["session"]].text]
    rows = []
    for exact, name, cost in _ways():
        outputs = [getattr(document, name) for document in read]
        expected = [Counter(word for word in document.text.split() if is_identifier(word)) for document in read]
        kept = sum((words & Counter(text.split())).total() for words, text in zip(expected, outputs, strict=True))
        every = sum(words.total() for words in expected)
        rows.append(
            {
                "set": "gist sessions", "system": f"palimpsest {setting}", "errata": exact, "ratio": _ratio(read, cost),
                "facts": f"{sum(probe['gold'] in outputs[probe['session']] for probe in probes)} of {len(probes)}",
                "identifiers": round(kept / max(1, every), 5), "of": every,
            }
        )  # fmt: skip
    return rows


def _locomo(talk: dict[str, Any], setting: str, reader: Reader) -> list[dict[str, Any]]:
    """Gold evidence turns that are read back word for word; the whole conversation shares its pages."""
    messages = messages_of(talk, "")
    speakers = speakers_of(messages, {})
    text = "".join(f"{name}: {message['text']}\n" for message, (_, name) in zip(messages, speakers, strict=True))
    turns = {message["dia_id"]: normalise(message["text"]) for message in messages}
    gold = sorted({turn for question in talk.get("qa", ()) for turn in question.get("evidence", ()) if turn in turns})
    read = reader.read(text)
    return [
        {
            "set": f"LoCoMo {talk.get('sample_id', '')}", "system": f"palimpsest {setting}", "errata": exact,
            "ratio": _ratio([read], cost),
            "evidence": round(sum(turns[turn] in getattr(read, name) for turn in gold) / max(1, len(gold)), 4), "of": len(gold),
        }
        for exact, name, cost in _ways()
    ]  # fmt: skip


def _ways() -> tuple[tuple[str, str, str | None], ...]:
    return ("none", "read", None), ("identifiers", "identifiers", "identifier_tokens"), ("all", "corrected", "errata_tokens")


def _ratio(read: Sequence[ReadDocument], errata: str | None) -> float:
    spent = sum(document.context_tokens + (getattr(document, errata) if errata else 0) for document in read)
    return round(sum(document.text_tokens for document in read) / spent, 2)
