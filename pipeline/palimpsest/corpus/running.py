"""Runs at work on a corpus: one with other settings is refused before its work, instead of when it publishes.

A run keeps the object `_running/<run_id>.json` and writes it again every BEAT seconds. A marker that was not written for EXPIRES
seconds is that of a killed run; on the machine of the killed process it is recognised at once. Ages are differences between times
of the store, so the clocks of two machines need not agree.
"""

from __future__ import annotations

import os
import platform
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from palimpsest.corpus.format import KEY
from palimpsest.errors import PalimpsestError
from palimpsest.storage.object_store import NoSuchObject, ObjectStore, StoreError
from palimpsest.storage.stable_json import read_json, to_bytes

PREFIX = "_running/"
BEAT, EXPIRES = 15.0, 60.0
_TRIES = 3  # two runs that begin at the same moment see each other: both step back, and one comes first


class AlreadyRunning(PalimpsestError):
    """A run with other settings is at work on the corpus; the message names it and says what to do."""


@contextmanager
def at_work(store: ObjectStore, run_id: str, fingerprint: str, command: str) -> Iterator[None]:
    """Keep other settings off the corpus during the block.

    Raises:
        AlreadyRunning: a run of another fingerprint is at work.
        StoreError: the marker cannot be written.
    """
    key = f"{PREFIX}{run_id}.json"
    marker = {"run_id": run_id, "fingerprint": fingerprint, "command": command, "host": platform.node(), "process": os.getpid()}
    body = to_bytes(marker)
    for tries_left in reversed(range(_TRIES)):
        store.put(key, body)
        other = _other(store, key, fingerprint)
        if other is None:
            break
        store.delete(key)
        if not tries_left:
            raise _busy(store, other)
        time.sleep(random.uniform(0.2, 1.0))
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(store, key, body, ended), name="running", daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join(BEAT)
        with suppress(StoreError):
            store.delete(key)


def check_running(store: ObjectStore, fingerprint: str) -> None:
    """Raise AlreadyRunning as `at_work` would; nothing is written."""
    if other := _other(store, "", fingerprint):
        raise _busy(store, other)


def _beat(store: ObjectStore, key: str, body: bytes, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(StoreError):  # the run's own writes report a store that fails
            store.put(key, body)


def _other(store: ObjectStore, own: str, fingerprint: str) -> dict[str, Any] | None:
    """The marker of a live run of another fingerprint. Where this run has a marker (`own`), those of killed runs are removed."""
    found = {info.key: info.modified for info in store.list(PREFIX)}
    now = found.pop(own, None) or datetime.now(UTC)
    for key, modified in sorted(found.items()):
        try:
            marker = read_json(store, key)
        except NoSuchObject:
            continue
        except StoreError:  # damaged: a run, until it expires
            marker = {}
        silent = (now - modified).total_seconds()
        if abs(silent) > EXPIRES or _was_killed(marker):
            if own:
                store.delete(key)
        elif marker.get("fingerprint") != fingerprint:
            return {**marker, "key": key, "silent": max(0, round(silent))}
    return None


def _was_killed(marker: dict[str, Any]) -> bool:
    """Whether it is the marker of a process of this machine that is gone."""
    process = marker.get("process")
    if marker.get("host") != platform.node() or not isinstance(process, int) or not 0 < process < 1 << 31:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _busy(store: ObjectStore, marker: dict[str, Any]) -> AlreadyRunning:
    corpus = store.uri(KEY).removesuffix(KEY).rstrip("/")
    names = ("run_id", "command", "fingerprint", "host", "process")
    known = {name: ascii(marker.get(name, "unknown"))[:80].strip("'") for name in names}
    return AlreadyRunning(
        f"{corpus}: run {known['run_id']} is at work with other settings (palimpsest {known['command']}, fingerprint "
        f"{known['fingerprint']}, process {known['process']} on {known['host']}, last sign of life {marker['silent']} s ago). "
        f"Nothing was done. Wait until it has ended, or write another corpus (--out). If it was killed, run this command again "
        f"after {EXPIRES:.0f} s, or delete {store.uri(marker['key'])}"
    )
