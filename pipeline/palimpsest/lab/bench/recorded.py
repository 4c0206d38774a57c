"""What a real model wrote for rendered pages: its precision by score, and the passes that verifying it would have taken.

The folder holds JSON lines, `deepseek_ocr_on_*.jsonl`: per page `reference` (the text that was drawn) and, under the name of each
mode, what the model wrote. The outputs are measured as verification would have read them: cut at the length limit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from palimpsest.codecs.dialects import Dialect, find_dialect
from palimpsest.codecs.text_tokens import count_tokens, tokenizer
from palimpsest.lab.bench.machine import machine

MODES = ("tiny", "small", "base", "raw")
PASS_COST = 128  # drafted tokens that a pass costs on a GPU


def bench_recorded(folder: str | Path, dialect: str = "document", replay: str = "from_text") -> dict[str, Any]:
    """Scores of every file of recorded outputs in `folder`.

    Args:
        dialect: under which folded precision is measured.
        replay: the kind of pages (the end of a file's name) that are also decoded, by a decoder that writes the recordings; ""
            for none. It takes some minutes.

    Raises:
        ValueError: for a folder without such files, or a record without a reference.
    """
    files = sorted(Path(folder).glob("deepseek_ocr_on_*.jsonl"))
    if not files:
        raise ValueError(f"{folder}: no deepseek_ocr_on_*.jsonl; the file form is in the documentation of this command")
    rows = []
    for path in files:
        records = list(_records(path))
        for mode in MODES:
            pages = [(record["reference"], record[mode]) for record in records if isinstance(record.get(mode), str)]
            if pages:
                rows.append(
                    {"pages_of": path.stem, "mode": mode, **_row(pages, find_dialect(dialect), path.stem.endswith(replay or " "))}
                )
    return {"machine": machine(), "dialect": dialect, "pass_cost": PASS_COST, "recorded": rows}


def _records(path: Path) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if line.strip():
            record = json.loads(line)
            if not isinstance(record.get("reference"), str):
                raise ValueError(f"{path}:{number}: no text 'reference'")
            yield record


def _row(pages: Sequence[tuple[str, str]], dialect: Dialect, replay: bool) -> dict[str, Any]:
    from palimpsest.verification import fidelity

    drafts = [_ids(reference) for reference, _ in pages]
    outputs = [_ids(written) for _, written in pages]
    limits = [len(draft) * 5 // 4 + 32 for draft in drafts]  # DraftedPage.limit
    references = [reference for reference, _ in pages]
    texts = [
        written if len(ids) <= limit else tokenizer().decode(ids[:limit])
        for (_, written), ids, limit in zip(pages, outputs, limits, strict=True)
    ]
    folded = [dialect.fold(text).text for text in references]
    plain = [dialect.fold(dialect.undo(text, reference)).text for text, reference in zip(texts, references, strict=True)]
    errors = [Levenshtein.distance(*pair) for pair in zip(folded, plain, strict=True)]
    row = {
        "pages": len(pages),
        "text_tokens": float(np.mean(count_tokens([" ".join(reference.split()) for reference in references]))),
        "precision": float(fidelity.precision(references, texts).mean()),
        "folded_precision": float(fidelity.precision(folded, plain).mean()),
        "set_precision": float(fidelity.fox_precision(references, texts).mean()),
        "unfinished": sum(len(ids) > limit for ids, limit in zip(outputs, limits, strict=True)),
        "letter_errors": float(np.mean(errors)),
    }
    if replay:
        passes = _passes(references, drafts, [written for _, written in pages], outputs, dialect)
        row |= {"passes": float(np.mean(passes)), "most_passes": max(passes), "bar_passes": 1.5 * float(np.mean(errors)) + 1}
    return row


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
