"""Notes of failed reads, so that an unreadable object is not retried for ever.

`_ingest/tries/<object>/<run_id>.json` records that this run could not read this version of this object. The number of notes is
the number of failed tries. Another version of the object, or another configuration, starts again at zero.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from palimpsest.storage.object_store import ObjectStore
from palimpsest.storage.stable_json import to_bytes

PREFIX = "_ingest/tries/"


def try_id(source_uri: str, version: str, fingerprint: str) -> str:
    """24 hex digits that name one version of an object under one configuration."""
    return hashlib.sha256(json.dumps([source_uri, version, fingerprint]).encode("ascii")).hexdigest()[:24]


def note_try(
    store: ObjectStore, run_id: str, *, source_uri: str, version: str, fingerprint: str, reason: str, detail: str
) -> None:
    """Note that a run could not read an object; a run notes it once."""
    record = {"run_id": run_id, "source_uri": source_uri, "version": version, "reason": reason, "detail": detail}
    store.create(f"{PREFIX}{try_id(source_uri, version, fingerprint)}/{run_id}.json", to_bytes(record))


def count_tries(store: ObjectStore) -> Counter[str]:
    """The number of failed tries of each version of each object, by `try_id`, from one listing."""
    return Counter(info.key.removeprefix(PREFIX).partition("/")[0] for info in store.list(PREFIX))
