"""One rendering of a record as bytes: keys sorted, ASCII only, so that equal records are equal bytes on every machine."""

from __future__ import annotations

import json
from typing import Any

from pipeline.store.object_store import ObjectStore, StoreError


class Damaged(StoreError):
    """An object is there, but it does not hold what its key promises."""


def to_bytes(record: Any) -> bytes:
    """`record` (of dicts, lists, strings, numbers) as JSON. Lone surrogates, as in odd file names, survive the round trip."""
    return (json.dumps(record, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def read_json(store: ObjectStore, key: str) -> dict[str, Any]:
    """The JSON object at `key`.

    Raises:
        NoSuchObject: nothing stands there.
        Damaged: what stands there is no JSON object.
    """
    body = store.read(key)
    try:
        record = json.loads(body)
    except ValueError as error:
        raise Damaged(f"{store.uri(key)} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise Damaged(f"{store.uri(key)} holds a JSON {type(record).__name__}, not an object")
    return record
