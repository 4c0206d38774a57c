"""A race that a store must pass before anything is written: exactly one of several writers may win."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

from palimpsest.storage.object_store import NotExclusive, ObjectStore


def probe(store: ObjectStore, writers: int = 8, rounds: int = 2) -> None:
    """Race `writers` threads for one key, `rounds` times, and demand one winner whose bytes stay.

    Raises:
        NotExclusive: several writers win, none does, or a later one replaces the winner's bytes.
        StoreError: the storage cannot be reached or written; the message says why.
        ValueError: there are no credentials for it.
    """
    token = secrets.token_hex(8)
    store.exists(f"_probe/{token}")  # a wrong endpoint or wrong credentials are reported once, not by every writer
    for number in range(rounds):
        key = f"_probe/{token}-{number}"
        try:
            _race(store, key, [f"{token} {number} writer {writer}".encode() for writer in range(writers)])
        except NotExclusive:
            store.delete(key)
            raise
        store.delete(key)  # not after other errors: the storage may not answer any more, and gc removes it too


def _race(store: ObjectStore, key: str, bodies: list[bytes]) -> None:
    start = threading.Barrier(len(bodies))

    def write(body: bytes) -> bool:
        start.wait()
        return store.create(key, body)

    with ThreadPoolExecutor(len(bodies)) as pool:
        won = list(pool.map(write, bodies))
    if won.count(True) != 1:
        raise NotExclusive(
            f"{store.uri(key)}: {won.count(True)} of {len(bodies)} racing writers were told that they won, so this storage "
            f"{'ignores' if all(won) else 'does not keep'} the condition 'only if absent', and nothing can be published on it "
            f"safely; use one that keeps it"
        )
    if store.create(key, b"late"):
        raise NotExclusive(f"{store.uri(key)}: a conditional write to an object that was there was accepted")
    if store.read(key) != bodies[won.index(True)]:
        raise NotExclusive(f"{store.uri(key)}: the stored bytes are not those of the writer that was told that it won")
