"""Palimpsest: text corpora in, verified visual-token training data out.

The rooms, in import order. A room imports only rooms above it (tests/test_rooms.py checks the code against this list):

    errors.py        one base class with an exit code
    schemas.py       the Arrow schemas, one per boundary
    settings.py      the base of settings: checked types, TOML, errors
    config.py        the settings of a job and the fingerprint of those that change the bytes
    telemetry.py     logs and metrics
    storage/         bytes by URI: local, s3; conditional writes
    sources/         URIs -> documents
    pages/           documents -> pages -> images
    codecs/          images -> visual tokens -> features; token storage; fast/, embedded/
    verification/    tokens + text -> verdict
    tiers/           which page gets which tier; rate control
    corpus/          shards, commits, snapshots, reader, fsck, gc
    loading/         corpus -> batches
    flow/            plan, stages, ledger, executors; the only room that imports ray
    report/          a corpus for people to look at
    operations/      run, ingest, retier, verify, status, submit, conversations/
    lab/             benchmarks, training of the embedded codec, forecast: the extra palimpsest[lab]
    cli/             the commands

`presets/` holds the job presets that come with Palimpsest.

The public names below are imported when they are first used: `import palimpsest` loads neither Ray nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import load_codec as load_codec
    from palimpsest.corpus.reader import Corpus as Corpus
    from palimpsest.loading.memory import Memory as Memory
    from palimpsest.loading.mix import Mix as Mix
    from palimpsest.loading.pages import Pages as Pages

__version__ = "0.1.0"  # the only place: pyproject.toml and `palimpsest --version` read it here
_PUBLIC = {
    "Corpus": "palimpsest.corpus.reader",
    "Memory": "palimpsest.loading.memory",
    "Mix": "palimpsest.loading.mix",
    "Pages": "palimpsest.loading.pages",
    "load_codec": "palimpsest.codecs.adapter",
}
__all__ = ["Corpus", "Memory", "Mix", "Pages", "load_codec"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'palimpsest' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
