"""Codebooks of token storage pq: immutable objects of a corpus.

_codebooks/<sha256>.safetensors   a codebook; rows name it in `token_dtype`
_codebooks/<purpose>.json         the one for a codec, a layout and a number of bits: first writer wins

A codebook is written before its purpose, and both before the first unit that needs it; a crash in between leaves a codebook that
the next run uses or gc removes. All units of one fingerprint have one codebook, so a shard of each fingerprint tells which are
needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from palimpsest.codecs.token_storage.codebook import MAX_BYTES, DamagedCodebook
from palimpsest.codecs.token_storage.pq import PREFIX as NAME
from palimpsest.codecs.token_storage.pq import add_codebook, is_known, is_name
from palimpsest.corpus.shards import TEXT_TIER, ShardRecord, read_shard
from palimpsest.corpus.units import CommitRecord
from palimpsest.storage.object_store import NoSuchObject, ObjectStore, StoreError, Unavailable
from palimpsest.storage.stable_json import READ_TRIES, Damaged, decoded, read_json, to_bytes

PREFIX = "_codebooks/"


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """`_codebooks/<purpose>.json`: what a codebook was fitted for, and its hash."""

    sha256: str
    codec: str
    codec_revision: str
    layout: str
    bits: float


def codebook_key(sha256: str) -> str:
    return f"{PREFIX}{sha256}.safetensors"


def purpose_key(**what: Any) -> str:
    """The key for a codec, a revision, a layout, its modes and a number of bits."""
    return f"{PREFIX}{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]}.json"


def read_purpose(store: ObjectStore, key: str) -> Purpose | None:
    """The purpose at `key`, or None. Raises Damaged, StoreError."""
    try:
        found = decoded(Purpose, read_json(store, key), store.uri(key), "codebook's purpose")
    except NoSuchObject:
        return None
    if not is_name(NAME + found.sha256):
        raise Damaged(f"{store.uri(key)} names the codebook {ascii(found.sha256)[:80]}, which is no sha256")
    return found


def keep_codebook(store: ObjectStore, body: bytes, key: str, about: Mapping[str, Any]) -> str:
    """Store a codebook for a purpose; returns the hash of the one that won. Raises DamagedCodebook for other bytes."""
    name = add_codebook(body)
    sha256 = name.removeprefix(NAME)
    store.create(codebook_key(sha256), body)
    store.create(key, to_bytes({"sha256": sha256, **about}))
    won = read_purpose(store, key)
    assert won is not None, "it was created, or somebody else's is there"
    return won.sha256


def read_codebook(store: ObjectStore, name: str) -> None:
    """Make the codebook of `token_dtype` `name` known to this process; other storages need none.

    Raises:
        Damaged: the name is none, or the object is missing, too large, not of its hash, or no codebook; the message names it.
        StoreError: the storage does not answer.
    """
    if name.startswith(NAME) and not is_known(name):
        _add(store, name)


def check_codebook(store: ObjectStore, name: str) -> str | None:
    """The fault of the codebook of `token_dtype` `name`, also where this process knows one of its hash; None for a sound one.

    Raises:
        Unavailable: the storage does not answer.
    """
    try:
        if name.startswith(NAME):
            _add(store, name)
    except Unavailable:
        raise
    except StoreError as error:
        return str(error)
    return None


def _add(store: ObjectStore, name: str) -> None:
    """Read a codebook, check it and make it known."""
    if not is_name(name):
        raise Damaged(f"token_dtype {ascii(name)[:90]} names no codebook: it should be pq:<sha256>")
    key = codebook_key(name.removeprefix(NAME))
    body = codebook_bytes(store, key)
    try:
        add_codebook(body)
    except DamagedCodebook as error:
        raise Damaged(f"{store.uri(key)} is no codebook: {error}") from error


def codebook_bytes(store: ObjectStore, key: str) -> bytes:
    """The bytes of a codebook, which have the hash of its name.

    Raises:
        Damaged: the object is missing, too large, or not of its hash; the message names it.
        StoreError: the storage does not answer.
    """
    uri, sha256 = store.uri(key), key.removeprefix(PREFIX).removesuffix(".safetensors")
    for _ in range(READ_TRIES):
        try:
            with store.open(key) as stream:
                body = stream.read(MAX_BYTES + 1)
        except NoSuchObject as error:
            raise Damaged(f"{uri} is missing: the codebook of tokens of this corpus") from error
        if len(body) > MAX_BYTES:
            raise Damaged(f"{uri} has more than {MAX_BYTES:,} bytes: no codebook")
        if hashlib.sha256(body).hexdigest() == sha256:
            return body
    raise Damaged(f"{uri} does not have the sha256 that its name says: the codebook is damaged")


def read_codebooks(store: ObjectStore, dtypes: pa.ChunkedArray) -> None:
    """As `read_codebook`, for all values of a column `token_dtype`."""
    for name in dtypes.unique().to_pylist():
        if name is not None:
            read_codebook(store, name)


def codebook_of(store: ObjectStore, shard: ShardRecord) -> str | None:
    """The hash of the codebook of a shard's tokens; None where they have none."""
    for name in read_shard(store, shard, ["token_dtype"])["token_dtype"].unique().to_pylist():
        if name is not None and is_name(name):
            return str(name).removeprefix(NAME)
    return None


def needed_codebooks(store: ObjectStore, units: Iterable[CommitRecord]) -> set[str]:
    """Keys of the codebooks, and of their purposes, that these units need; empty without a look at them if there is none.

    Raises:
        StoreError: no shard of a fingerprint can be read, so what its pages need is unknown.
    """
    there = {info.key for info in store.list(PREFIX)}
    if not there:
        return set()
    found: dict[str, str | None] = {}
    errors: dict[str, StoreError] = {}
    for unit in units:
        for shard in unit.shards if unit.fingerprint not in found else ():
            if shard.tier == TEXT_TIER:
                continue
            try:
                found[unit.fingerprint] = codebook_of(store, shard)
                break
            except StoreError as error:
                errors[unit.fingerprint] = error
    for fingerprint, unread in errors.items():
        if fingerprint not in found:
            raise unread
    hashes = {sha256 for sha256 in found.values() if sha256 is not None}
    keys = {codebook_key(sha256) for sha256 in hashes}
    for key in there:
        if key.endswith(".json") and (purpose := read_purpose(store, key)) is not None and purpose.sha256 in hashes:
            keys.add(key)
    return keys
