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

from palimpsest.codecs.modes import MODES
from palimpsest.codecs.text_tokens import count_tokens
from palimpsest.config import JobConfig
from palimpsest.flow.stages import Encode, Paginate, Render, Verify
from palimpsest.lab.bench.machine import machine
from palimpsest.operations.conversations.formats import messages_of
from palimpsest.operations.conversations.speakers import speakers_of
from palimpsest.operations.run import prepare
from palimpsest.pages.normalise import normalise
from palimpsest.schemas import DOCUMENTS, conform
from palimpsest.sources.documents import document_id
from palimpsest.verification import fidelity
from palimpsest.verification.errata import apply, cost_of, find_errata, is_identifier

DIFFERS = (
    "Ours reads pages on its own grid, laid out for it; recorded outputs come from a document model that reads typeset or "
    "scanned pages, writes Markdown and drops running heads. Text tokens are DeepSeek's; context tokens count newline and "
    "separator rows; a tiled mode has no ratio. Each document has its own pages, so that its last page may be part empty."
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


def bench_public(config: JobConfig, folder: Path, settings: Iterable[tuple[str, str]], max_documents: int = 0) -> dict[str, Any]:
    """One row for each set, system and setting.

    Args:
        settings: (grid, mode) of ours.
        max_documents: of each set; 0 takes all.

    Raises:
        ValueError: the folder has none of the files.
    """
    texts = {path.stem: [line["text"] for line in _lines(path, max_documents)] for path in sorted(folder.glob("fox*.jsonl"))}
    sessions = [line["text"] for line in _lines(folder / "gist_sessions.jsonl", max_documents)]
    talks = [talk for path in sorted(folder.glob("locomo*.json")) for talk in json.loads(path.read_text("utf-8"))]
    recorded = sorted(folder.glob("*_on_*.jsonl"))
    if not (texts or sessions or talks or recorded):
        raise ValueError(f"{folder}: none of fox*.jsonl, *_on_*.jsonl, locomo*.json, gist_sessions.jsonl")
    rows = [row for path in recorded for row in _recorded(path, max_documents)]
    memory = []
    for grid, mode in settings:
        reader = Reader(config, grid, mode)
        for name, documents in texts.items():
            rows += _ours(name, f"{grid} {mode}", [reader.read(text) for text in documents])
        memory += _gist(folder, f"{grid} {mode}", [reader.read(text) for text in sessions])
        memory += [row for talk in talks[: max_documents or None] for row in _locomo(talk, f"{grid} {mode}", reader)]
    return {"differs": DIFFERS, "rows": rows, "memory": memory, "config": config.model_dump(mode="json"), "machine": machine()}


def scores(references: Sequence[str], outputs: Sequence[str]) -> dict[str, float]:
    """Means over documents, in the metrics of the Fox script and by characters."""
    folded = [[" ".join(text.split()) for text in texts] for texts in (references, outputs)]
    return {
        "set_precision": round(float(fidelity.fox_precision(references, outputs).mean()), 4),
        "set_recall": round(float(fidelity.fox_precision(outputs, references).mean()), 4),
        "characters": round(float(fidelity.precision(references, outputs).mean()), 4),
        "folded": round(float(fidelity.precision(*folded).mean()), 4),
        "exact": round(float(fidelity.exact(references, outputs).mean()), 4),
    }


def _ours(name: str, setting: str, read: Sequence[ReadDocument]) -> list[dict[str, Any]]:
    texts = [found.text for found in read]
    text, plain = sum(found.text_tokens for found in read), sum(found.context_tokens for found in read)
    errata = sum(found.errata_tokens for found in read)
    return [
        {"set": name, "system": f"palimpsest {setting}", "errata": exact, "documents": len(read), "ratio": round(text / cost, 2)}
        | scores(texts, outputs)
        for exact, cost, outputs in (
            ("none", plain, [found.read for found in read]),
            ("all", plain + errata, [found.corrected for found in read]),
        )
    ]


def _recorded(path: Path, limit: int) -> list[dict[str, Any]]:
    system, _, name = path.stem.partition("_on_")
    lines = _lines(path, limit)
    references = [line["reference"] for line in lines]
    tokens = sum(count_tokens(references))
    rows = []
    for mode in (key for key in lines[0] if key not in ("id", "kind", "reference")):
        spent = MODES[mode].num_context_tokens * len(lines) if mode in MODES else 0
        row = {"set": name, "system": f"{system} {mode}", "errata": "none", "documents": len(lines)}
        row |= {"ratio": round(tokens / spent, 2) if spent else None}
        rows.append(row | scores(references, [line[mode] for line in lines]))
    return rows


def _gist(folder: Path, setting: str, read: Sequence[ReadDocument]) -> list[dict[str, Any]]:
    if not read:
        return []
    path = folder / "gist_probes.json"
    probes = json.loads(path.read_text("utf-8")) if path.is_file() else []
    probes = [probe for probe in probes if probe["session"] < len(read) and probe["gold"] in read[probe["session"]].text]
    rows = []
    for exact, name, cost in _ways():
        outputs = [getattr(found, name) for found in read]
        wanted = [Counter(word for word in found.text.split() if is_identifier(word)) for found in read]
        kept = sum((words & Counter(text.split())).total() for words, text in zip(wanted, outputs, strict=True))
        every = sum(words.total() for words in wanted)
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
    said = speakers_of(messages, {})
    text = "".join(f"{name}: {message['text']}\n" for message, (_, name) in zip(messages, said, strict=True))
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
    spent = sum(found.context_tokens + (getattr(found, errata) if errata else 0) for found in read)
    return round(sum(found.text_tokens for found in read) / spent, 2)


def _lines(path: Path, limit: int) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    return lines[: limit or None]
