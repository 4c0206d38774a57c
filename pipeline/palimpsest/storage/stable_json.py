"""One rendering of a record as bytes: keys sorted, ASCII only, so that equal records give equal bytes on every machine.

A record contains its own hash (`record_sha256`), which reveals a digit that changed on disk or in transit.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from palimpsest.storage.object_store import ObjectStore, StoreError

SEAL = "record_sha256"
READ_TRIES = 2  # for bytes that do not match their hash: the damage may have happened in transit only
Record = TypeVar("Record")


class Damaged(StoreError):
    """An object exists, but its content is not what its key promises."""


def to_bytes(record: dict[str, Any]) -> bytes:
    """`record` (of dicts, lists, strings, numbers) as JSON. Lone surrogates, as in odd file names, survive the round trip."""
    return _rendered({**record, SEAL: _seal(record)})


def read_json(store: ObjectStore, key: str) -> dict[str, Any]:
    """The JSON object at `key`, without its hash. One without a hash (from another program) is accepted unchecked.

    Raises:
        NoSuchObject: there is no object.
        Damaged: the object is not a JSON object, or not the one that was written.
    """
    for tries_left in reversed(range(READ_TRIES)):
        try:
            return _parsed(store.read(key), store.uri(key))
        except Damaged:
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def decoded(kind: type[Record], record: dict[str, Any], uri: str, name: str) -> Record:
    """`record`, which came from `uri`, as the dataclass `kind`: no field missing or unknown, none of another type.

    Raises:
        Damaged: naming the object, what it should be (`name`) and its first wrong field.
    """
    try:
        parsed: Record = _adapter(kind).validate_json(json.dumps(record), strict=True)  # type: ignore[arg-type]
        return parsed
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise Damaged(f"{uri} is no {name} of this format: {f'{field}: ' if field else ''}{first['msg']}") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_promised(store: ObjectStore, key: str, sha256: str) -> bytes:
    """The bytes at `key`, whose hash a record promises.

    Raises:
        NoSuchObject: there is no object.
        Damaged: the bytes differ, also on a second read, which excludes damage in transit.
    """
    for _ in range(READ_TRIES):
        body = store.read(key)
        if hashlib.sha256(body).hexdigest() == sha256:
            return body
    raise Damaged(f"{store.uri(key)} has {len(body)} bytes that are not those that its snapshot promises")


def _parsed(body: bytes, uri: str) -> dict[str, Any]:
    try:
        record = json.loads(body)
        if not isinstance(record, dict):
            raise Damaged(f"{uri} holds a JSON {type(record).__name__}, not an object")
        seal = record.pop(SEAL, None)
        sound = seal is None or seal == _seal(record)
    except ValueError as error:
        raise Damaged(f"{uri} is not JSON: {error}") from error
    except RecursionError:
        raise Damaged(f"{uri} is JSON that is nested too deeply to be a record") from None
    if not sound:
        raise Damaged(f"{uri} was changed after it was written: its {SEAL} is not that of its content")
    return record


def _rendered(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def _seal(record: dict[str, Any]) -> str:
    return hashlib.sha256(_rendered(record)).hexdigest()
