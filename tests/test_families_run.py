"""A job of each of five families with a tiny random checkpoint, through Ray: from a preset to shards, read back by `verify`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from palimpsest.config import load
from palimpsest.corpus.fsck import fsck
from palimpsest.corpus.reader import Corpus
from palimpsest.operations.run import run
from palimpsest.operations.verify import open_and_reverify
from palimpsest.storage.local_store import LocalStore
from tests.codec_zoo import zoo
from tests.corpora import trusting

__all__ = ["zoo"]  # the fixture
pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]

TEXTS = {
    "prose": "Everyone has the right to life, liberty and the security of person.\n",
    "code": "def f(x):\n    return x + 1\n",
}
FAMILIES = {
    "deepseek-ocr": "codec.name=deepseek-ocr",
    "qwen": "codec.name=auto",
    "glm-ocr": "codec.name=auto",
    "lighton": "codec.name=auto",
    "paddleocr": "codec.name=auto",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_goes_from_preset_to_shards_to_verify(zoo: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    source, out = tmp_path / "texts.jsonl", tmp_path / "corpus"
    source.write_text("".join(json.dumps({"id": kind, "text": text, "text_class": kind}) + "\n" for kind, text in TEXTS.items()))
    settings = ("verification.reader=generative", "codec.max_new_tokens=6", "tiers.cheap_text=false", "placement.executor=ray")
    smallest = ("placement.encode_workers=1", "placement.verify_workers=1", "placement.cpus_per_worker=0.5")
    sources = (f'sources=["{source}"]', f"out={out}", f"codec.path={zoo(name)}", FAMILIES[name])
    config = load("local", (*sources, *settings, *smallest))
    result = run(config)
    assert result.counts.documents_in == result.units_new + 1 == 2
    pages = list(Corpus(str(out)).pages())
    assert {page.text for page in pages} == set(TEXTS.values()) and fsck(LocalStore(out)) == []
    for page in pages:
        assert page.layout.startswith("document ") and page.tokens().shape == (page.num_vision_tokens, page.token_dim)
    again = open_and_reverify(str(out), trusting(out))
    assert (again.pages, again.identical, again.damaged) == (2, 2, 0) and not again.findings
