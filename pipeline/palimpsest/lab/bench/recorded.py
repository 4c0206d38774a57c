"""Recorded outputs of other systems for `bench public`: their scores, and the passes that verifying them would have taken.

`NAME_on_SET.jsonl` has one document a line: `reference` (the text that was drawn) and, under the name of each mode, the output.
Outputs are measured as verification would have read them: cut at the length limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from palimpsest.codecs.dialects import Dialect
from palimpsest.codecs.modes import MODES
from palimpsest.codecs.text_tokens import count_tokens, tokenizer
from palimpsest.lab.bench.texts import json_lines
from palimpsest.verification import fidelity

PASS_COST = 128  # drafted tokens that a pass costs on a GPU


def recorded_rows(
    path: Path, limit: int, dialect: Dialect, replay: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Scores of each mode, in the columns of `bench public`, and what else is known of the outputs.

    Args:
        limit: documents of the file; 0 takes all.
        replay: sets that are also decoded, by a decoder that writes the recordings. It takes some minutes.

    Raises:
        ValueError: for a record without a reference.
    """
    system, _, name = path.stem.partition("_on_")
    lines = json_lines(path, limit)
    for number, line in enumerate(lines, 1):
        if not isinstance(line.get("reference"), str):
            raise ValueError(f"{path}: record {number} has no text 'reference'")
    scored, details = [], []
    for mode in dict.fromkeys(key for line in lines for key in line if key not in ("id", "kind", "reference")):
        pages = [(line["reference"], line[mode]) for line in lines if isinstance(line.get(mode), str)]
        if not pages:
            continue
        row = {"set": name, "system": f"{system} {mode}"}
        scores_, detail = _scored(pages, mode, dialect, name in replay)
        scored.append(row | scores_)
        details.append(row | detail)
    return scored, details


def scores(references: Sequence[str], outputs: Sequence[str], dialect: Dialect) -> dict[str, float]:
    """Means over documents, in the metrics of the Fox script and by characters."""
    folded = [dialect.fold(text).text for text in references]
    plain = [dialect.fold(dialect.undo(text, reference)).text for text, reference in zip(outputs, references, strict=True)]
    return {
        "set_precision": round(float(fidelity.fox_precision(references, outputs).mean()), 4),
        "set_recall": round(float(fidelity.fox_precision(outputs, references).mean()), 4),
        "characters": round(float(fidelity.precision(references, outputs).mean()), 4),
        "folded": round(float(fidelity.precision(folded, plain).mean()), 4),
        "exact": round(float(fidelity.exact(references, outputs).mean()), 4),
    }


def _scored(pages: Sequence[tuple[str, str]], mode: str, dialect: Dialect, replay: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    references, written = [list(texts) for texts in zip(*pages, strict=True)]
    drafts, outputs = [_ids(text) for text in references], [_ids(text) for text in written]
    limits = [len(draft) * 5 // 4 + 32 for draft in drafts]  # DraftedPage.limit
    texts = [
        text if len(ids) <= limit else tokenizer().decode(ids[:limit])
        for text, ids, limit in zip(written, outputs, limits, strict=True)
    ]
    spent = MODES[mode].num_context_tokens * len(pages) if mode in MODES else 0
    errors = [
        Levenshtein.distance(dialect.fold(reference).text, dialect.fold(dialect.undo(text, reference)).text)
        for text, reference in zip(texts, references, strict=True)
    ]
    row = {"errata": "none", "documents": len(pages), "ratio": round(sum(count_tokens(references)) / spent, 2) if spent else None}
    detail = {
        "text_tokens": float(np.mean(count_tokens([" ".join(reference.split()) for reference in references]))),
        "unfinished": sum(len(ids) > limit for ids, limit in zip(outputs, limits, strict=True)),
        "letter_errors": float(np.mean(errors)),
        "passes": None,
        "most_passes": None,
        "bar_passes": None,
    }
    if replay:
        passes = _passes(references, drafts, written, outputs, dialect)
        detail |= {"passes": float(np.mean(passes)), "most_passes": max(passes), "bar_passes": 1.5 * float(np.mean(errors)) + 1}
    return row | scores(references, texts, dialect), detail


def _passes(
    references: Sequence[str], drafts: list[list[int]], written: list[str], outputs: list[list[int]], dialect: Dialect
) -> list[int]:
    """Passes of each page; what is decoded must be what was recorded, up to the limit."""
    import torch

    from palimpsest.lab.bench.replay import EOS, Recording, ReplayedDecoder
    from palimpsest.verification.greedy import decode
    from palimpsest.verification.reading import DraftedPage

    others = [[_ids(other) for other in dialect.conventions(text)] for text in references]
    known = [*drafts, *(other for some in others for other in some)]
    recordings = [Recording(text, ids) for text, ids in zip(written, outputs, strict=True)]
    decoder = ReplayedDecoder(recordings, known, tokenizer())
    pages = [
        DraftedPage(
            features=torch.zeros(1, 1),
            prompt_ids=decoder.prompt(number),
            draft_ids=[*decoder.numbered(draft), EOS],
            conventions=[[*decoder.numbered(other), EOS] for other in others[number]],
        )
        for number, draft in enumerate(drafts)
    ]
    read = decode(decoder, pages, pass_cost=PASS_COST)
    for page, ids, made in zip(read, outputs, pages, strict=True):
        assert list(page.ids) == [*decoder.numbered(ids), EOS][: made.limit], "a draft changed what was decoded"
    return [page.passes for page in read]


def _ids(text: str) -> list[int]:
    ids: list[int] = tokenizer().encode(text, add_special_tokens=False).ids
    return ids
